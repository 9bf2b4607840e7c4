//! The order in which candidates win, and what makes two of them duplicates.

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use super::candidate::{Candidate, Hostname, PathMatch, ValueMatch, ValueTest};
use super::template::Template;

/// Compares two candidates by precedence: the lesser wins a request that both fit.
///
/// The order of the API: hostname (exact, then longer wildcard, then shorter, then none); priority; path (Exact,
/// Template with more literal elements, then without the wildcard `{name*}`, then with more variables,
/// RegularExpression with the longest pattern, longest PathPrefix); method; number of header matches, of cookies, of
/// query parameters; rank. Expressions come before prefixes, so that one beside the prefix of all paths is reached.
/// Between candidates that no request fits both, it puts those of one hostname together, and those of one exact path or
/// prefix.
#[must_use]
pub fn precedence(a: &Candidate, b: &Candidate) -> Ordering {
    let [of_a, of_b] = [a, b].map(Candidate::conditions);
    by_hostname(&a.hostname, &b.hostname)
        .then_with(|| b.priority.cmp(&a.priority))
        .then_with(|| by_path(&a.path, &b.path))
        .then_with(|| of_b.method.is_some().cmp(&of_a.method.is_some()))
        .then_with(|| of_b.headers.len().cmp(&of_a.headers.len()))
        .then_with(|| of_b.cookies.len().cmp(&of_a.cookies.len()))
        .then_with(|| of_b.query_params.len().cmp(&of_a.query_params.len()))
        .then_with(|| a.rank.cmp(&b.rank))
}

/// Positions of candidates in their order of precedence; of candidates that are equal in it, the earlier one first.
///
/// Nearly all comparisons are of numbers: the kind of the hostname and the 16 bytes that it begins with.
#[must_use]
pub fn in_order(candidates: &[Candidate]) -> Vec<u32> {
    let mut keys: Vec<(HostKey, u32)> =
        candidates.iter().map(|candidate| HostKey::of(&candidate.hostname)).zip(0..).collect();
    let at = |position: u32| &candidates[position as usize];
    keys.sort_unstable_by(|(a, of_a), (b, of_b)| {
        a.cmp(b).then_with(|| precedence(at(*of_a), at(*of_b))).then_with(|| of_a.cmp(of_b))
    });
    keys.into_iter().map(|(_, position)| position).collect()
}

/// The candidates at some positions, each there once, in the order of those; the others are dropped.
#[must_use]
pub fn arrange(candidates: Vec<Candidate>, positions: &[u32]) -> Vec<Candidate> {
    let mut candidates: Vec<Option<Candidate>> = candidates.into_iter().map(Some).collect();
    let mut arranged = Vec::with_capacity(positions.len());
    arranged.extend(positions.iter().filter_map(|at| candidates[*at as usize].take()));
    arranged
}

/// Whether two candidates can be duplicates, as far as their order of precedence shows: they are for one hostname and
/// equal in all that comes before the method. Candidates in their order that can be stand together.
#[must_use]
pub fn is_tied(a: &Candidate, b: &Candidate) -> bool {
    a.priority == b.priority && by_path(&a.path, &b.path).is_eq() && a.hostname == b.hostname
}

/// Orders hostnames as precedence does, but for names of one kind and length that begin with the same 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct HostKey {
    /// 0: exact; then wildcards, the longer first; last any.
    kind: u32,
    /// The first bytes of the name, as a number; 0 behind its end.
    begin: u128,
}

impl HostKey {
    fn of(hostname: &Hostname) -> Self {
        let (kind, name) = match hostname {
            Hostname::Exact(name) => (0, &**name),
            Hostname::Wildcard(suffix) => {
                let len = u32::try_from(suffix.len()).unwrap_or(u32::MAX).min(u32::MAX - 2);
                (u32::MAX - 1 - len, &**suffix)
            }
            Hostname::Any => (u32::MAX, ""),
        };
        let mut begin = [0; 16];
        let len = name.len().min(begin.len());
        begin[..len].copy_from_slice(&name.as_bytes()[..len]);
        Self { kind, begin: u128::from_be_bytes(begin) }
    }
}

fn by_hostname(a: &Hostname, b: &Hostname) -> Ordering {
    let key = |hostname: &Hostname| match hostname {
        Hostname::Exact(_) => (0, Reverse(0)),
        Hostname::Wildcard(suffix) => (1, Reverse(suffix.len())),
        Hostname::Any => (2, Reverse(0)),
    };
    // Different names of one kind and length never fit the same request.
    key(a).cmp(&key(b)).then_with(|| a.cmp(b))
}

fn by_path(a: &PathMatch, b: &PathMatch) -> Ordering {
    let kind = |path: &PathMatch| match path {
        PathMatch::Exact(_) => 0,
        PathMatch::Template(_) => 1,
        PathMatch::Regex(_) => 2,
        PathMatch::Prefix(_) => 3,
    };
    match (a, b) {
        // Of different exact paths, or prefixes of one length, at most one fits a request.
        (PathMatch::Exact(a), PathMatch::Exact(b)) => a.cmp(b),
        (PathMatch::Prefix(a), PathMatch::Prefix(b)) => b.len().cmp(&a.len()).then_with(|| a.cmp(b)),
        // Different templates and expressions can fit one request: nothing but specificity may order them.
        (PathMatch::Template(a), PathMatch::Template(b)) => {
            let key = |t: &Template| (Reverse(t.literals()), t.has_rest(), Reverse(t.variables()));
            key(a).cmp(&key(b))
        }
        (PathMatch::Regex(a), PathMatch::Regex(b)) => b.pattern().len().cmp(&a.pattern().len()),
        _ => kind(a).cmp(&kind(b)),
    }
}

