//! What clients prove who they are with, as it is held: nothing here can be turned back into keys or passwords.

mod api_keys;
mod crypt64;
mod password_file;
mod password_hash;

pub use api_keys::{ApiKeys, KeyClient, KeyDoubt};
pub use password_file::{PasswordFile, PasswordFileError, User};
pub use password_hash::{PasswordHash, PasswordHashError};
