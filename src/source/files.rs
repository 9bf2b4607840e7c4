//! Objects from a directory of manifests.

pub mod yaml;
