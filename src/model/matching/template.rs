//! Path templates: literal elements, variables of one element, and a last variable for all that follows.

use std::sync::Arc;

/// Why a template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It does not begin with a slash.
    #[error("template does not begin with '/'")]
    NotAbsolute,
    /// An element has braces but is not a variable as a whole.
    #[error("element \"{0}\" is neither a literal nor {{name}} nor {{name*}}")]
    Element(String),
    /// A variable's name is empty or has other characters than letters, digits, `_`, `-` and `.`.
    #[error("\"{0}\" is no name of a variable")]
    Name(String),
    /// `{name*}` is followed by another element.
    #[error("\"{{{0}*}}\" is not the last element")]
    RestNotLast(String),
    /// Two variables have the same name.
    #[error("variable \"{0}\" is there twice")]
    Twice(String),
}

/// A parsed path template, such as `/users/{id}/files/{path*}`.
///
/// Every variable takes at least one byte: `{id}` one whole element, `{path*}` the rest of the path, slashes included.
/// Equality is that of the text; two templates that differ in names only have the same [`Self::shape`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Template {
    text: Arc<str>,
    literals: u32,
    variables: u32,
}

/// One element of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element<'a> {
    /// This text; empty for the end of a template that ends in a slash.
    Literal(&'a str),
    /// One element, under this name.
    Variable(&'a str),
    /// All that follows, under this name; only the last.
    Rest(&'a str),
}

impl<'a> Element<'a> {
    /// Reads an element of a template that was checked before.
    pub(super) fn of(element: &'a str) -> Self {
        match element.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
            None => Self::Literal(element),
            Some(inner) => inner.strip_suffix('*').map_or(Self::Variable(inner), Self::Rest),
        }
    }
}

impl Template {
    /// Parses a template whose literals are in canonical form already.
    ///
    /// # Errors
    /// See [`TemplateError`]; the first fault from the left.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let elements = text.strip_prefix('/').ok_or(TemplateError::NotAbsolute)?;
        let (mut literals, mut names) = (0, Vec::new());
        let mut rest = None;
        for element in elements.split('/') {
            if let Some(name) = rest {
                return Err(TemplateError::RestNotLast(String::from(name)));
            }
            let name = match Element::of(element) {
                Element::Literal(literal) if literal.contains(['{', '}']) => {
                    return Err(TemplateError::Element(literal.to_owned()));
                }
                Element::Literal(_) => {
                    literals += 1;
                    continue;
                }
                Element::Variable(name) => name,
                Element::Rest(name) => *rest.insert(name),
            };
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
                return Err(TemplateError::Name(name.to_owned()));
            }
            if names.contains(&name) {
                return Err(TemplateError::Twice(name.to_owned()));
            }
            names.push(name);
        }
        // Bounded by the length of the text, far below 2^32.
        let variables = u32::try_from(names.len()).unwrap_or(u32::MAX);
        Ok(Self { text: text.into(), literals, variables })
    }

    /// The template as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its elements from left to right; at least one.
    pub fn elements(&self) -> impl Iterator<Item = Element<'_>> {
        self.text[1..].split('/').map(Element::of)
    }

    /// The names of its variables from left to right, each once.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.elements().filter_map(|element| match element {
            Element::Literal(_) => None,
            Element::Variable(name) | Element::Rest(name) => Some(name),
        })
    }

    /// Number of literal elements: more are more specific.
    #[must_use]
    pub const fn literals(&self) -> u32 {
        self.literals
    }

    /// Number of variables; among templates that end in `{name*}`, more are more specific.
    #[must_use]
    pub const fn variables(&self) -> u32 {
        self.variables
    }

    /// Whether it ends in the wildcard `{name*}`, which is less specific than variables.
    #[must_use]
    pub fn has_rest(&self) -> bool {
        self.text.ends_with("*}")
    }

    /// The template with its names left out: equal for those that match the same paths.
    #[must_use]
    pub fn shape(&self) -> String {
        let mut shape = String::with_capacity(self.text.len());
        for element in self.elements() {
            shape.push('/');
            shape.push_str(match element {
                Element::Literal(literal) => literal,
                Element::Variable(_) => "{}",
                Element::Rest(_) => "{*}",
            });
        }
        shape
    }

    /// Whether a canonical path matches.
    #[must_use]
    pub fn is_match(&self, path: &str) -> bool {
        self.walk(path, |_, _| {})
    }

    /// What the variable `name` holds in a canonical path; `None` when there is no such variable or no match.
    #[must_use]
    pub fn param<'p>(&self, path: &'p str, name: &str) -> Option<&'p str> {
        let mut found = None;
        let matched = self.walk(path, |variable, value| {
            if variable == name {
                found = Some(value);
            }
        });
        found.filter(|_| matched)
    }

    /// Whether elements, separated by slashes, match the rest of a path; `None` for none, and for the end of the path.
    pub(super) fn elements_match(elements: Option<&str>, rest: Option<&str>) -> bool {
        walk(elements, rest, |_, _| {})
    }

    fn walk<'p>(&self, path: &'p str, variable: impl FnMut(&str, &'p str)) -> bool {
        path.strip_prefix('/').is_some_and(|rest| walk(Some(&self.text[1..]), Some(rest), variable))
    }
}

