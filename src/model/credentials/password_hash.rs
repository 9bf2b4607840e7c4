//! Hashes of passwords as htpasswd files have them, and the check of a password against one.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use md5::Md5;
use sha_crypt::{Params, sha256_crypt, sha512_crypt};
use sha1::{Digest as _, Sha1};

use super::crypt64;

/// The most expensive bcrypt that is checked: a second of processor time for each password.
pub const MOST_BCRYPT_COST: u32 = 14;

/// The most rounds of SHA-256 and SHA-512 that are made.
pub const MOST_ROUNDS: u32 = 1_000_000;

/// Rounds of SHA-256 and SHA-512 where a hash does not say how many.
const DEFAULT_ROUNDS: u32 = 5_000;

/// Rounds of Apache's MD5.
const APR1_ROUNDS: u32 = 1_000;

/// One password, hashed.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    /// As it was read.
    text: Box<str>,
    scheme: Scheme,
}

/// How a password was hashed; salts and digests stand in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// `$2a$`, `$2b$`, `$2y$`.
    Bcrypt { cost: u32 },
    /// `$apr1$`: Apache's MD5.
    Apr1,
    /// `$5$`: crypt with SHA-256.
    Sha256 { rounds: u32 },
    /// `$6$`: crypt with SHA-512.
    Sha512 { rounds: u32 },
    /// `{SHA}`: SHA-1 without a salt.
    Sha1,
}

/// Why a text is no hash that passwords are checked against. Nothing of the text is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordHashError {
    /// Of crypt's old form.
    #[error("has a password hashed with DES, which is broken within hours")]
    Des,
    /// Neither of the forms.
    #[error("has a password in plain text, or hashed in a way that is not supported")]
    Unknown,
    /// Begins like one of the forms and does not go on like it.
    #[error("has a hash that is malformed or cut off")]
    Malformed,
    /// Would take too long for each request.
    #[error("has a bcrypt hash of a cost above {MOST_BCRYPT_COST}, which takes more than a second for each check")]
    Cost,
    /// The same, of the SHA forms.
    #[error("has a hash of fewer than 1000 or more than {MOST_ROUNDS} rounds")]
    Rounds,
}

impl PasswordHash {
    /// Reads a hash.
    ///
    /// # Errors
    /// For texts of other forms, and for hashes that take too long.
    pub fn parse(text: &str) -> Result<Self, PasswordHashError> {
        let scheme = Scheme::of(text)?;
        Ok(Self { text: text.into(), scheme })
    }

    /// Whether a password is the one that was hashed. Takes milliseconds to a second: that is the point of it.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        let parts = || Parts::of(&self.text).expect("parsed when it was read");
        let is_equal = |made: &str, held: &str| verify_slices_are_equal(made.as_bytes(), held.as_bytes()).is_ok();
        match self.scheme {
            Scheme::Bcrypt { .. } => bcrypt::verify(password, &self.text).unwrap_or(false),
            Scheme::Apr1 => {
                let Parts { salt, digest, .. } = parts();
                is_equal(&crypt64::encode(&apr1(password, salt.as_bytes()), &crypt64::MD5), digest)
            }
            Scheme::Sha256 { rounds } => {
                let Parts { salt, digest, .. } = parts();
                let params = Params::new(rounds).expect("checked when it was read");
                is_equal(&crypt64::encode(&sha256_crypt(password, salt.as_bytes(), params), &crypt64::SHA256), digest)
            }
            Scheme::Sha512 { rounds } => {
                let Parts { salt, digest, .. } = parts();
                let params = Params::new(rounds).expect("checked when it was read");
                is_equal(&crypt64::encode(&sha512_crypt(password, salt.as_bytes(), params), &crypt64::SHA512), digest)
            }
            Scheme::Sha1 => {
                let held = sha1_of(&self.text).expect("parsed when it was read");
                verify_slices_are_equal(&Sha1::digest(password), &held).is_ok()
            }
        }
    }

    /// As it was read: what tells one hash from another.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// About how many microseconds a check takes, to compare one hash with another.
    #[must_use]
    pub fn work(&self) -> u64 {
        match self.scheme {
            Scheme::Bcrypt { cost } => 60 << cost,
            Scheme::Apr1 => APR1_ROUNDS.into(),
            Scheme::Sha256 { rounds } | Scheme::Sha512 { rounds } => rounds.into(),
            Scheme::Sha1 => 1,
        }
    }
}

