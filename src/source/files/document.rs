//! One document of a file as objects: what is good in it, and what is wrong where.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;

use super::yaml::{self, Format, Places, SyntaxError};
use crate::api::object::{Identity, Item, Object, flatten};
use crate::api::reference_grant::ReferenceGrant;
use crate::api::validate::{Validator, Violation};
use crate::compile::diagnostics::ObjectRef;
use crate::compile::inputs::{Inputs, Sourced};
use crate::compile::objects::{EndpointSlice, Endpoints, Route, Service};
use crate::model::ids::ObjectName;

/// Kinds that are read, as they stand in [`ObjectRef::kind`].
const KINDS: [&str; 6] = ["GatewayRoute", "Service", "EndpointSlice", "Endpoints", "Namespace", "ReferenceGrant"];

/// A good object, shared by every version that has it.
#[derive(Clone, Debug)]
pub enum Stored {
    /// A GatewayRoute.
    Route(Arc<Route>),
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    Slice(Arc<EndpointSlice>),
    /// Core Endpoints.
    Endpoints(Arc<Endpoints>),
    /// A Namespace.
    Namespace(Arc<Namespace>),
    /// A ReferenceGrant.
    Grant(Arc<ReferenceGrant>),
}

impl Stored {
    /// An object of some inputs.
    pub(super) fn of(inputs: &Inputs, object: &ObjectRef) -> Option<Self> {
        fn share<T>(sourced: &Sourced<T>) -> Arc<T> {
            Arc::clone(&sourced.object)
        }
        let name = &object.name;
        match object.kind {
            "GatewayRoute" => inputs.routes.get(name).map(share).map(Self::Route),
            "Service" => inputs.services.get(name).map(share).map(Self::Service),
            "EndpointSlice" => inputs.slices.get(name).map(share).map(Self::Slice),
            "Endpoints" => inputs.endpoints.get(name).map(share).map(Self::Endpoints),
            "Namespace" => inputs.namespaces.get(&name.name).map(share).map(Self::Namespace),
            "ReferenceGrant" => inputs.grants.get(name).map(share).map(Self::Grant),
            _ => None,
        }
    }
}

/// Line and column in the document, from 1.
pub type Place = (u32, u32);

/// Something wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path, found and expected; the path begins at the object's root.
    pub violation: Violation,
    /// Where in the document.
    pub place: Place,
}

/// One object of a document, good or not.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who it is; `None` when it does not say, or is of a kind that is not read.
    pub object: Option<ObjectRef>,
    /// Where it begins in the document.
    pub place: Place,
    /// The object, or all that is wrong with it.
    pub outcome: Result<Stored, Vec<Fault>>,
}

/// Parses a document and validates its objects. One that is no object at all is one entry without a name.
///
/// # Errors
///
/// When it is not YAML or JSON.
pub fn read(validator: &Validator, text: &str, format: Format) -> Result<Vec<Entry>, SyntaxError> {
    let value = yaml::parse(text, format)?;
    let mut places = LazyPlaces { text, places: None };
    let items = match flatten(value) {
        Ok(items) => items,
        Err(violations) => {
            let faults = places.faults("", violations);
            return Ok(vec![Entry { object: None, place: places.find(""), outcome: Err(faults) }]);
        }
    };
    let mut entries = Vec::with_capacity(items.len());
    for Item { prefix, value } in items {
        let object = Identity::of(&value).and_then(object_ref);
        let parsed = Object::parse_one(validator, value);
        let place = if prefix.is_empty() { first_line(text) } else { places.find(&prefix) };
        let outcome = match parsed {
            Ok(object) => Ok(store(object)),
            Err(violations) => Err(places.faults(&prefix, violations)),
        };
        entries.push(Entry { object, place, outcome });
    }
    Ok(entries)
}

fn object_ref(identity: Identity) -> Option<ObjectRef> {
    let kind = KINDS.into_iter().find(|kind| *kind == identity.kind)?;
    let named = kind == "Namespace" || !identity.namespace.is_empty();
    (named && !identity.name.is_empty())
        .then(|| ObjectRef { kind, name: ObjectName::new(identity.namespace, identity.name) })
}

/// Keeps of an object what the compiler reads.
fn store(object: Object) -> Stored {
    match object {
        Object::GatewayRoute(object) => Stored::Route(Arc::new((*object).into())),
        Object::Service(object) => Stored::Service(Arc::new((*object).into())),
        Object::EndpointSlice(object) => Stored::Slice(Arc::new((*object).into())),
        Object::Endpoints(object) => Stored::Endpoints(Arc::new((*object).into())),
        Object::Namespace(object) => Stored::Namespace(Arc::new(*object)),
        Object::ReferenceGrant(object) => Stored::Grant(Arc::new(*object)),
    }
}

/// The first line with content; the column is that of its first character. Cheaper than parsing again.
fn first_line(text: &str) -> Place {
    let mut number = 0;
    for line in text.lines() {
        number += 1;
        let bare = line.strip_prefix("---").unwrap_or(line);
        let content = bare.trim_start();
        if !content.is_empty() && !content.starts_with(['#', '%']) {
            let column = u32::try_from(line.len() - content.len()).unwrap_or(u32::MAX).saturating_add(1);
            return (number, column);
        }
    }
    (number, 1)
}

/// Places are read on the first question: good documents never ask.
struct LazyPlaces<'a> {
    text: &'a str,
    places: Option<Option<Places>>,
}

impl LazyPlaces<'_> {
    fn find(&mut self, path: &str) -> Place {
        let places = self.places.get_or_insert_with(|| Places::read(self.text));
        places.as_ref().map_or_else(|| first_line(self.text), |places| places.find(path))
    }

    fn faults(&mut self, prefix: &str, violations: Vec<Violation>) -> Vec<Fault> {
        let mut fault = |violation: Violation| {
            let dot = if prefix.is_empty() || violation.path.is_empty() { "" } else { "." };
            let place = self.find(&format!("{prefix}{dot}{}", violation.path));
            Fault { violation, place }
        };
        violations.into_iter().map(&mut fault).collect()
    }
}
