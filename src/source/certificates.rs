//! The last good certificate of each Secret: a new content that is broken, or has expired, does not take its place.
//!
//! Works on what a source tells, before it is compiled; the Secret itself says then what is wrong with its newest content.
//! A certificate that begins or ends to be valid is judged anew at that moment, whether something else changes or not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::update::Update;
use crate::kinds::Map;
use crate::kinds::secret::{Problem, Secret};
use crate::model::ids::ObjectName;
use crate::model::tls::KeyPair;

/// How often the clock is looked at while a certificate waits for its time: clocks are set.
const LOOK: Duration = Duration::from_secs(60);

/// Hands on what a source tells, with the certificates that count at the time of `clock`; and does so again when the time of
/// one begins or ends. The future does the work, until the source or the receiver is gone.
pub fn judge(
    mut updates: watch::Receiver<Update>,
    clock: impl Fn() -> Timestamp + Send + 'static,
) -> (watch::Receiver<Update>, impl Future<Output = ()> + Send) {
    let mut pairs = LastGoodPairs::default();
    let mut told = updates.borrow_and_update().clone();
    let (sender, judged) = watch::channel(pairs.judge(&told, clock()));
    let work = async move {
        loop {
            tokio::select! {
                changed = updates.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    told = updates.borrow_and_update().clone();
                }
                () = sender.closed() => return,
                () = tokio::time::sleep(pairs.pause(clock()).unwrap_or(LOOK)), if pairs.due.is_some() => {
                    if !pairs.is_due(clock()) {
                        continue;
                    }
                }
            }
            if sender.send(pairs.judge(&told, clock())).is_err() {
                return;
            }
        }
    };
    (judged, work)
}

/// Remembers the certificates that were shown last.
#[derive(Debug, Default)]
struct LastGoodPairs {
    /// Of Secrets that are there.
    pairs: BTreeMap<ObjectName, Arc<KeyPair>>,
    /// What a source told last, and what became of it.
    last: Option<(Map<Secret>, Map<Secret>)>,
    /// When that is another result, in seconds since 1970, though nothing changes.
    due: Option<i64>,
}

impl LastGoodPairs {
    /// An update with the certificates that count `now`.
    fn judge(&mut self, update: &Update, now: Timestamp) -> Update {
        let mut update = update.clone();
        let mut secrets = update.inputs.objects.secrets.clone();
        self.apply(&mut secrets, now);
        if !secrets.is_same(&update.inputs.objects.secrets) {
            Arc::make_mut(&mut update.inputs).objects.secrets = secrets;
        }
        update
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.due.is_some_and(|due| now.as_second() >= due)
    }

    /// How long to wait for the moment that is due, at most; `None` when there is none.
    fn pause(&self, now: Timestamp) -> Option<Duration> {
        let seconds = self.due?.saturating_sub(now.as_second());
        Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LOOK))
    }

    /// Puts the last good certificate where a Secret's newest content is broken or has expired, as of `now`.
    fn apply(&mut self, secrets: &mut Map<Secret>, now: Timestamp) {
        let is_due = self.is_due(now);
        if let Some((told, result)) = self.last.as_ref().filter(|(told, _)| told.is_same(secrets) && !is_due) {
            debug_assert_eq!(told.len(), result.len());
            *secrets = result.clone();
            return;
        }
        let told = secrets.clone();
        self.pairs.retain(|name, _| told.contains_key(name));
        for (name, secret) in &told {
            let held = self.pairs.get(name);
            let (pair, problem) = match &secret.object.pair {
                Ok(pair) => match (untimely(pair, now), held.filter(|held| untimely(held, now).is_none())) {
                    (None, _) => {
                        self.pairs.insert(name.clone(), Arc::clone(pair));
                        continue;
                    }
                    (Some(why), Some(held)) => (held, Problem::EarlierStays(why)),
                    (Some(why), None) => (pair, Problem::ShownAnyway(why)),
                },
                Err(why) => match held {
                    Some(held) => (held, Problem::EarlierStays(why.text().into())),
                    None => continue,
                },
            };
            let mut replaced = secret.clone();
            let pair = Ok(Arc::clone(pair));
            replaced.object = Arc::new(Secret { pair, problem: Some(problem), ..Secret::clone(&secret.object) });
            secrets.insert(name.clone(), replaced);
        }
        let newest = told.values().filter_map(|secret| secret.object.pair.as_ref().ok());
        let edges = newest.chain(self.pairs.values()).flat_map(|pair| [pair.not_before(), pair.not_after() + 1]);
        self.due = edges.filter(|edge| *edge > now.as_second()).min();
        self.last = Some((told, secrets.clone()));
    }
}

