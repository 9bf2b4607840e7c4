//! All kinds as one list, and what is the same for each: reading one, holding it, finding it by name.

use std::sync::Arc;

use serde_json::Value;

use super::backend_tls_policy::TlsPolicy;
use super::config_map::ConfigMap;
use super::endpoint_slice::EndpointSlice;
use super::endpoints::Endpoints;
use super::gateway_route::Route;
use super::kind::Kind;
use super::map::Map;
use super::namespace::Namespace;
use super::place::{ObjectRef, Origin, Sourced};
use super::reference_grant::Grant;
use super::secret::Secret;
use super::service::Service;
use super::violation::Violation;
use crate::model::ids::ObjectName;

/// A kind that [`Objects`] has a map of.
pub trait Listed: Kind {
    /// Its number.
    const ID: KindId;

    /// All objects of the kind.
    fn map(objects: &Objects) -> &Map<Self>;

    /// All objects of the kind, to be changed.
    fn map_mut(objects: &mut Objects) -> &mut Map<Self>;
}

/// From lines of the form `Variant(held type) in map` to the types that know every kind.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident($held:ty) in $map:ident;)+) => {
        /// Which kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum KindId {
            $($(#[doc = $doc])+ $variant,)+
        }

        /// An object of any kind, shared by every version of the configuration that has it.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $($(#[doc = $doc])+ $variant(Arc<$held>),)+
        }

        /// Objects of all kinds by name. Cheap to clone: maps and objects are shared.
        #[derive(Clone, Debug, Default)]
        pub struct Objects {
            $($(#[doc = $doc])+ pub $map: Map<$held>,)+
        }

        impl KindId {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The kind, as manifests write it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => <$held as Kind>::NAME,)+
                }
            }

            /// `apiVersion`s that are read, the preferred one first.
            #[must_use]
            pub const fn api_versions(self) -> &'static [&'static str] {
                match self {
                    $(Self::$variant => <$held as Kind>::API_VERSIONS,)+
                }
            }

            /// Objects belong to a namespace.
            #[must_use]
            pub const fn is_namespaced(self) -> bool {
                match self {
                    $(Self::$variant => <$held as Kind>::IS_NAMESPACED,)+
                }
            }

            /// An API server drops a `status` that a manifest states.
            #[must_use]
            pub const fn has_status(self) -> bool {
                match self {
                    $(Self::$variant => <$held as Kind>::HAS_STATUS,)+
                }
            }

            /// The schema of a manifest.
            #[must_use]
            pub fn schema(self) -> Value {
                match self {
                    $(Self::$variant => <$held as Kind>::schema(),)+
                }
            }

            /// Reads a manifest of this kind that its schema has accepted.
            ///
            /// # Errors
            /// What an API server would refuse beyond the schema.
            pub fn read(self, manifest: Value) -> Result<Object, Vec<Violation>> {
                match self {
                    $(Self::$variant => read::<$held>(manifest).map(|held| Object::$variant(Arc::new(held))),)+
                }
            }

            /// Reads an object that an API server keeps, whatever it may hold: the compiler tells what is strange.
            ///
            /// # Errors
            /// The object has another structure than the one that this version reads.
            pub fn hold(self, object: Value) -> Result<Object, serde_json::Error> {
                match self {
                    $(Self::$variant => {
                        serde_json::from_value(object).map(|it| Object::$variant(Arc::new(<$held as Kind>::reduce(it))))
                    })+
                }
            }
        }

        impl Object {
            /// Its kind.
            #[must_use]
            pub const fn kind(&self) -> KindId {
                match self {
                    $(Self::$variant(_) => KindId::$variant,)+
                }
            }
        }

        impl Objects {
            /// The object with a name, if there is one.
            #[must_use]
            pub fn get(&self, object: &ObjectRef) -> Option<Object> {
                match KindId::named(object.kind)? {
                    $(KindId::$variant => {
                        self.$map.get(&object.name).map(|found| Object::$variant(Arc::clone(&found.object)))
                    })+
                }
            }

            /// Puts an object in its map, in the place of one with the same name.
            pub fn insert(&mut self, name: ObjectName, object: Object, origin: Option<Origin>) {
                match object {
                    $(Object::$variant(object) => {
                        drop(self.$map.insert(name, Sourced { object, origin: origin.map(Box::new) }));
                    })+
                }
            }

            /// Takes an object out of the map of its kind.
            pub fn remove(&mut self, kind: KindId, name: &ObjectName) {
                match kind {
                    $(KindId::$variant => drop(self.$map.remove(name)),)+
                }
            }
        }

        $(impl Listed for $held {
            const ID: KindId = KindId::$variant;

            fn map(objects: &Objects) -> &Map<Self> {
                &objects.$map
            }

            fn map_mut(objects: &mut Objects) -> &mut Map<Self> {
                &mut objects.$map
            }
        })+
    };
}

kinds! {
    /// GatewayRoutes.
    GatewayRoute(Route) in routes;
    /// Services.
    Service(Service) in services;
    /// EndpointSlices.
    EndpointSlice(EndpointSlice) in slices;
    /// Core Endpoints.
    Endpoints(Endpoints) in endpoints;
    /// Namespaces.
    Namespace(Namespace) in namespaces;
    /// ReferenceGrants.
    ReferenceGrant(Grant) in grants;
    /// Secrets.
    Secret(Secret) in secrets;
    /// ConfigMaps.
    ConfigMap(ConfigMap) in config_maps;
    /// BackendTLSPolicies.
    BackendTlsPolicy(TlsPolicy) in tls_policies;
}

impl KindId {
    /// The kind that manifests write like this.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

fn read<K: Kind>(manifest: Value) -> Result<K, Vec<Violation>> {
    // The schema has accepted it, so this fails only where a type is narrower than its schema.
    let manifest: K::Manifest = serde_json::from_value(manifest).map_err(|error| {
        vec![Violation::new("", "a value that cannot be read", format!("an object of its schema ({error})"))]
    })?;
    let violations = K::check(&manifest);
    if violations.is_empty() { Ok(K::reduce(manifest)) } else { Err(violations) }
}
