//! Passwords that are to be checked, and those that were right: a check takes too long to be made for every request.

use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustc_hash::FxHashMap;

use crate::model::credentials::{PasswordFile, PasswordHash, User};

/// For how long a password that was right is not checked again.
const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// Most passwords that one worker remembers; 48 bytes each.
const MOST: usize = 4_096;

/// What digests of this process begin with, so that they are worth nothing elsewhere.
static PROCESS_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).expect("the system has randomness");
    key
});

/// Stands for a password together with its user and the hash that it is checked against: as soon as a user has another
/// hash, nothing that was remembered fits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CheckDigest([u8; SHA256_OUTPUT_LEN]);

impl CheckDigest {
    fn new(user: Option<&User>, hash: &PasswordHash, password: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&*PROCESS_KEY);
        // With their lengths, so that no other parts come to the same text.
        let name = user.map_or("", |user| &*user.name);
        for part in [name, hash.as_str()] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        context.update(password);
        let digest = context.finish();
        let bytes: &[u8] = digest.as_ref();
        Self(bytes.try_into().expect("a digest of SHA-256 has 32 bytes"))
    }
}

impl fmt::Debug for CheckDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckDigest")
    }
}

/// A password that is to be checked.
pub struct PasswordCheck {
    file: Arc<PasswordFile>,
    /// `None`: there is no such user.
    user: Option<Arc<str>>,
    password: Box<[u8]>,
    /// The network of the client that has sent it: what one client has.
    pub client: IpAddr,
    /// The same for equal checks.
    pub digest: CheckDigest,
}

impl PasswordCheck {
    /// Of a user of a file, or of nobody, who takes as long; `None` where the file has no users at all.
    pub(super) fn new(file: &Arc<PasswordFile>, user: Option<&str>, password: &[u8], client: IpAddr) -> Option<Self> {
        let user = user.and_then(|user| file.user(user));
        let hash = user.map_or_else(|| file.stand_in(), |user| Some(&user.hash))?;
        let digest = CheckDigest::new(user, hash, password);
        let user = user.map(|user| Arc::clone(&user.name));
        Some(Self { file: Arc::clone(file), user, password: password.into(), client: network(client), digest })
    }

    /// Whether the user is there.
    pub(super) fn is_of_user(&self) -> bool {
        self.user.is_some()
    }

    /// Whether it is the password of the user. Takes milliseconds to a second of processor time.
    #[must_use]
    pub fn verify(&self) -> bool {
        match self.user.as_deref().and_then(|user| self.file.user(user)) {
            Some(user) => user.hash.verify(&self.password),
            None => {
                let _ = self.file.stand_in().map(|hash| hash.verify(&self.password));
                false
            }
        }
    }
}

/// An IPv4 address, also one mapped into IPv6, or the /64 of an IPv6 address, which is what one client has (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Says nothing of the password.
impl fmt::Debug for PasswordCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordCheck").field("client", &self.client).finish_non_exhaustive()
    }
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordVerdict {
    /// It is the user's.
    Right,
    /// It is not.
    Wrong,
    /// Too many wait to be checked.
    Busy,
}

/// Passwords that were right, on one worker; wrong ones are never remembered.
#[derive(Debug, Default)]
pub(super) struct RightPasswords {
    until: RefCell<FxHashMap<CheckDigest, Instant>>,
}

impl RightPasswords {
    /// Whether a password was right within the last five minutes.
    pub(super) fn has(&self, digest: CheckDigest, now: Instant) -> bool {
        self.until.borrow().get(&digest).is_some_and(|until| now < *until)
    }

    /// Remembers one.
    pub(super) fn add(&self, digest: CheckDigest, now: Instant) {
        let mut until = self.until.borrow_mut();
        if until.len() >= MOST {
            until.retain(|_, until| now < *until);
        }
        if until.len() >= MOST {
            // Whoever has so many users at the same time has them checked again now and then.
            until.clear();
        }
        until.insert(digest, now + LIFETIME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_right_is_remembered_for_a_while_and_in_bounds() {
        let file = |hash: &str| Arc::new(PasswordFile::parse(format!("ada:{hash}").as_bytes()).expect("a file"));
        let (one, other) = ("{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=", "{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let digest = |file: &Arc<PasswordFile>, password: &[u8]| {
            PasswordCheck::new(file, Some("ada"), password, [192, 0, 2, 1].into()).expect("a user").digest
        };
        let (passwords, start) = (RightPasswords::default(), Instant::now());
        let right = digest(&file(one), b"test");
        passwords.add(right, start);
        assert!(passwords.has(right, start + LIFETIME - Duration::from_secs(1)));
        assert!(!passwords.has(right, start + LIFETIME));
        assert!(!passwords.has(digest(&file(one), b"Test"), start), "another password");
        assert!(!passwords.has(digest(&file(other), b"test"), start), "another hash of the same user");
        for number in 0..2 * MOST as u64 {
            passwords.add(digest(&file(one), &number.to_le_bytes()), start);
        }
        assert!(passwords.until.borrow().len() <= MOST);
    }

    #[test]
    fn a_client_has_its_whole_network() {
        for (one, other, is_same) in [
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            let network = |text: &str| network(text.parse().expect("an address"));
            assert_eq!(network(one) == network(other), is_same, "{one} {other}");
        }
    }

    #[test]
    fn nobody_is_never_right_and_takes_a_check_all_the_same() {
        let file = Arc::new(PasswordFile::parse(b"ada:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=").expect("a file"));
        let check = |user| PasswordCheck::new(&file, user, b"test", [192, 0, 2, 1].into());
        assert!(check(Some("ada")).expect("a check").verify());
        assert!(!check(Some("bob")).expect("a check").verify() && !check(None).expect("a check").verify());
        let empty = Arc::new(PasswordFile::parse(b"").expect("a file"));
        assert!(PasswordCheck::new(&empty, Some("ada"), b"test", [192, 0, 2, 1].into()).is_none());
        assert!(!format!("{:?}", check(Some("ada"))).contains("116, 101"), "no byte of it");
    }
}
