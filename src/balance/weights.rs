//! Arithmetic of weights.

/// Greatest common divisor; that of 0 and n is n.
pub(super) fn gcd(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gcd_of_lists() {
        assert_eq!([12, 18, 30].into_iter().fold(0, gcd), 6);
        assert_eq!([].into_iter().fold(0, gcd), 0);
        assert_eq!([7].into_iter().fold(0, gcd), 7);
    }
}
