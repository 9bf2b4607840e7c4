//! Enums that outlive their version: a value is known, or kept as it was written.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A closed set of names in the API.
pub trait KnownValue: Copy + Eq + fmt::Debug + 'static {
    /// Every value, in the order of the schema.
    const ALL: &'static [Self];

    /// The name as it is written in manifests.
    fn as_str(self) -> &'static str;

    /// The value with this name; names are case-sensitive.
    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.as_str() == name)
    }
}

/// A value of the enum `T`, or a name that this version does not know.
///
/// A newer schema may know more names than this program. Such a name drops the rule that uses it, never the object, so
/// reading must not fail on it. The JSON schema is that of `T`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum OpenEnum<T> {
    /// A value that this version knows.
    Known(T),
    /// Anything else, as written.
    Unknown(Box<str>),
}

impl<T: KnownValue> OpenEnum<T> {
    /// The value, if this version knows it.
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Unknown(_) => None,
        }
    }

    /// True for exactly this known value.
    pub fn is(&self, value: T) -> bool {
        self.known() == Some(value)
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(value) => value.as_str(),
            Self::Unknown(name) => name,
        }
    }

    /// The known names, joined for a message: `Exact, PathPrefix or Template`.
    pub fn expected() -> String {
        let names: Vec<_> = T::ALL.iter().map(|value| value.as_str()).collect();
        match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => names.concat(),
        }
    }
}

impl<T> From<T> for OpenEnum<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: KnownValue + Default> Default for OpenEnum<T> {
    fn default() -> Self {
        Self::Known(T::default())
    }
}

impl<T: KnownValue> fmt::Display for OpenEnum<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<T: KnownValue> fmt::Debug for OpenEnum<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(value) => value.fmt(f),
            Self::Unknown(name) => write!(f, "Unknown({name:?})"),
        }
    }
}

impl<T: KnownValue> Serialize for OpenEnum<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, T: KnownValue> Deserialize<'de> for OpenEnum<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name<T>(std::marker::PhantomData<T>);

        impl<T: KnownValue> Visitor<'_> for Name<T> {
            type Value = OpenEnum<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name: ")?;
                f.write_str(&OpenEnum::<T>::expected())
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(T::from_name(name).map_or_else(|| OpenEnum::Unknown(name.into()), OpenEnum::Known))
            }
        }

        deserializer.deserialize_str(Name(std::marker::PhantomData))
    }
}

impl<T: KnownValue> JsonSchema for OpenEnum<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("OpenEnum")
    }

    fn schema_id() -> Cow<'static, str> {
        Cow::Owned(std::any::type_name::<Self>().to_owned())
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> = T::ALL.iter().map(|value| value.as_str()).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}

/// Declares an enum with its names in manifests, for use inside [`OpenEnum`]. `default X` after it adds `Default`.
macro_rules! known_values {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl $crate::api::open_enum::KnownValue for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
    ($(#[$meta:meta])* pub enum $name:ident { $($body:tt)+ } default $default:ident) => {
        $crate::api::open_enum::known_values! { $(#[$meta])* pub enum $name { $($body)+ } }

        impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        }
    };
}
pub(crate) use known_values;
