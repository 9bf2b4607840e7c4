//! A naive router, which asks every candidate and takes the least by a tuple that is written down from the API's text. It
//! shares no code with the real one.
#![allow(dead_code)]

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;

use http::{HeaderMap, Method};
use tidegate::model::ids::RuleId;
use tidegate::model::matching::{Candidate, Hostname, Miss, PathMatch, RequestView, Router, ValueTest};

thread_local! {
    /// Expressions, compiled by another crate than the router's.
    static PATTERNS: RefCell<HashMap<String, regex::bytes::Regex>> = RefCell::default();
}

fn pattern_fits(pattern: &str, value: &[u8]) -> bool {
    let compile = || regex::bytes::RegexBuilder::new(&format!("^(?:{pattern})$")).unicode(false).build();
    PATTERNS.with_borrow_mut(|patterns| {
        if let Some(compiled) = patterns.get(pattern) {
            return compiled.is_match(value);
        }
        patterns.entry(pattern.to_owned()).or_insert(compile().expect("the router took it")).is_match(value)
    })
}

/// An owned request.
#[derive(Debug)]
pub struct Request {
    pub host: Option<String>,
    pub method: Method,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
}

impl Request {
    pub fn view(&self) -> RequestView<'_> {
        let (host, query) = (self.host.as_deref(), self.query.as_deref());
        RequestView { host, method: &self.method, path: &self.path, query, headers: &self.headers }
    }
}

/// What a router says, by rank, with the path parameters of the winner.
pub type Answer = Result<(u32, RuleId, Vec<(String, String)>), Miss>;

pub fn real(router: &Router, request: &Request) -> Answer {
    let found = router.find(&request.view())?;
    let candidate = router.candidate(found).expect("its own candidate");
    let param =
        |name: &str| router.path_param(found, &request.path, name).expect("every variable has a value").to_owned();
    let params = candidate.path_params().map(|name| (name.to_owned(), param(name))).collect();
    Ok((candidate.rank, found.rule, params))
}

/// What the naive router says.
pub fn naive(candidates: &[Candidate], request: &Request) -> Answer {
    let of_host: Vec<_> = candidates.iter().filter(|c| host_fits(&c.hostname, request.host.as_deref())).collect();
    if of_host.is_empty() {
        return Err(Miss::NoHost);
    }
    let winner = of_host.into_iter().filter(|c| fits(c, request)).min_by_key(|c| specificity(c)).ok_or(Miss::NoPath)?;
    let params = match &winner.path {
        PathMatch::Template(template) => template_params(template.as_str(), &request.path).expect("it fits"),
        _ => Vec::new(),
    };
    Ok((winner.rank, winner.rule, params))
}

fn specificity(candidate: &Candidate) -> impl Ord + use<> {
    let host = match &candidate.hostname {
        Hostname::Exact(_) => (0, Reverse(0)),
        Hostname::Wildcard(suffix) => (1, Reverse(suffix.len())),
        Hostname::Any => (2, Reverse(0)),
    };
    let path = match &candidate.path {
        PathMatch::Exact(_) => (0, Reverse(0), false, Reverse(0)),
        PathMatch::Template(template) => {
            let elements: Vec<&str> = template.as_str()[1..].split('/').collect();
            let literals = elements.iter().filter(|element| !element.contains('{')).count();
            (1, Reverse(literals), template.as_str().contains("*}"), Reverse(elements.len() - literals))
        }
        PathMatch::Regex(regex) => (2, Reverse(regex.pattern().len()), false, Reverse(0)),
        PathMatch::Prefix(prefix) => (3, Reverse(prefix.len()), false, Reverse(0)),
    };
    let conditions = candidate.conditions();
    let counts = [conditions.headers.len(), conditions.cookies.len(), conditions.query_params.len()];
    (host, Reverse(candidate.priority), path, Reverse(conditions.method.is_some()), counts.map(Reverse), candidate.rank)
}

