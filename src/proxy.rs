//! The data plane: listeners, client connections, forwarding, connections to endpoints.
//!
//! Each worker has a thread, sockets, pools and counters of its own. The way of a request through the files:
//!
//! 1. [`listeners`] open and close; [`listener`] accepts the connection, [`room`] has a place for it, `proxy_header`
//!    reads whose it is where a load balancer tells that, and `handshake` secures it where TLS is spoken. [`connection`]
//!    drives it: protocol, deadlines, and the end. [`pressure`] says what is given up while memory is short, and
//!    [`admission`] how many new clients fit into what is left.
//! 2. [`guarded_io`] gives out only messages whose head is well formed, and [`received_body`] their bodies; [`head`]
//!    checks the parsed head, for HTTP/1 and HTTP/2 alike. What is accepted goes through the boundary [`downstream`] to
//!    `handler`.
//! 3. [`forward`] has the phases. `begin` makes an `exchange`, `decision` finds the rule and the endpoint, `session`
//!    the one that the client was at before, `layers` runs the filters, and `ask` answers what these ask; [`passwords`]
//!    makes the checks of passwords beside the workers. What filters send of their own begins in `own_request`: `call` has
//!    an answer that is waited for, `mirror` has copies. `flight` makes the call that equal requests share.
//! 4. `attempt` is one try at one endpoint, over HTTP/1 or HTTP/2, on a connection of [`upstream`]; `next_try` and
//!    [`retry`] decide whether there is another one; `trial` lets one connect go ahead; `held` keeps an answer meanwhile.
//!    `bad_response` notes answers that are malformed.
//! 5. [`headers`] and [`body`] bring the answer to the client; [`error`] and [`own_answer`] are the tables for what
//!    tidegate answers itself. `account` counts and logs the request, whichever way it ended.
//!
//! A WebSocket leaves this way at its `101`: `upgrade` hands it to a [`tunnel`]. When the process stops, or a listener
//! closes, [`worker_drain`] tells its connections.

mod account;
pub mod admission;
mod ask;
mod asked;
mod attempt;
mod bad_response;
mod begin;
pub mod body;
mod call;
mod client_body;
mod client_end;
mod connect;
pub mod connection;
mod copies;
mod cutoff;
mod deadlines;
mod decision;
pub mod downstream;
mod entries;
pub mod error;
mod exchange;
mod flight;
pub mod forward;
mod grpc;
pub mod guarded_io;
mod handler;
mod handshake;
pub mod head;
pub mod headers;
mod held;
mod layers;
pub mod listener;
pub mod listeners;
mod mirror;
mod next_try;
mod outcome;
pub mod own_answer;
mod own_request;
pub mod passwords;
mod place;
pub mod pressure;
mod proxy_header;
pub mod rate;
pub mod received_body;
mod refusals;
mod relay;
mod replay;
pub mod retry;
pub mod room;
mod session;
mod task;
mod tee;
#[cfg(test)]
mod test_panics;
mod trial;
pub mod tunnel;
mod turn_round;
mod upgrade;
pub mod upstream;
mod upstream_http2;
mod waiting;
pub mod worker;
pub mod worker_drain;
