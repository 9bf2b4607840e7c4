//! Which content coding a client wants (RFC 9110 §12.5.3).

use http::HeaderValue;

use crate::model::filter::ContentCoding;

/// A weight in thousandths.
type Weight = u16;

/// What `accept-encoding` says.
#[derive(Debug, Default)]
struct Weights {
    codings: [Option<Weight>; ContentCoding::ALL.len()],
    identity: Option<Weight>,
    others: Option<Weight>,
}

/// The coding of those `offered`, in order of preference, that the client weighs most; `None`: the content as it is.
///
/// A client that sends no `accept-encoding` gets the content as it is: what it is able to read is not known.
pub(super) fn best<'h>(
    lines: impl IntoIterator<Item = &'h HeaderValue>,
    offered: &[ContentCoding],
) -> Option<ContentCoding> {
    let mut weights = Weights::default();
    for line in lines {
        let Ok(line) = line.to_str() else { continue };
        line.split(',').for_each(|element| weights.add(element));
    }
    let least = weights.identity.unwrap_or(0).max(1);
    let mut best: Option<(ContentCoding, Weight)> = None;
    for &coding in offered {
        let weight = weights.codings[coding as usize].or(weights.others).unwrap_or(0);
        if weight >= least && best.is_none_or(|(_, most)| weight > most) {
            best = Some((coding, weight));
        }
    }
    best.map(|(coding, _)| coding)
}

impl Weights {
    /// Adds an element. One that is malformed says nothing.
    fn add(&mut self, element: &str) {
        let mut parts = element.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = match (parts.next(), parts.next()) {
            (None, _) => 1_000,
            (Some(parameter), None) => match weight(parameter) {
                Some(weight) => weight,
                None => return,
            },
            (Some(_), Some(_)) => return,
        };
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let place = if is("*") {
            &mut self.others
        } else if is("identity") {
            &mut self.identity
        } else if is("x-gzip") {
            &mut self.codings[ContentCoding::Gzip as usize]
        } else if let Some(coding) = ContentCoding::ALL.iter().find(|coding| is(coding.as_str())) {
            &mut self.codings[*coding as usize]
        } else {
            return;
        };
        // Of two elements with one name the greater weight counts.
        *place = Some(place.map_or(weight, |before| before.max(weight)));
    }
}

/// `q=0.123` (RFC 9110 §12.4.2).
fn weight(parameter: &str) -> Option<Weight> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{fraction:0<3}").parse::<Weight>().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[ContentCoding] = &[ContentCoding::Brotli, ContentCoding::Gzip, ContentCoding::Zstd];
    const ZSTD_FIRST: &[ContentCoding] = &[ContentCoding::Zstd, ContentCoding::Gzip];

    #[test]
    fn the_greatest_weight_wins_and_preference_decides_between_equals() {
        use ContentCoding::{Brotli, Gzip, Zstd};
        for (accepts, offered, expected) in [
            ("", ALL, None),
            ("gzip", ALL, Some(Gzip)),
            ("x-gzip", ALL, Some(Gzip)),
            ("GZip", ALL, Some(Gzip)),
            ("gzip, deflate, br, zstd", ALL, Some(Brotli)),
            ("gzip, deflate, br, zstd", ZSTD_FIRST, Some(Zstd)),
            ("br", ZSTD_FIRST, None),
            ("deflate", ALL, None),
            ("gzip;q=1.0, br;q=0.9", ALL, Some(Gzip)),
            ("gzip;q=0.5, br;q=0.501", ALL, Some(Brotli)),
            ("gzip; q=0.5 ,zstd ; q=0.50", ALL, Some(Gzip)),
            ("gzip;q=0", ALL, None),
            ("gzip;q=0.000, br;q=0", ALL, None),
            ("gzip;q=0.001", ALL, Some(Gzip)),
            ("*", ALL, Some(Brotli)),
            ("*;q=0", ALL, None),
            ("gzip, *;q=0", ALL, Some(Gzip)),
            ("br;q=0, *", ALL, Some(Gzip)),
            ("*;q=0.1, zstd;q=0.2", ALL, Some(Zstd)),
            ("identity", ALL, None),
            ("identity, gzip", ALL, Some(Gzip)),
            ("identity, gzip;q=0.9", ALL, None),
            ("identity;q=0.5, gzip;q=0.9", ALL, Some(Gzip)),
            ("identity;q=0, gzip;q=0.1", ALL, Some(Gzip)),
            ("identity;q=0", ALL, None),
            ("gzip;q=2", ALL, None),
            ("gzip;q=1.001", ALL, None),
            ("gzip;q=0.1234", ALL, None),
            ("gzip;q=", ALL, None),
            ("gzip;q=-1", ALL, None),
            ("gzip;level=9", ALL, None),
            ("gzip;q=1;x=y, br;q=0.1", ALL, Some(Brotli)),
            (",, ,gzip,,", ALL, Some(Gzip)),
            ("gzip;q=0, gzip", ALL, Some(Gzip)),
            ("gzipped", ALL, None),
            ("gzip br", ALL, None),
        ] {
            let line = HeaderValue::from_static(accepts);
            assert_eq!(best([&line], offered), expected, "{accepts}");
        }
        let lines = ["br;q=0.5", "gzip"].map(HeaderValue::from_static);
        assert_eq!(best(&lines, ALL), Some(Gzip), "two lines are one list");
        assert_eq!(best([], ALL), None);
    }
}