fn host_fits(hostname: &Hostname, host: Option<&str>) -> bool {
    match (hostname, host) {
        (Hostname::Any, _) => true,
        (Hostname::Exact(name), Some(host)) => **name == *host,
        (Hostname::Wildcard(suffix), Some(host)) => {
            host.len() > suffix.len() + 1 && host.ends_with(&format!(".{suffix}"))
        }
        (_, None) => false,
    }
}

fn fits(candidate: &Candidate, request: &Request) -> bool {
    let path = request.path.as_str();
    let path_fits = match &candidate.path {
        PathMatch::Exact(exact) => **exact == *path,
        PathMatch::Template(template) => template_params(template.as_str(), path).is_some(),
        PathMatch::Prefix(prefix) => **prefix == *path || path.starts_with(&format!("{prefix}/")),
        PathMatch::Regex(regex) => pattern_fits(regex.pattern(), path.as_bytes()),
    };
    let conditions = candidate.conditions();
    path_fits
        && conditions.method.as_ref().is_none_or(|method| *method == request.method)
        && conditions.headers.iter().all(|m| {
            let lines = request.headers.get_all(&*m.name).iter();
            value_fits(&m.test, &lines.map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>())
        })
        && conditions.cookies.iter().all(|m| value_fits(&m.test, &cookies(&request.headers, &m.name)))
        && conditions.query_params.iter().all(|m| value_fits(&m.test, &params(request.query.as_deref(), &m.name)))
}

fn value_fits(test: &ValueTest, values: &[Vec<u8>]) -> bool {
    let only = if values.len() == 1 { Some(&values[0]) } else { None };
    match test {
        ValueTest::Exact(expected) => only.is_some_and(|value| value == expected.as_bytes()),
        ValueTest::Prefix(prefix) => only.is_some_and(|value| value.starts_with(prefix.as_bytes())),
        ValueTest::Regex(regex) => only.is_some_and(|value| pattern_fits(regex.pattern(), value)),
        ValueTest::Present => !values.is_empty(),
        ValueTest::Absent => values.is_empty(),
    }
}

fn cookies(headers: &HeaderMap, name: &str) -> Vec<Vec<u8>> {
    let lines = headers.get_all("cookie").iter().map(|line| line.to_str().expect("generated"));
    let pairs = lines.flat_map(|line| line.split("; ")).filter_map(|pair| pair.split_once('='));
    pairs.filter(|pair| pair.0 == name).map(|pair| pair.1.as_bytes().to_vec()).collect()
}

fn params(query: Option<&str>, name: &str) -> Vec<Vec<u8>> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        let mut parts = text.split('%');
        let mut decoded = parts.next().unwrap_or("").as_bytes().to_vec();
        for part in parts {
            decoded.push(u8::from_str_radix(&part[..2], 16).expect("generated"));
            decoded.extend_from_slice(&part.as_bytes()[2..]);
        }
        decoded
    };
    let pairs = query.into_iter().flat_map(|query| query.split('&'));
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(n, v)| (decode(n), decode(v)));
    pairs.filter(|pair| pair.0 == name.as_bytes()).map(|pair| pair.1).collect()
}

/// The variables of a template with their values in a path; `None` when it does not fit.
pub fn template_params(template: &str, path: &str) -> Option<Vec<(String, String)>> {
    let mut segments: Vec<&str> = path[1..].split('/').collect();
    let mut params = Vec::new();
    for element in template[1..].split('/') {
        if segments.is_empty() {
            return None;
        }
        let (name, value) = match element.strip_prefix('{') {
            None if segments.remove(0) == element => continue,
            None => return None,
            Some(name) if name.ends_with("*}") => (&name[..name.len() - 2], std::mem::take(&mut segments).join("/")),
            Some(name) => (&name[..name.len() - 1], segments.remove(0).to_owned()),
        };
        if value.is_empty() {
            return None;
        }
        params.push((name.to_owned(), value));
    }
    segments.is_empty().then_some(params)
}