/// Says how, and nothing of what.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHash").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl Scheme {
    fn of(text: &str) -> Result<Self, PasswordHashError> {
        if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) {
            let parts = text.parse::<bcrypt::HashParts>().map_err(|_| PasswordHashError::Malformed)?;
            return match parts.get_cost() {
                4..=MOST_BCRYPT_COST => Ok(Self::Bcrypt { cost: parts.get_cost() }),
                0..4 => Err(PasswordHashError::Malformed),
                _ => Err(PasswordHashError::Cost),
            };
        }
        if text.starts_with("{SHA}") {
            return sha1_of(text).map(|_| Self::Sha1).ok_or(PasswordHashError::Malformed);
        }
        let (of_digest, name) = match text.split('$').nth(1) {
            Some("apr1") => (&crypt64::MD5[..], "apr1"),
            Some("5") => (&crypt64::SHA256[..], "5"),
            Some("6") => (&crypt64::SHA512[..], "6"),
            _ if text.len() == 13 && text.bytes().all(crypt64::has) => return Err(PasswordHashError::Des),
            _ => return Err(PasswordHashError::Unknown),
        };
        let Parts { rounds, salt, digest } = Parts::of(text).ok_or(PasswordHashError::Malformed)?;
        let is_whole = digest.len() == crypt64::length(of_digest) && digest.bytes().all(crypt64::has);
        if !is_whole || salt.is_empty() || salt.len() > 16 || (name == "apr1" && (salt.len() > 8 || rounds.is_some())) {
            return Err(PasswordHashError::Malformed);
        }
        if name == "apr1" {
            return Ok(Self::Apr1);
        }
        let rounds =
            rounds.map_or(Ok(DEFAULT_ROUNDS), |rounds| rounds.parse().map_err(|_| PasswordHashError::Rounds))?;
        match (rounds, name) {
            (1_000..=MOST_ROUNDS, "5") => Ok(Self::Sha256 { rounds }),
            (1_000..=MOST_ROUNDS, _) => Ok(Self::Sha512 { rounds }),
            _ => Err(PasswordHashError::Rounds),
        }
    }
}

/// The parts of `$NAME$SALT$DIGEST` or `$NAME$rounds=N$SALT$DIGEST`.
struct Parts<'t> {
    rounds: Option<&'t str>,
    salt: &'t str,
    digest: &'t str,
}

impl<'t> Parts<'t> {
    fn of(text: &'t str) -> Option<Self> {
        let mut parts = text.strip_prefix('$')?.split('$').skip(1).peekable();
        let rounds = parts.peek()?.strip_prefix("rounds=");
        if rounds.is_some() {
            parts.next();
        }
        let (salt, digest) = (parts.next()?, parts.next()?);
        parts.next().is_none().then_some(Self { rounds, salt, digest })
    }
}

/// The digest of `{SHA}` and base64.
fn sha1_of(text: &str) -> Option<[u8; 20]> {
    use base64::Engine as _;
    let mut digest = [0; 20];
    let encoded = text.strip_prefix("{SHA}")?;
    // Of 20 bytes in 28 characters nothing is left out.
    let length = base64::engine::general_purpose::STANDARD.decode_slice(encoded, &mut digest).ok()?;
    (length == digest.len()).then_some(digest)
}

