//! tidegate: a Kubernetes ingress controller and sidecar in one binary.
//!
//! Two halves share one immutable value:
//!
//! ```text
//!        control half (multi-thread runtime)                  data half (one current_thread runtime per core)
//!
//! files or API server                                           a client's connection
//!     │                                                            │
//!  source ─► Inputs ─► compile ─► Snapshot ─► live ──► &Live    listener ─► guarded io ─► parse ─► head check
//!                         │                              │                                            │
//!                    Diagnostics                 one per request ─► match ─► filters in ─► pick ─► connect ─► send
//!                         │                                                     respond ◄─ filters out ◄───────┘
//!                 log, check, status
//! ```
//!
//! A configuration change is a value that walks once from a [`source`] to [`live`]; a request is a value that walks once
//! through the phases of [`proxy::forward`]; [`proxy`] lists the files on its way. They meet in one place, the pointer to
//! [`live::Live`]. Nothing else is shared but counters, the current numbers of endpoints, and [`sockets`], which only an
//! upgrade touches.
//!
//! In reading order:
//!
//! * [`api`]: what users write. [`kinds`]: the kinds of objects that are read. [`model`]: what requests are answered
//!   from.
//! * [`compile`]: the one pure function from the first to the second. [`source`]: fills its inputs. [`kubernetes`]: the
//!   connection to an API server.
//! * [`balance`]: chooses endpoints. [`filter`]: the layers around a request. [`tls`]: handshakes with clients. [`live`]:
//!   publishes all of it as one.
//! * [`stream`]: a connection's bytes. [`http1`]: our own wire code. [`proxy`]: the data plane. [`sockets`]: the registry
//!   of open WebSockets.
//! * [`health`]: asks endpoints whether they are well. [`keys`]: fetches the keys of tokens, with [`fetch`]. [`status`]: what
//!   the cluster is told about its routes.
//! * [`telemetry`], [`admin`], [`readiness`], [`drain`], [`reason`], [`settings`]: what operators see and set.
//! * [`fields`], [`text`], [`timer`]: header names with a meaning, texts that several layers read, and deadlines.
//! * [`sidecar`]: what serves one application instead of a cluster. [`forward_proxy`]: takes its requests by `HTTP_PROXY`.
//! * [`app`]: the only wiring place. [`cli`], [`check`], [`inject`], [`demo`], [`probe`]: the commands.
//!
//! `tests/layering.rs` holds the arrows of allowed imports.

/// Lets tests in here use what integration tests use.
#[cfg(test)]
extern crate self as tidegate;

pub mod admin;
pub mod api;
pub mod app;
pub mod balance;
pub mod check;
pub mod cli;
pub mod compile;
pub mod demo;
pub mod drain;
pub mod fetch;
pub mod fields;
pub mod filter;
pub mod forward_proxy;
pub mod health;
pub mod http1;
pub mod inject;
pub mod keys;
pub mod kinds;
pub mod kubernetes;
pub mod live;
pub mod model;
pub mod probe;
pub mod proxy;
pub mod readiness;
pub mod reason;
pub mod settings;
pub mod sidecar;
pub mod sockets;
pub mod source;
pub mod status;
pub mod stream;
pub mod telemetry;
pub mod text;
pub mod timer;
pub mod tls;
