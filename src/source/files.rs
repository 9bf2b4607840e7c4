//! Objects from a directory of manifests.
//!
//! * [`yaml`]: text to documents, documents to values, field paths to places.
//! * [`document`]: values to validated objects.
//! * [`state`]: last good state of a directory, without files, threads and clocks.
//! * [`watcher`]: the thread that feeds it.

pub mod document;
pub mod state;
pub mod watcher;
pub mod yaml;

pub use watcher::{FileSource, StartError, Update};