/// Apache's variant of Poul-Henning Kamp's MD5 crypt, `apr_md5_encode` of the Apache Portable Runtime.
fn apr1(password: &[u8], salt: &[u8]) -> [u8; 16] {
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut outer = Md5::new().chain_update(password).chain_update(b"$apr1$").chain_update(salt);
    for left in (1..=password.len()).rev().step_by(16) {
        outer.update(&inner[..left.min(16)]);
    }
    let mut bits = password.len();
    while bits > 0 {
        // An empty password has no bits, so that there is a first byte.
        outer.update(if bits & 1 == 1 { &[0][..] } else { &password[..1] });
        bits >>= 1;
    }
    let mut digest: [u8; 16] = outer.finalize().into();
    for round in 0..APR1_ROUNDS {
        let (first, last) = if round % 2 == 1 { (password, &digest[..]) } else { (&digest[..], password) };
        let mut next = Md5::new().chain_update(first);
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        digest = next.chain_update(last).finalize().into();
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Apache's `htpasswd` and OpenSSL's `passwd`.
    const HASHES: &[(&str, &str)] = &[
        ("test", "$apr1$abcdefgh$/cesMUEGhga5MgaTGywaW0"),
        ("test", "$5$saltstring$uzdVN3XcAOYKRlFzn8F5/iMpo99aMD8sXQTYY9P10Z8"),
        (
            "test",
            "$6$saltstring$ZaKVNWbveiGcCq16EkwiSQlt9qdrq2SpD7228mu4mx8wJCGfB34lPhtxQVdO6NHC4yEVlMJBxcIh3g6eko7AB.",
        ),
        ("correct horse battery staple", "$apr1$abcdefgh$5MT.bUwCwhCf2blpqTwiG/"),
        ("correct horse battery staple", "$5$saltstring$hixOXgchwauyzVtlSM/e7UnQx0qiTk74JE/YU53IbE0"),
        (
            "correct horse battery staple",
            "$6$saltstring$qvPJY4PeugKzKQqyIJ0gRdJnpS0uaaiZ.X1SaheFedsK/yZPwlluTLS90fJPM41sD5JxCHKgGr1..qt5HqEY8.",
        ),
        ("pässwörd", "$apr1$abcdefgh$030j6I3f1zNCF9tihqdd11"),
        ("pässwörd", "$5$saltstring$bWOoCRTKNT.aiY/gJjvk1HjBYuRpcYQmcc5hqf6H4T4"),
        (
            "pässwörd",
            "$6$saltstring$6PSVl254uv0cWCoUS0qzSX5NenRA/YFCwPzGA9ONu.MmmxqXTWHerEzD8WyuBl3ukfIZZU9uxLD6Bn6p7S3rG.",
        ),
        ("test", "$2y$04$Bg4spilr1Y9OwXCR6K7trePpE91BBXaQBgQl5ZeeNowIwdz5GC5Xm"),
        ("test", "$apr1$jA1r24YD$.2YdDX0D./4TwbPjj/h5w1"),
        ("test", "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M="),
        ("test", "$5$rounds=1000$/9rYZUHfYBeDAFNX$hlBSZDljm8n3.kzAaVCZFz5fNQiVUObt9VHimAKL5Z5"),
        (
            "test",
            "$6$rounds=1234$RZK1VBCCzfZNEjMZ$b7E9duzOfMHWpfIxYsxeYjBld1EiAvEbcNZx66hy7/6edmjTlLxiZITFd1MchwdLlicDB8svEMayT5ny2BKD61",
        ),
        (
            "test",
            "$6$LrPLpi1ant1BPNqt$RKw0Na/6dECO2NvjkiX24i/R5ODB9XN1pVke.whU3tcynX8r/nx.9co02BymU2fjJkoB9Xa9ysHHkCgEnhAOj0",
        ),
        ("correct horse battery staple", "$2y$04$Woor5IdK0no1NldrAgtcm.cK8qNEp3b0J5HJKbOO0TtRiSuq5M70O"),
        ("correct horse battery staple", "$apr1$3xHVqvct$5kCyilkBwhvk1asWDa3F2/"),
        ("correct horse battery staple", "{SHA}q/eq1kOINtvlJqojGr3i0O73TUI="),
        ("correct horse battery staple", "$5$rounds=1000$jtkQYQljaw3fSEhh$W4fSR4lO/h3STkzSBqpJhb4muqpeyvMrVzTmbVs8kc8"),
        (
            "correct horse battery staple",
            "$6$rounds=1234$3k/EFnZkRrvPVPgL$eLEO/C0dtJn6vSArQw3WocroOX9XOFXnGrS3KgS4LJ.Nxu8UnF97i3ie2Yhg5Su5jf3xrWtEdNnCSuRzNVji81",
        ),
        (
            "correct horse battery staple",
            "$6$nXmofkWLDLfHLjd2$5/gMksGNp9XIT3c69wLfGgkOhIOVlPuIQC4UHGWMgTQR42e213fBFh6jrgR2j2rp2e3/Ds/uo6eIz4K0yq.DY/",
        ),
        ("xxxxxxxxxxxxxxx", "$apr1$s$8G6wem9Lx9IX6iLu1N2Bg."),
        ("xxxxxxxxxxxxxxxx", "$apr1$s$tGyojr2hKrz9wPUD.f7930"),
        ("xxxxxxxxxxxxxxxxx", "$apr1$s$QL63IGI2mZ73ci/PC/E.M."),
        ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "$apr1$s$di0r0Gmw85Za/Vj7uDyAt/"),
        ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "$apr1$s$oiEmmseCuRUJSCQbrdMwm1"),
        (
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "$apr1$s$c3neUURBUyh0fEXOLm2Rf.",
        ),
        (
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "$5$0123456789abcdef$aKdz8fxxSEF2.sRL0xIqHdch3EAvPX6eVmzomlrlwFC",
        ),
        (
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "$6$0123456789abcdef$hdKQR3U1ofzUBt70lpJrj9gRNuOHUPP5vMHbJtWeAVw9d3x7kUXPRZHmXi8rquaE8P8IDbMUrlAn6yB.w0e9w1",
        ),
    ];

    #[test]
    fn each_form_admits_its_password_and_no_other() {
        for (password, text) in HASHES {
            let hash = PasswordHash::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert!(hash.verify(password.as_bytes()), "{text}");
            for other in ["", "x", &format!("{password}x"), &password.to_uppercase()] {
                assert!(other == *password || !hash.verify(other.as_bytes()), "{text} by {other:?}");
            }
            assert!(!format!("{hash:?}").contains(&text[text.len() - 8..]), "{hash:?}");
        }
    }

    #[test]
    fn what_is_weak_or_dear_or_broken_is_told_apart() {
        use PasswordHashError::{Cost, Des, Malformed, Rounds, Unknown};
        let digest = |length| "a".repeat(length);
        // The last letter of a salt has two bits.
        let bcrypt = |cost: &str| format!("$2y${cost}${}e{}", digest(21), digest(31));
        for (text, expected) in [
            ("rqXexS6ZhobKA".to_owned(), Des),
            ("secret".to_owned(), Unknown),
            ("{PLAIN}secret".to_owned(), Unknown),
            ("{SSHA}c2VjcmV0".to_owned(), Unknown),
            (format!("$1$salt${}", digest(22)), Unknown),
            (String::new(), Unknown),
            (bcrypt("15"), Cost),
            (bcrypt("10") + "a", Malformed),
            (bcrypt("03"), Malformed),
            ("{SHA}c2VjcmV0".to_owned(), Malformed),
            (format!("$apr1$salt${}", digest(21)), Malformed),
            (format!("$apr1$saltsalts${}", digest(22)), Malformed),
            (format!("$apr1$salt${}!", digest(21)), Malformed),
            ("$apr1$salt".to_owned(), Malformed),
            (format!("$5$salt${}$", digest(43)), Malformed),
            (format!("$5$${}", digest(43)), Malformed),
            (format!("$5$rounds=999$salt${}", digest(43)), Rounds),
            (format!("$6$rounds=1000001$salt${}", digest(86)), Rounds),
            (format!("$6$rounds=x$salt${}", digest(86)), Rounds),
        ] {
            assert_eq!(PasswordHash::parse(&text), Err(expected), "{text}");
        }
    }

    #[test]
    fn dearer_hashes_have_more_work() {
        let work = |text: &str| PasswordHash::parse(text).expect("a hash").work();
        let bcrypt = work("$2y$10$aaaaaaaaaaaaaaaaaaaaaeaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
        let sha512 = work(&format!("$6$salt${}", "a".repeat(86)));
        let apr1 = work(&format!("$apr1$salt${}", "a".repeat(22)));
        assert!(bcrypt > sha512 && sha512 > apr1 && apr1 > work("{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M="));
    }
}
