//! The upstream half of the data plane, end to end over loopback: a real client connection in front, scripted endpoints
//! behind, everything on one thread.

#![allow(clippy::unwrap_used, reason = "in tests a failed expectation is the point")]

mod balance;
mod bed;
mod cost;
mod cut_streams;
mod deadlines;
mod filters;
mod grpc;
mod hostile;
mod hostile_http2;
mod http1;
mod http2;
mod http2_connections;
mod log;
mod outlier;
mod quiet;
mod retry;
mod retry_policy;
mod streaming;
mod targets;
mod uploads;
