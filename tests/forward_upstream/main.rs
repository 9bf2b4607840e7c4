//! The upstream half of the data plane, end to end over loopback: a real client connection in front, scripted endpoints
//! behind, everything on one thread.

mod bed;
mod deadlines;
mod http1;
mod http2;
mod log;
mod retry;
mod streaming;