/// Holds a path against elements from left to right and reports each variable's value on the way.
fn walk<'p>(elements: Option<&str>, rest: Option<&'p str>, mut variable: impl FnMut(&str, &'p str)) -> bool {
    let (mut elements, mut left) = (elements, rest);
    while let Some(all) = elements {
        let Some(rest) = left else { return false };
        let (element, after) = split(all);
        elements = after;
        let element = Element::of(element);
        let (segment, after) = if matches!(element, Element::Rest(_)) { (rest, None) } else { split(rest) };
        match element {
            Element::Literal(literal) if literal != segment => return false,
            Element::Variable(_) | Element::Rest(_) if segment.is_empty() => return false,
            Element::Variable(name) | Element::Rest(name) => variable(name, segment),
            Element::Literal(_) => {}
        }
        left = after;
    }
    left.is_none()
}

/// The text before the first slash, and what follows it.
pub(super) fn split(text: &str) -> (&str, Option<&str>) {
    match memchr::memchr(b'/', text.as_bytes()) {
        Some(slash) => (&text[..slash], Some(&text[slash + 1..])),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names with their values.
    type Params<'a> = &'a [(&'a str, &'a str)];

    #[test]
    fn matches_whole_elements_and_gives_their_values() {
        let cases: [(&str, &str, Option<Params<'_>>); 15] = [
            ("/a/{id}", "/a/5", Some(&[("id", "5")])),
            ("/a/{id}", "/a/5/", None),
            ("/a/{id}", "/a/", None),
            ("/a/{id}", "/a", None),
            ("/a/{id}/", "/a/5/", Some(&[("id", "5")])),
            ("/a/{id}/b", "/a/x%2Fy/b", Some(&[("id", "x%2Fy")])),
            ("/{a}/{b}", "/1/2", Some(&[("a", "1"), ("b", "2")])),
            ("/{a}/{b}", "/1/2/3", None),
            ("/u/{id}/{rest*}", "/u/7/x/y/", Some(&[("id", "7"), ("rest", "x/y/")])),
            ("/u/{id}/{rest*}", "/u/7/", None),
            ("/u/{id}/{rest*}", "/u/7", None),
            ("/{rest*}", "/x", Some(&[("rest", "x")])),
            ("/{rest*}", "/", None),
            ("/a", "/a", Some(&[])),
            ("/", "/", Some(&[])),
        ];
        for (text, path, expected) in cases {
            let template = Template::parse(text).expect("good");
            assert_eq!(template.is_match(path), expected.is_some(), "{text} on {path}");
            for name in template.names() {
                let value =
                    expected.and_then(|params| params.iter().find(|param| param.0 == name)).map(|param| param.1);
                assert_eq!(template.param(path, name), value, "{name} of {text} on {path}");
            }
            assert_eq!(template.param(path, "other"), None);
        }
    }

    #[test]
    fn refuses_malformed_templates() {
        let cases = [
            ("a", TemplateError::NotAbsolute),
            ("", TemplateError::NotAbsolute),
            ("/a{id}", TemplateError::Element("a{id}".into())),
            ("/{id}a", TemplateError::Element("{id}a".into())),
            ("/{id", TemplateError::Element("{id".into())),
            ("/id}", TemplateError::Element("id}".into())),
            ("/{}", TemplateError::Name("".into())),
            ("/{*}", TemplateError::Name("".into())),
            ("/{a b}", TemplateError::Name("a b".into())),
            ("/{a}{b}", TemplateError::Name("a}{b".into())),
            ("/{r*}/a", TemplateError::RestNotLast("r".into())),
            ("/{r*}/", TemplateError::RestNotLast("r".into())),
            ("/{a}/{a}", TemplateError::Twice("a".into())),
            ("/{a}/b/{a*}", TemplateError::Twice("a".into())),
        ];
        for (text, error) in cases {
            assert_eq!(Template::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn knows_how_specific_it_is() {
        let template = Template::parse("/v1/{a}/b/{r*}").expect("good");
        assert_eq!((template.literals(), template.variables(), template.has_rest()), (2, 2, true));
        assert_eq!(template.names().collect::<Vec<_>>(), ["a", "r"]);
        assert_eq!(template.shape(), "/v1/{}/b/{*}");
        assert_eq!(template.shape(), Template::parse("/v1/{x}/b/{y*}").expect("good").shape());
    }
}
