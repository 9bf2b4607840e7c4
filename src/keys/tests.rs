//! When keys are fetched, with a clock that jumps.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use http::StatusCode;
use serde_json::json;

use super::*;
use crate::filter::KEYS_PATIENCE;
use crate::telemetry::metrics::MetricsOptions;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

type Answer = Result<String, StatusCode>;

/// Gives its answers one after the other, then the last one again, and notes when it was asked.
#[derive(Clone, Debug, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Instant>>>,
    /// How long an answer takes.
    delay: Duration,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() }
    }

    fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Gives this answer from now on.
    fn then(&self, answer: Answer) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = [answer].into();
    }
}

impl Fetch for Script {
    async fn get(&self, _: &Uri, _: usize) -> Result<Bytes, FetchError> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        sleep(self.delay).await;
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        answer.expect("an answer").map(Bytes::from).map_err(FetchError::Status)
    }
}

/// A set with one key of this id.
fn document(kid: &str) -> Answer {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    Ok(json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid }] }).to_string())
}

/// The fetches of one URL, under way.
struct Bed {
    keys: Arc<RemoteKeys>,
    script: Script,
    counts: Arc<KeyFetchMetrics>,
    began: Instant,
}

impl Bed {
    fn new(script: Script) -> Self {
        let keys = Arc::new(RemoteKeys::new("https://id.test/keys".parse().expect("a URL")));
        let metrics = Metrics::new(MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 10 });
        let (cache_duration, counts) = (10 * MINUTE, metrics.key_fetches());
        let fetching =
            Fetching { keys: Arc::clone(&keys), cache_duration, counts: Arc::clone(&counts), metrics, failures: 0 };
        tokio::spawn(fetching.run(script.clone(), fastrand::Rng::with_seed(1)));
        Self { keys, script, counts, began: Instant::now() }
    }

    fn has(&self, kid: &str) -> bool {
        self.keys.current().set.is_some_and(|set| set.has(kid))
    }

    /// Seconds after the beginning at which it was asked.
    fn asked_at(&self) -> Vec<u64> {
        let asked = self.script.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().map(|at| (*at - self.began).as_secs()).collect()
    }

    /// A request needs a key that is not in the present version; whether a fetch has ended while it waited.
    async fn needs_another(&self) -> bool {
        match self.keys.want(self.keys.current().version, Instant::now().into_std()) {
            Some(wanted) => timeout(KEYS_PATIENCE, wanted.ready()).await.is_ok(),
            None => false,
        }
    }
}

fn gaps(asked: &[u64]) -> Vec<u64> {
    asked.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_again_before_their_time_is_over() {
    let bed = Bed::new(Script::new([document("a")]));
    sleep(60 * MINUTE).await;
    let asked = bed.asked_at();
    let gaps = gaps(&asked);
    assert_eq!(asked[0], 0);
    assert!(gaps.len() >= 6 && gaps.iter().all(|gap| (450..=540).contains(gap)), "{gaps:?}");
    assert_eq!(bed.keys.current().version, 1, "the same set is no other version");
    assert_eq!(bed.counts.count(FetchOutcome::Ok), asked.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_stay_for_a_day() {
    let bed = Bed::new(Script::new([document("a"), Err(StatusCode::BAD_GATEWAY)]));
    sleep(23 * 60 * MINUTE).await;
    assert!(bed.has("a"));
    let gaps = gaps(&bed.asked_at()[1..]);
    assert!(gaps[0] <= 1 && gaps[1] <= 2 && gaps.iter().all(|gap| *gap <= 60), "{gaps:?}");
    assert!(gaps[8..].iter().all(|gap| *gap >= 30), "{gaps:?}");
    sleep(2 * 60 * MINUTE).await;
    assert!(!bed.has("a"), "too old");
    bed.script.then(document("b"));
    sleep(MINUTE).await;
    assert!(bed.has("b"));
    assert!(bed.counts.count(FetchOutcome::Status) > 1_000);
}

/// Whoever answers with a set that has no key wants no token to count any more.
#[tokio::test(start_paused = true)]
async fn keys_that_are_withdrawn_go_at_once() {
    for empty in [r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#] {
        let bed = Bed::new(Script::new([document("a")]));
        sleep(SECOND).await;
        let before = bed.keys.current().version;
        bed.script.then(Ok(empty.to_owned()));
        sleep(10 * MINUTE).await;
        let now = bed.keys.current();
        assert!(now.set.is_none() && now.version > before, "{empty}: what was verified before does not count either");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_has_them_fetched_once_for_all_who_ask() {
    let bed = Bed::new(Script::new([document("a")]).after(SECOND / 10));
    assert!(bed.needs_another().await, "the first fetch is under way");
    sleep(MINUTE).await;
    assert_eq!(bed.asked_at(), [0]);
    bed.script.then(document("b"));
    let all = futures_util::future::join_all((0..500).map(|_| bed.needs_another())).await;
    assert!(all.into_iter().all(|waited| waited));
    assert!(bed.has("b"));
    assert_eq!(bed.asked_at(), [0, 60]);
    // Ten thousand made-up keys: a fetch every ten seconds, and nobody waits for longer than it takes.
    for _ in 0..10_000 {
        let before = Instant::now();
        bed.needs_another().await;
        assert!(before.elapsed() <= SECOND / 10);
        sleep(SECOND / 100).await;
    }
    let asked = bed.asked_at();
    assert!(gaps(&asked)[1..].iter().all(|gap| *gap >= 9), "{asked:?}");
    assert!((9..=14).contains(&asked.len()), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_wait_a_second_and_not_all_of_them() {
    let bed = Bed::new(Script::new([document("a")]).after(4 * SECOND));
    let before = Instant::now();
    let all = futures_util::future::join_all((0..2_000).map(|_| bed.needs_another())).await;
    // The clock of timers counts whole milliseconds.
    assert!((KEYS_PATIENCE..KEYS_PATIENCE + SECOND / 100).contains(&before.elapsed()));
    assert!(all.into_iter().all(|waited| !waited));
    // Places are free again, and there are so many.
    let want = || bed.keys.want(0, Instant::now().into_std());
    let places: Vec<_> = (0..2_000).filter_map(|_| want()).collect();
    assert_eq!(places.len(), 1024);
    drop(places);
    assert!(want().is_some());
    sleep(4 * SECOND).await;
    assert!(bed.has("a"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up() {
    let bed = Bed::new(Script::new([document("a")]).after(MINUTE));
    sleep(6 * SECOND).await;
    assert_eq!(bed.counts.count(FetchOutcome::Timeout), 1);
    assert!(bed.keys.current().set.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_key_set_changes_nothing() {
    let bed = Bed::new(Script::new([document("a"), Ok("<html>".to_owned()), Ok(r#"{"key":[]}"#.to_owned())]));
    sleep(20 * MINUTE).await;
    assert!(bed.has("a"));
    assert!(bed.counts.count(FetchOutcome::Document) >= 2);
    assert_eq!(bed.counts.count(FetchOutcome::Ok), 1);
}
