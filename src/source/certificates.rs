//! The last good certificate of each Secret: a new content that is broken, or has expired, does not take its place.
//!
//! Works on what a source tells, before it is compiled; the Secret itself says then what is wrong with its newest content.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::kinds::Map;
use crate::kinds::secret::{Problem, Secret};
use crate::model::ids::ObjectName;
use crate::model::tls::KeyPair;

/// Remembers the certificates that were shown last.
#[derive(Debug, Default)]
pub struct LastGoodPairs {
    /// Of Secrets that are there.
    pairs: BTreeMap<ObjectName, Arc<KeyPair>>,
    /// What a source told last, and what became of it.
    last: Option<(Map<Secret>, Map<Secret>)>,
}

impl LastGoodPairs {
    /// Puts the last good certificate where a Secret's newest content is broken or has expired, as of `now`.
    pub fn apply(&mut self, secrets: &mut Map<Secret>, now: Timestamp) {
        if let Some((told, result)) = self.last.as_ref().filter(|(told, _)| told.is_same(secrets)) {
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
            let authorities = secret.object.authorities.clone();
            replaced.object = Arc::new(Secret { pair: Ok(Arc::clone(pair)), problem: Some(problem), authorities });
            secrets.insert(name.clone(), replaced);
        }
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
        let mut parameters = CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
        parameters.not_before = date_time_ymd(from, 1, 1);
        parameters.not_after = date_time_ymd(until, 1, 1);
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
                let object = Arc::new(Secret { pair, problem: None, authorities: None });
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
        let secret =
            |pair: &Arc<KeyPair>, problem| Some(Secret { pair: Ok(Arc::clone(pair)), problem, authorities: None });
        let expired = || Box::from("its certificate has expired at 2025-01-01T00:00:00Z");
        let ok = |pair: &Arc<KeyPair>| Some(Ok(Arc::clone(pair)));
        assert_eq!(shown(&[ok(&good), ok(&better)]), secret(&better, None));
        let broken = Problem::EarlierStays("broken".into());
        assert_eq!(shown(&[ok(&good), Some(Err("broken"))]), secret(&good, Some(broken)));
        assert_eq!(shown(&[ok(&good), ok(&old)]), secret(&good, Some(Problem::EarlierStays(expired()))));
        assert_eq!(shown(&[ok(&old)]), secret(&old, Some(Problem::ShownAnyway(expired()))));
        let before = Problem::EarlierStays("its certificate is not valid before 2027-01-01T00:00:00Z".into());
        assert_eq!(shown(&[ok(&good), ok(&early)]), secret(&good, Some(before)));
        let nothing = Some(Secret { pair: Err(NoPair::Unusable("broken".into())), problem: None, authorities: None });
        assert_eq!(shown(&[Some(Err("broken"))]), nothing);
        assert_eq!(shown(&[ok(&good), None, Some(Err("broken"))]), nothing, "a Secret that was gone begins anew");
    }
}
