//! Users with their passwords, as Apache's `htpasswd` writes them.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use rustc_hash::FxHashMap;

use super::password_hash::{PasswordHash, PasswordHashError};

/// Most users of one file.
const MOST_USERS: usize = 10_000;

/// Most bytes of one file.
const MOST_BYTES: usize = 1 << 20;

/// A user that has a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: Arc<str>,
    /// The same, as a field has it.
    pub value: HeaderValue,
    /// Its password.
    pub hash: PasswordHash,
}

/// Users by name.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordFile {
    users: FxHashMap<Arc<str>, User>,
    /// What passwords of users that are not there are checked against.
    dearest: Option<PasswordHash>,
    /// Numbers of lines whose user stands further up, too.
    again: Vec<usize>,
}

/// Why a file cannot be used: a line that nobody can be let in by would hide that somebody is missing. Nothing of the line
/// is told, since all of it may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordFileError {
    /// It is too large.
    #[error("has more than {MOST_BYTES} bytes")]
    Size,
    /// It has too many users.
    #[error("has more than {MOST_USERS} users")]
    Users,
    /// A line, by its number, is not of the form `USER:HASH`.
    #[error("line {0} is not of the form USER:HASH, in UTF-8")]
    Line(usize),
    /// The hash of a line, by its number.
    #[error("line {0} {1}")]
    Hash(usize, PasswordHashError),
}

impl PasswordFile {
    /// The field of a Secret that has the file.
    pub const FIELD: &str = "auth";

    /// Reads a file: a user in each line, `USER:HASH`; what stands behind a further colon, empty lines and those that begin
    /// with `#` say nothing. Of two lines for a user the first counts, as in Apache and nginx.
    ///
    /// # Errors
    /// When it is too large, or a line cannot be used.
    pub fn parse(bytes: &[u8]) -> Result<Self, PasswordFileError> {
        if bytes.len() > MOST_BYTES {
            return Err(PasswordFileError::Size);
        }
        let mut file = Self { users: FxHashMap::default(), dearest: None, again: Vec::new() };
        for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
            let malformed = || PasswordFileError::Line(number);
            let line = std::str::from_utf8(line).map_err(|_| malformed())?.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, rest) = line.split_once(':').ok_or_else(malformed)?;
            let hash = rest.split(':').next().unwrap_or_default();
            let value = HeaderValue::from_bytes(name.as_bytes()).ok().filter(|_| !name.is_empty());
            let value = value.ok_or_else(malformed)?;
            let hash = PasswordHash::parse(hash).map_err(|why| PasswordFileError::Hash(number, why))?;
            if file.users.contains_key(name) {
                file.again.push(number);
                continue;
            }
            if file.users.len() == MOST_USERS {
                return Err(PasswordFileError::Users);
            }
            if file.dearest.as_ref().is_none_or(|dearest| dearest.work() < hash.work()) {
                file.dearest = Some(hash.clone());
            }
            let name: Arc<str> = name.into();
            file.users.insert(Arc::clone(&name), User { name, value, hash });
        }
        Ok(file)
    }

    /// The user of a name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// What the password of somebody who is not there is checked against, so that the time of the answer does not tell who is:
    /// the hash of the file that takes longest. `None`: nobody is there.
    #[must_use]
    pub fn stand_in(&self) -> Option<&PasswordHash> {
        self.dearest.as_ref()
    }

    /// Numbers of the lines whose user stands further up, too.
    #[must_use]
    pub fn repeated_lines(&self) -> &[usize] {
        &self.again
    }
}

/// Says how many there are, and nothing of any.
impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordFile").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=";

    #[test]
    fn users_are_read_as_apache_reads_them() {
        let text =
            format!("# ours\n\nada:{ONE}\r\n  bob:{ONE}:Bob\nada:{}\nzoë:{ONE}", "{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let file = PasswordFile::parse(text.as_bytes()).expect("a file");
        assert!(file.user("ada").expect("there").hash.verify(b"test"), "the first line counts");
        assert!(file.user("bob").is_some() && file.user("Ada").is_none() && file.user("").is_none());
        assert_eq!(file.user("zoë").expect("there").value.as_bytes(), "zoë".as_bytes());
        assert_eq!((file.repeated_lines(), file.stand_in().map(PasswordHash::as_str)), (&[5][..], Some(ONE)));
        assert_eq!(format!("{file:?}"), "PasswordFile { users: 3, .. }");
        let empty = PasswordFile::parse(b"\n# nobody\n").expect("a file");
        assert!(empty.stand_in().is_none());
    }

    #[test]
    fn a_line_that_cannot_be_used_is_told_by_number_alone() {
        let good = format!("ada:{ONE}\n");
        let many: String = (0..=MOST_USERS).map(|number| format!("u{number}:{ONE}\n")).collect();
        for (text, expected) in [
            (format!("{good}secret"), "line 2 is not of the form USER:HASH, in UTF-8"),
            (format!("{good}:{ONE}"), "line 2 is not of the form USER:HASH, in UTF-8"),
            (format!("{good}b\u{1}b:{ONE}"), "line 2 is not of the form USER:HASH, in UTF-8"),
            (
                format!("{good}\nbob:secret"),
                "line 3 has a password in plain text, or hashed in a way that is not supported",
            ),
            ("bob:rqXexS6ZhobKA".to_owned(), "line 1 has a password hashed with DES, which is broken within hours"),
            (many, "has more than 10000 users"),
            ("#".repeat(MOST_BYTES + 1), "has more than 1048576 bytes"),
        ] {
            let why = PasswordFile::parse(text.as_bytes()).expect_err("refused");
            assert_eq!(why.to_string(), expected);
        }
        assert_eq!(PasswordFile::parse(b"a\xff:x").expect_err("refused"), PasswordFileError::Line(1));
    }
}
