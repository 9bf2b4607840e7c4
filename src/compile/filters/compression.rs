//! Compression.

use super::faults::Faults;
use super::list::List;
use crate::api::filter as api;
use crate::api::filter::CompressionAlgorithm;
use crate::api::open_enum::KnownValue;
use crate::compile::report::FieldPath;
use crate::model::filter::{Compression, ContentCoding, MediaRange};

/// Checks a compression; `position` is its place among those of the list.
pub(super) fn compression(
    compression: &api::Compression,
    (list, position): (&List<'_>, usize),
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<Compression> {
    let before = report.count;
    let mut codings = Vec::with_capacity(compression.algorithms.len());
    for (index, algorithm) in compression.algorithms.iter().enumerate() {
        let at = at.item("algorithms", index);
        let Some(algorithm) = algorithm.known() else {
            report.report.unknown(report.rule, at, algorithm);
            report.count += 1;
            continue;
        };
        let coding = match algorithm {
            CompressionAlgorithm::Brotli => ContentCoding::Brotli,
            CompressionAlgorithm::Gzip => ContentCoding::Gzip,
            CompressionAlgorithm::Zstd => ContentCoding::Zstd,
        };
        if codings.contains(&coding) {
            report.drop_rule(at, format!("{:?} once more", algorithm.as_str()), "each algorithm once");
        }
        codings.push(coding);
    }
    if compression.algorithms.is_empty() {
        report.drop_rule(at.field("algorithms"), "none", "at least one of br, gzip, zstd");
    }
    let mut ranges = Vec::with_capacity(compression.content_types.len());
    for (index, text) in compression.content_types.iter().enumerate() {
        match MediaRange::parse(text) {
            Some(range) => ranges.push(range),
            None => {
                let expected = "type/subtype, type/*, type/*+suffix, */*+suffix or */*, without parameters";
                report.drop_rule(at.item("contentTypes", index), format!("{text:?}"), expected);
            }
        }
    }
    (report.count == before).then(|| Compression {
        state: list.state_key("Compression", position),
        codings,
        min_bytes: compression.min_bytes.into(),
        media_types: (!compression.content_types.is_empty()).then_some(ranges),
    })
}
