//! How a bound is reported.

/// Prints one bound and whether it holds.
pub fn verdict(what: &str, value: String, bound: String, met: bool) -> bool {
    println!("{what}: {value} (bound {bound}): {}", if met { "met" } else { "MISSED" });
    met
}