/// Why a certificate is not valid now; `None` when it is.
fn untimely(pair: &KeyPair, now: Timestamp) -> Option<Box<str>> {
    let time =
        |second| Timestamp::from_second(second).map_or_else(|_| "another age".to_owned(), |time| time.to_string());
    let now = now.as_second();
    if now > pair.not_after() {
        Some(format!("its certificate has expired at {}", time(pair.not_after())).into())
    } else if now < pair.not_before() {
        Some(format!("its certificate is not valid before {}", time(pair.not_before())).into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, date_time_ymd};

    use super::*;
    use crate::kinds::Sourced;
    use crate::kinds::secret::NoPair;

    /// A pair that is valid from the beginning of one year to that of another.
    fn pair(from: i32, until: i32) -> Arc<KeyPair> {
        pair_until(from, (until, 1))
    }

    /// The same, until a day of January.
    fn pair_until(from: i32, (year, day): (i32, u8)) -> Arc<KeyPair> {
        let mut parameters = CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
        parameters.not_before = date_time_ymd(from, 1, 1);
        parameters.not_after = date_time_ymd(year, 1, day);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("signed");
        let pair = KeyPair::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
        Arc::new(pair.expect("a pair"))
    }

    /// What becomes of contents of one Secret, one after the other; `None`: the Secret is gone.
    fn shown(contents: &[Option<Result<Arc<KeyPair>, &str>>]) -> Option<Secret> {
        let name = ObjectName::new("ns", "it");
        let now = "2026-06-01T00:00:00Z".parse().expect("a time");
        let (mut pairs, mut last) = (LastGoodPairs::default(), None);
        for content in contents {
            let mut secrets = Map::default();
            if let Some(pair) = content {
                let pair = pair.clone().map_err(|why| NoPair::Unusable(why.into()));
                let object = Arc::new(Secret::of_pair(pair));
                secrets.insert(name.clone(), Sourced { object, origin: None });
            }
            let mut again = secrets.clone();
            pairs.apply(&mut secrets, now);
            pairs.apply(&mut again, now);
            last = secrets.get(&name).map(|secret| (*secret.object).clone());
            assert_eq!(last, again.get(&name).map(|secret| (*secret.object).clone()), "nothing new, nothing else");
        }
        last
    }

    #[test]
    fn only_a_good_certificate_takes_the_place_of_a_good_one() {
        let (good, better, old, early) = (pair(2026, 2027), pair(2026, 2028), pair(2024, 2025), pair(2027, 2028));
        let secret = |pair: &Arc<KeyPair>, problem| Some(Secret { problem, ..Secret::of_pair(Ok(Arc::clone(pair))) });
        let expired = || Box::from("its certificate has expired at 2025-01-01T00:00:00Z");
        let ok = |pair: &Arc<KeyPair>| Some(Ok(Arc::clone(pair)));
        assert_eq!(shown(&[ok(&good), ok(&better)]), secret(&better, None));
        let broken = Problem::EarlierStays("broken".into());
        assert_eq!(shown(&[ok(&good), Some(Err("broken"))]), secret(&good, Some(broken)));
        assert_eq!(shown(&[ok(&good), ok(&old)]), secret(&good, Some(Problem::EarlierStays(expired()))));
        assert_eq!(shown(&[ok(&old)]), secret(&old, Some(Problem::ShownAnyway(expired()))));
        let before = Problem::EarlierStays("its certificate is not valid before 2027-01-01T00:00:00Z".into());
        assert_eq!(shown(&[ok(&good), ok(&early)]), secret(&good, Some(before)));
        let nothing = Some(Secret::of_pair(Err(NoPair::Unusable("broken".into()))));
        assert_eq!(shown(&[Some(Err("broken"))]), nothing);
        assert_eq!(shown(&[ok(&good), None, Some(Err("broken"))]), nothing, "a Secret that was gone begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_and_the_beginning_of_a_certificate_are_seen_though_nothing_changes() {
        let (good, next, name) = (pair(2026, 2027), pair_until(2027, (2027, 2)), ObjectName::new("ns", "it"));
        let start: Timestamp = "2026-12-31T23:50:00Z".parse().expect("a time");
        let update = |pair: &Arc<KeyPair>| {
            let mut inputs = crate::compile::inputs::Inputs::default();
            let object = Arc::new(Secret::of_pair(Ok(Arc::clone(pair))));
            inputs.objects.secrets.insert(name.clone(), Sourced { object, origin: None });
            Update { inputs: Arc::new(inputs), diagnostics: Arc::default() }
        };
        let shown = |judged: &mut watch::Receiver<Update>| {
            let update = judged.borrow_and_update().clone();
            let secret = update.inputs.objects.secrets.get(&name).expect("the Secret").object.clone();
            (Arc::clone(secret.pair.as_ref().expect("a pair")), secret.problem.clone())
        };
        let (source, updates) = watch::channel(update(&good));
        let begun = tokio::time::Instant::now();
        let (mut judged, work) = judge(updates, move || start + begun.elapsed());
        tokio::spawn(work);
        assert_eq!(shown(&mut judged), (Arc::clone(&good), None));
        // The next one has come too early: the one before is shown until its time.
        source.send_replace(update(&next));
        judged.changed().await.expect("a change");
        let (held, problem) = shown(&mut judged);
        assert!(held == good && matches!(problem, Some(Problem::EarlierStays(_))), "{problem:?}");
        judged.changed().await.expect("its time");
        assert_eq!(shown(&mut judged), (Arc::clone(&next), None));
        assert!((600..=660).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        // And one whose time ends.
        source.send_replace(update(&pair(2024, 2025)));
        judged.changed().await.expect("a change");
        let (held, problem) = shown(&mut judged);
        assert!(held == next && matches!(problem, Some(Problem::EarlierStays(_))), "{problem:?}");
        source.send_replace(update(&next));
        judged.changed().await.expect("a change");
        judged.changed().await.expect("its end");
        let (held, problem) = shown(&mut judged);
        assert!(held == next && matches!(problem, Some(Problem::ShownAnyway(_))), "{problem:?}");
        drop(source);
        assert!(judged.changed().await.is_err(), "it ends with its source");
    }
}
