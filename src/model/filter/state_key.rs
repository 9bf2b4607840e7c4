//! Names of what filters keep beyond a request.

use std::fmt;
use std::sync::Arc;

use crate::model::ids::ObjectName;

/// Names the state of a filter that keeps one beyond a request, from version to version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StateKey {
    /// The route that the filter is written in.
    pub route: ObjectName,
    /// The list of that route.
    pub place: FilterList,
    /// The filter's type, as the API calls it.
    pub filter: &'static str,
    /// Its position among those of its type in the list.
    pub position: u16,
}

/// A list of filters in a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FilterList {
    /// `spec.filters`.
    Route,
    /// The filters of the rule of this name.
    Rule(Arc<str>),
    /// Those of one of its backendRefs, by position.
    BackendRef(Arc<str>, u32),
    /// No list, but the pool of this name, which filters of several lists share.
    Pool(Arc<str>),
}

/// Where in its route it stands, in a word, as metrics and messages say it.
impl fmt::Display for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            FilterList::Route => f.write_str("route")?,
            FilterList::Rule(rule) => f.write_str(rule)?,
            FilterList::BackendRef(rule, position) => write!(f, "{rule}/{position}")?,
            FilterList::Pool(pool) => write!(f, "pool/{pool}")?,
        }
        if self.position > 0 { write!(f, "[{}]", self.position) } else { Ok(()) }
    }
}
