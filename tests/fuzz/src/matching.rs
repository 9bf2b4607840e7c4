//! Templates, and the router against a naive one.
//!
//! An input is text. Lines of three words (kind, hostname, path) are candidates; lines of two (host, path) are requests.

use http::{HeaderMap, Method};
use tidegate::model::ids::RuleId;
use tidegate::model::matching::{Candidate, CompiledRegex, Element, Hostname, PathMatch, Router, Template};
use tidegate::model::path::{CanonicalPath, Slashes, normalize_route_path};

use super::router_oracle::{Request, naive, real, template_params};

/// Most candidates and requests of an input.
const MOST: usize = 48;

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (mut candidates, mut requests) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            [kind, host, path] if candidates.len() < MOST => candidates.extend(candidate(kind, host, path)),
            [host, path] if requests.len() < MOST => requests.extend(request(host, path)),
            _ => {}
        }
    }
    for (rank, candidate) in candidates.iter_mut().enumerate() {
        let rank = u32::try_from(rank).expect("few");
        (candidate.rank, candidate.rule) = (rank, RuleId(rank));
    }
    let router = Router::build(candidates.clone());
    for request in &requests {
        for candidate in &candidates {
            if let PathMatch::Template(template) = &candidate.path {
                check_template(template, &request.path);
            }
        }
        assert_eq!(real(&router, request), naive(&candidates, request), "{request:?} of {candidates:?}");
    }
}

/// A candidate as the compiler makes it; `None` when it refuses one of the words.
fn candidate(kind: &str, host: &str, path: &str) -> Option<Candidate> {
    let (kind, priority) = kind.split_at_checked(1)?;
    let priority = i32::try_from(priority.len()).ok()?;
    let is_name = |name: &str| !name.is_empty() && !name.bytes().any(|b| b.is_ascii_uppercase());
    let hostname = match host.strip_prefix("*.") {
        Some(suffix) if is_name(suffix) => Hostname::Wildcard(suffix.into()),
        _ if host == "*" => Hostname::Any,
        _ if is_name(host) => Hostname::Exact(host.into()),
        _ => return None,
    };
    let path = match kind {
        "=" => PathMatch::Exact(normalize_route_path(path).ok()?.into()),
        "<" => PathMatch::prefix(&normalize_route_path(path).ok()?),
        "{" => {
            let path = normalize_route_path(path).ok()?;
            let template = Template::parse(&path).ok()?;
            assert_eq!(Template::parse(template.as_str()).as_ref(), Ok(&template));
            PathMatch::Template(template.into())
        }
        // Large expressions are slow to compile, and their compilation is not what is looked for here.
        "~" if path.len() <= 24 && path.is_ascii() => PathMatch::Regex(CompiledRegex::compile(path).ok()?.into()),
        _ => return None,
    };
    Some(Candidate { hostname, priority, path, ..Candidate::any(RuleId(0), 0) })
}

fn request(host: &str, path: &str) -> Option<Request> {
    let path = CanonicalPath::parse(path.as_bytes(), Slashes::Keep).ok()?.as_str().to_owned();
    let host = Some(host.to_ascii_lowercase()).filter(|host| host != "-");
    Some(Request { host, method: Method::GET, path, query: None, headers: HeaderMap::new() })
}

/// A template and the naive one agree, and its values in its places give the path.
fn check_template(template: &Template, path: &str) {
    let wanted = template_params(template.as_str(), path);
    assert_eq!(template.is_match(path), wanted.is_some(), "{template:?} on {path}");
    let Some(params) = wanted else { return };
    let names: Vec<&str> = template.names().collect();
    assert_eq!(names, params.iter().map(|param| &*param.0).collect::<Vec<_>>());
    for (name, value) in &params {
        assert_eq!(template.param(path, name), Some(&**value), "{name} of {template:?} on {path}");
    }
    let filled: String = template
        .elements()
        .map(|element| match element {
            Element::Literal(literal) => format!("/{literal}"),
            Element::Variable(name) | Element::Rest(name) => format!("/{}", template.param(path, name).unwrap_or("?")),
        })
        .collect();
    assert_eq!(filled, path, "{template:?}");
}
