//! As much of a certificate's encoding (X.690 DER, RFC 5280 §4.1) as is needed to know when it is valid.

/// Tags of X.690.
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const PRINTABLE_STRING: u8 = 0x13;
pub(super) const TELETEX_STRING: u8 = 0x14;
pub(super) const IA5_STRING: u8 = 0x16;
/// `[0] EXPLICIT`: the version of a certificate.
const VERSION: u8 = 0xa0;

/// From when and until when a certificate is valid, in seconds since 1970. `None` for what is no certificate.
pub(super) fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (validity, _) = element(behind_issuer(certificate)?, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some((from, until))
}

/// The name of a certificate's subject, as it is encoded. `None` for what is no certificate.
pub(super) fn subject(certificate: &[u8]) -> Option<&[u8]> {
    let (_validity, fields) = element(behind_issuer(certificate)?, SEQUENCE)?;
    let (subject, _) = element(fields, SEQUENCE)?;
    Some(subject)
}

/// The fields of a certificate behind its issuer.
fn behind_issuer(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields, VERSION)?.1;
    }
    let (_, fields) = element(fields, INTEGER)?;
    let (_signature, fields) = element(fields, SEQUENCE)?;
    let (_issuer, fields) = element(fields, SEQUENCE)?;
    Some(fields)
}

/// The content of the first element, which must have a tag, and what follows it.
pub(super) fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = any(bytes)?;
    (found == tag).then_some((content, rest))
}

/// Tag and content of the first element, and what follows it.
pub(super) fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // A certificate has fewer than 2^32 bytes.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// A time as RFC 5280 §4.1.2.5 has it, and what follows it.
fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, has_century) = match *bytes.first()? {
        UTC_TIME => element(bytes, UTC_TIME).map(|(text, rest)| (text, rest, false))?,
        GENERALIZED_TIME => element(bytes, GENERALIZED_TIME).map(|(text, rest)| (text, rest, true))?,
        _ => return None,
    };
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, digits) = digits.split_at_checked(if has_century { 4 } else { 2 })?;
    let mut year: i16 = number(year)?;
    if !has_century {
        year += if year < 50 { 2000 } else { 1900 };
    }
    let mut two = digits.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).ok().and_then(number::<i8>));
    let mut next = || two.next().flatten();
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    let time = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    let time = jiff::tz::Offset::UTC.to_timestamp(time).ok()?;
    (digits.len() == 10).then_some((time.as_second(), rest))
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_rfc_5280() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "500101000000Z", Some(-631_152_000)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (GENERALIZED_TIME, "20501301000000Z", None),
            (GENERALIZED_TIME, "2050010100000Z", None),
            (GENERALIZED_TIME, "205001010000001Z", None),
            (UTC_TIME, "700101000000", None),
            (UTC_TIME, "70010100000+Z", None),
            (UTC_TIME, "", None),
        ] {
            let length = u8::try_from(text.len()).expect("short");
            let bytes = [&[tag, length], text.as_bytes(), b"rest"].concat();
            assert_eq!(time(&bytes), expected.map(|seconds| (seconds, &b"rest"[..])), "{text}");
        }
    }

    #[test]
    fn what_is_cut_off_or_longer_than_it_says_is_no_certificate() {
        let parameters = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("signed");
        let whole = certificate.der();
        let (from, until) = validity(whole).expect("a certificate");
        assert!(from < until);
        for length in 0..whole.len().min(200) {
            assert_eq!(validity(&whole[..length]), None, "{length}");
        }
        assert_eq!(validity(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), None);
        assert_eq!(validity(&[SEQUENCE, 0x80, 0, 0]), None);
    }
}
