//! How fast writes may follow each other.

use std::time::Duration;

use tokio::time::Instant;

/// Lets a burst pass, and then so many a second.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { per_second: per_second.into(), burst: burst.into(), tokens: burst.into(), at: now }
    }

    /// Whether there is one.
    pub(super) fn has(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens >= 1.0
    }

    /// Takes one if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let has = self.has(now);
        if has {
            self.tokens -= 1.0;
        }
        has
    }

    /// When there will be one.
    pub(super) fn ready_at(&mut self, now: Instant) -> Instant {
        self.fill(now);
        match self.tokens {
            1.0.. => now,
            // A little later than exact, so that it is there then.
            tokens => now + Duration::from_secs_f64((1.0 - tokens) / self.per_second + 1e-4),
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_so_many_a_second() {
        let begun = Instant::now();
        let mut bucket = Bucket::new(50, 200, begun);
        let mut passed = 0;
        while begun.elapsed() < Duration::from_secs(10) {
            while bucket.take(Instant::now()) {
                passed += 1;
            }
            let ready = bucket.ready_at(Instant::now());
            assert!(ready > Instant::now() && ready < Instant::now() + Duration::from_millis(30));
            tokio::time::sleep_until(ready).await;
        }
        assert!((690..=702).contains(&passed), "{passed}");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!((0..1000).filter(|_| bucket.take(Instant::now())).count(), 200, "no more than a burst is saved up");
    }
}
