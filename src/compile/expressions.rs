//! Regular expressions by their text, kept from one compilation to the next.
//!
//! Compiling an expression takes up to ten milliseconds, more than everything else about hundreds of rules. So it is done
//! once for all rules of all teams that have it. Kept are those that some route uses; nothing else of a result depends on
//! what is kept.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::matching::{CompiledRegex, RegexError};
use crate::model::search_regex::SearchRegex;

/// The most bytes that the compiled expressions of one route take, each counted once: hundreds of usual ones, a dozen of the
/// largest. It bounds the time that a change of one route can cost, too.
pub(super) const MOST_BYTES_IN_ROUTE: usize = 2 << 20;

/// What a route must not exceed, for messages.
pub(super) const TOO_MANY_EXPRESSIONS: &str = "expressions that take at most 2 MiB compiled in one route";

/// Why there is no expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExpressionError {
    /// It cannot be used anywhere.
    Regex(RegexError),
    /// The route has used up its share.
    TooManyInRoute,
}

/// The expressions that routes use.
#[derive(Debug, Default)]
pub struct Expressions {
    matching: FxHashMap<Box<str>, Kept<Arc<CompiledRegex>>>,
    searching: FxHashMap<Box<str>, Kept<SearchRegex>>,
    /// Number of the route that asks now.
    route: u64,
    /// What the expressions of the route take.
    bytes: usize,
}

#[derive(Debug)]
struct Kept<T> {
    compiled: Result<T, RegexError>,
    bytes: usize,
    /// The last route that asked for it.
    route: u64,
}

impl Expressions {
    /// Begins the next route, with a share of its own.
    pub(super) fn begin_route(&mut self) {
        self.route += 1;
        self.bytes = 0;
    }

    /// Drops what no route uses any more. What cannot be compiled is found out again by each route that is compiled.
    pub(super) fn prune(&mut self) {
        self.matching.retain(|_, kept| kept.compiled.as_ref().is_ok_and(|regex| Arc::strong_count(regex) > 1));
        self.searching.retain(|_, kept| kept.compiled.as_ref().is_ok_and(SearchRegex::is_shared));
    }

    /// An expression that matches whole values.
    pub(super) fn matching(&mut self, pattern: &str) -> Result<Arc<CompiledRegex>, ExpressionError> {
        let compile = || CompiledRegex::compile(pattern).map(|regex| (regex.memory_usage(), Arc::new(regex)));
        get(&mut self.matching, pattern, self.route, &mut self.bytes, compile)
    }

    /// An expression that is searched for.
    pub(super) fn searching(&mut self, pattern: &str) -> Result<SearchRegex, ExpressionError> {
        let compile = || SearchRegex::compile(pattern).map(|regex| (regex.memory_usage(), regex));
        get(&mut self.searching, pattern, self.route, &mut self.bytes, compile)
    }
}

fn get<T: Clone>(
    kept: &mut FxHashMap<Box<str>, Kept<T>>,
    pattern: &str,
    route: u64,
    used: &mut usize,
    compile: impl FnOnce() -> Result<(usize, T), RegexError>,
) -> Result<T, ExpressionError> {
    let is_counted = kept.get(pattern).is_some_and(|known| known.route == route);
    // A route that has used up its share costs no more time, and what it is told does not depend on what is kept.
    if !is_counted && *used >= MOST_BYTES_IN_ROUTE {
        return Err(ExpressionError::TooManyInRoute);
    }
    let kept = kept.entry(pattern.into()).or_insert_with(|| match compile() {
        Ok((bytes, compiled)) => Kept { compiled: Ok(compiled), bytes, route: 0 },
        Err(error) => Kept { compiled: Err(error), bytes: 0, route: 0 },
    });
    if !is_counted {
        let all = *used + kept.bytes;
        *used = all.min(MOST_BYTES_IN_ROUTE);
        if all > MOST_BYTES_IN_ROUTE {
            return Err(ExpressionError::TooManyInRoute);
        }
        kept.route = route;
    }
    kept.compiled.clone().map_err(ExpressionError::Regex)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An expression whose table is too large, so that it counts as one of the largest.
    fn costly(number: usize) -> String {
        format!("/{number}/(a|b)*a(a|b){{14}}")
    }

    #[test]
    fn an_expression_is_compiled_once_and_dropped_when_no_route_uses_it() {
        let mut expressions = Expressions::default();
        let mut ask = |patterns: &[&str]| {
            expressions.prune();
            expressions.begin_route();
            patterns.iter().map(|pattern| expressions.matching(pattern)).collect::<Vec<_>>()
        };
        let first = ask(&["/a", "/b", "("]);
        let second = ask(&["/b", "/c"]);
        let same = |a: &Result<Arc<CompiledRegex>, ExpressionError>, b: &Result<_, _>| match (a, b) {
            (Ok(a), Ok(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        assert!(same(&first[1], &second[0]), "kept");
        assert!(matches!(first[2], Err(ExpressionError::Regex(RegexError::Syntax(_)))));
        assert!(same(&first[0], &ask(&["/a"])[0]), "as long as it is used");
        drop((first, second));
        ask(&[]);
        assert_eq!((expressions.matching.len(), expressions.searching.len()), (0, 0));
    }

    #[test]
    fn an_expression_that_is_searched_for_stays_as_long_as_it_is_used() {
        let mut expressions = Expressions::default();
        let used = expressions.searching("/a").expect("an expression");
        assert!(expressions.searching("(").is_err());
        expressions.prune();
        assert_eq!(expressions.searching.len(), 1);
        drop(used);
        expressions.prune();
        assert_eq!(expressions.searching.len(), 0);
    }

    #[test]
    fn a_route_has_a_share_whatever_is_known_already() {
        let count = |expressions: &mut Expressions, patterns: &[String]| {
            expressions.begin_route();
            patterns.iter().filter(|pattern| expressions.matching(pattern).is_ok()).count()
        };
        let patterns: Vec<String> = (0..24).map(costly).collect();
        let mut expressions = Expressions::default();
        let first = count(&mut expressions, &patterns);
        assert!((8..24).contains(&first), "{first}");
        assert_eq!(expressions.matching("/small"), Err(ExpressionError::TooManyInRoute));
        let again: Vec<String> = patterns[..first].iter().chain(&patterns[..first]).cloned().collect();
        assert_eq!(count(&mut expressions, &again), 2 * first, "the same ones count once");
        assert_eq!(count(&mut expressions, &patterns[first..]), patterns.len() - first, "another route");
        assert_eq!(count(&mut expressions, &patterns), first, "the same when all are known");
        expressions.prune();
        assert_eq!(count(&mut expressions, &patterns), first, "the same when none is known");
    }
}