/// What a candidate asks of a request, in a normal form: two candidates are duplicates when theirs are equal.
///
/// The order of conditions, repeated conditions and the names of template variables do not count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PredicateKey {
    hostname: Hostname,
    priority: i32,
    path: PathKey,
    method: Option<Box<str>>,
    values: Vec<(Source, Arc<str>, ValueTest)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum PathKey {
    Exact(Arc<str>),
    Shape(String),
    Prefix(Arc<str>),
    Regex(Arc<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Source {
    Header,
    Cookie,
    QueryParam,
}

impl PredicateKey {
    /// What a candidate asks of a request, in a normal form: equal for duplicates.
    #[must_use]
    pub fn of(candidate: &Candidate) -> Self {
        let sourced = |source, matches: &[ValueMatch]| {
            matches.iter().map(|m| (source, Arc::clone(&m.name), m.test.clone())).collect::<Vec<_>>()
        };
        let conditions = candidate.conditions();
        let mut values = sourced(Source::Header, &conditions.headers);
        values.extend(sourced(Source::Cookie, &conditions.cookies));
        values.extend(sourced(Source::QueryParam, &conditions.query_params));
        values.sort_unstable();
        values.dedup();
        Self {
            hostname: candidate.hostname.clone(),
            priority: candidate.priority,
            path: match &candidate.path {
                PathMatch::Exact(path) => PathKey::Exact(Arc::clone(path)),
                PathMatch::Prefix(prefix) => PathKey::Prefix(Arc::clone(prefix)),
                PathMatch::Template(template) => PathKey::Shape(template.shape()),
                PathMatch::Regex(regex) => PathKey::Regex(regex.shared_pattern()),
            },
            method: conditions.method.as_ref().map(|method| method.as_str().into()),
            values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::RuleId;
    use crate::model::matching::{CompiledRegex, Conditions};

    fn value(name: &str, test: ValueTest) -> ValueMatch {
        ValueMatch { name: name.into(), test }
    }

    #[test]
    fn the_order_by_numbers_is_the_order_of_precedence() {
        let long = "a-name-of-more-than-16-bytes";
        let hosts = ["b", "a", "", "a\0", "ab", "example.com", "a-name-of-more-t", long, &format!("{long}.b")];
        let exact = hosts.iter().map(|host| Hostname::Exact((*host).into()));
        let wildcards = hosts.iter().map(|host| Hostname::Wildcard((*host).into()));
        let hostnames: Vec<_> = exact.chain(wildcards).chain([Hostname::Any]).collect();
        let twice = hostnames.iter().rev().chain(&hostnames).cloned();
        let candidates: Vec<_> = twice.map(|hostname| Candidate { hostname, ..candidate() }).collect();
        let mut expected: Vec<u32> = (0..).take(candidates.len()).collect();
        expected.sort_by(|a, b| precedence(&candidates[*a as usize], &candidates[*b as usize]));
        assert_eq!(in_order(&candidates), expected);
    }

    fn with(headers: Vec<ValueMatch>) -> Conditions {
        Conditions { headers, ..Conditions::default() }
    }

    fn candidate() -> Candidate {
        Candidate::any(RuleId(0), 0)
    }

    #[test]
    fn a_key_ignores_the_order_of_conditions_and_the_names_of_variables() {
        let headers = vec![value("a", ValueTest::Present), value("b", ValueTest::Exact("1".into()))];
        let twice = headers.iter().rev().chain(&headers).cloned().collect();
        let a = Candidate {
            path: PathMatch::Template(Template::parse("/u/{id}").expect("good").into()),
            ..candidate().asking(with(headers))
        };
        let b = Candidate {
            path: PathMatch::Template(Template::parse("/u/{user}").expect("good").into()),
            rule: RuleId(7),
            rank: 9,
            ..candidate().asking(with(twice))
        };
        assert_eq!(PredicateKey::of(&a), PredicateKey::of(&b));
    }

    #[test]
    fn a_key_tells_predicates_apart() {
        let regex = |pattern| Arc::new(CompiledRegex::compile(pattern).expect("good"));
        let all = [
            candidate(),
            Candidate { hostname: Hostname::Exact("a".into()), ..candidate() },
            Candidate { hostname: Hostname::Wildcard("a".into()), ..candidate() },
            Candidate { priority: 1, ..candidate() },
            Candidate { path: PathMatch::Exact("/a".into()), ..candidate() },
            Candidate { path: PathMatch::Prefix("/a".into()), ..candidate() },
            Candidate { path: PathMatch::Regex(regex("/a")), ..candidate() },
            Candidate { path: PathMatch::Regex(regex("/b")), ..candidate() },
            Candidate { path: PathMatch::Template(Template::parse("/{a}").expect("good").into()), ..candidate() },
            Candidate { path: PathMatch::Template(Template::parse("/{a*}").expect("good").into()), ..candidate() },
            candidate().asking(Conditions { method: Some(http::Method::GET), ..Conditions::default() }),
            candidate().asking(with(vec![value("a", ValueTest::Present)])),
            candidate().asking(with(vec![value("a", ValueTest::Absent)])),
            candidate().asking(with(vec![value("a", ValueTest::Exact("x".into()))])),
            candidate().asking(with(vec![value("a", ValueTest::Prefix("x".into()))])),
            candidate().asking(with(vec![value("a", ValueTest::Regex(regex("x")))])),
            candidate().asking(Conditions { cookies: vec![value("a", ValueTest::Present)], ..Conditions::default() }),
            candidate()
                .asking(Conditions { query_params: vec![value("a", ValueTest::Present)], ..Conditions::default() }),
        ];
        let keys: std::collections::BTreeSet<_> = all.iter().map(PredicateKey::of).collect();
        assert_eq!(keys.len(), all.len());
    }
}
