//! Host, path and value matching with its precedence order.
//!
//! The compile stage makes [`Candidate`]s, one for each match of each rule on each hostname; [`Router::build`] puts
//! them in their order of precedence and makes the tables by which [`Router::find`] gets from a request to the few
//! that can fit. Nothing here decides what happens with a request, and nothing here changes after it is built.

mod candidate;
mod cover;
mod precedence;
mod regex;
mod router;
mod template;
mod values;

pub use self::candidate::{
    Candidate, Conditions, FoundRule, Hostname, Miss, PathMatch, RequestView, ValueMatch, ValueTest,
};
pub use self::cover::Effort;
pub use self::precedence::{PredicateKey, arrange, in_order, is_tied, precedence};
pub use self::regex::{CompiledRegex, RegexError};
pub use self::router::Router;
pub use self::template::{Element, Template, TemplateError};

#[cfg(test)]
mod tests;
