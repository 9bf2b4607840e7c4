//! Edits of a path, as redirects and rewrites have them.

use std::sync::Arc;

use super::faults::Faults;
use crate::api::filter as api;
use crate::api::open_enum::OpenEnum;
use crate::compile::expressions::{ExpressionError, TOO_MANY_EXPRESSIONS};
use crate::compile::matches::Predicate;
use crate::compile::report::FieldPath;
use crate::model::filter::{PathEdit, TemplatePart};
use crate::model::matching::PathMatch;
use crate::model::path::{CanonicalPath, Slashes, normalize_route_path};

/// The edit of a path; `None` after a report.
pub(super) fn path_edit(
    modifier: &api::PathModifier,
    at: FieldPath<'_>,
    predicates: Option<&[Predicate]>,
    report: &mut Faults<'_, '_>,
) -> Option<PathEdit> {
    let (member, missing) = match modifier.r#type.known() {
        Some(api::PathModifierType::ReplaceFullPath) => ("replaceFullPath", modifier.replace_full_path.is_none()),
        Some(api::PathModifierType::ReplacePrefixMatch) => {
            ("replacePrefixMatch", modifier.replace_prefix_match.is_none())
        }
        Some(api::PathModifierType::ReplaceTemplate) => ("replaceTemplate", modifier.replace_template.is_none()),
        Some(api::PathModifierType::ReplaceRegularExpression) => {
            ("replaceRegularExpression", modifier.replace_regular_expression.is_none())
        }
        None => {
            let expected = OpenEnum::<api::PathModifierType>::expected();
            report.drop_rule(at.field("type"), format!("{:?}", modifier.r#type.as_str()), expected);
            return None;
        }
    };
    let at = at.field(member);
    if missing {
        report.drop_rule(at, "nothing", format!("{member}, as type says"));
        return None;
    }
    if let Some(full) = &modifier.replace_full_path {
        return canonical(full, at, report).map(PathEdit::Full);
    }
    if let Some(prefix) = &modifier.replace_prefix_match {
        return replace_prefix(prefix, at, predicates, report);
    }
    if let Some(template) = &modifier.replace_template {
        return replace_template(template, at, predicates, report).map(PathEdit::Template);
    }
    let regex = modifier.replace_regular_expression.as_ref()?;
    replace_regex(&regex.pattern, &regex.substitution, at, report)
}

/// A path as it will be sent.
fn canonical(text: &str, at: FieldPath<'_>, report: &mut Faults<'_, '_>) -> Option<Arc<str>> {
    match normalize_route_path(text) {
        Ok(text) => Some(text.as_ref().into()),
        Err(error) => {
            report.drop_rule(at, format!("{text:?}"), format!("a path: {error}"));
            None
        }
    }
}

fn replace_prefix(
    replacement: &str,
    at: FieldPath<'_>,
    predicates: Option<&[Predicate]>,
    report: &mut Faults<'_, '_>,
) -> Option<PathEdit> {
    let Some([Predicate { path: PathMatch::Prefix(matched), .. }]) = predicates else {
        report.drop_rule(at, format!("{replacement:?}"), "a rule with exactly one match, of type PathPrefix");
        return None;
    };
    let replacement = prefix(replacement, at, report)?;
    Some(PathEdit::Prefix { matched: Arc::clone(matched), replacement })
}

/// What stands before a path as it will be sent: without a slash at its end.
pub(super) fn prefix(text: &str, at: FieldPath<'_>, report: &mut Faults<'_, '_>) -> Option<Arc<str>> {
    if text.is_empty() {
        return Some("".into());
    }
    let prefix = canonical(text, at, report)?;
    Some(prefix.strip_suffix('/').map_or_else(|| Arc::clone(&prefix), Arc::from))
}

fn replace_template(
    text: &str,
    at: FieldPath<'_>,
    predicates: Option<&[Predicate]>,
    report: &mut Faults<'_, '_>,
) -> Option<Vec<TemplatePart>> {
    let predicates = predicates.unwrap_or_default();
    let template = |predicate: &Predicate| matches!(predicate.path, PathMatch::Template(_));
    if predicates.is_empty() || !predicates.iter().all(template) {
        report.drop_rule(at, format!("{text:?}"), "a rule whose matches all are of type Template");
        return None;
    }
    let has = |predicate: &Predicate, name: &str| match &predicate.path {
        PathMatch::Template(template) => template.names().any(|own| own == name),
        PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => false,
    };
    let (mut parts, mut sample, mut rest) = (Vec::new(), String::new(), text);
    while let Some((literal, behind)) = rest.split_once('{') {
        let Some((name, after)) = behind.split_once('}') else { break };
        if !predicates.iter().all(|predicate| has(predicate, name)) {
            let expected = "variables that the template of every match of the rule has";
            report.drop_rule(at, format!("{{{name}}} in {text:?}"), expected);
            return None;
        }
        if !literal.is_empty() {
            parts.push(TemplatePart::Text(literal.into()));
        }
        parts.push(TemplatePart::Variable(name.into()));
        sample.push_str(literal);
        // Stands for any value, which is canonical itself.
        sample.push('v');
        rest = after;
    }
    sample.push_str(rest);
    if sample.contains(['{', '}']) {
        report.drop_rule(at, format!("{text:?}"), "braces only as {name}");
        return None;
    }
    let canonical = canonical(&sample, at, report)?;
    if *canonical != *sample {
        let expected = "a path in canonical form: no '//', no dot segments, no needless escapes";
        report.drop_rule(at, format!("{text:?}"), expected);
        return None;
    }
    if !rest.is_empty() {
        parts.push(TemplatePart::Text(rest.into()));
    }
    Some(parts)
}

fn replace_regex(
    pattern: &str,
    substitution: &str,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<PathEdit> {
    let compiled = match report.expressions.searching(pattern) {
        Ok(compiled) => compiled,
        Err(error) => {
            let expected = match error {
                ExpressionError::Regex(error) => format!("a regular expression: {error}"),
                ExpressionError::TooManyInRoute => TOO_MANY_EXPRESSIONS.to_owned(),
            };
            report.drop_rule(at.field("pattern"), format!("{pattern:?}"), expected);
            return None;
        }
    };
    let at = at.field("substitution");
    let (mut literal, mut rest) = (String::from("/"), substitution);
    while let Some((text, behind)) = rest.split_once('$') {
        literal.push_str(text);
        let (name, after) = match behind.strip_prefix('{') {
            Some(braced) => match braced.split_once('}') {
                Some(parts) => parts,
                None => {
                    let expected = "groups as $1 or ${name}; $$ for a dollar sign";
                    report.drop_rule(at, format!("${behind} without its }} in {substitution:?}"), expected);
                    return None;
                }
            },
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                behind.split_at(behind.find(|c| !word(c)).unwrap_or(behind.len()))
            }
        };
        if name.is_empty() && behind.starts_with('$') {
            literal.push('$');
            rest = &behind[1..];
            continue;
        }
        if !compiled.has_group(name) {
            let expected = "groups that the pattern has; $$ for a dollar sign";
            report.drop_rule(at, format!("${name} in {substitution:?}"), expected);
            return None;
        }
        rest = after;
    }
    literal.push_str(rest);
    if let Err(error) = CanonicalPath::parse(literal.as_bytes(), Slashes::Merge) {
        report.drop_rule(at, format!("{substitution:?}"), format!("text that may stand in a path: {error}"));
        return None;
    }
    Some(PathEdit::Regex { pattern: compiled, substitution: substitution.into() })
}
