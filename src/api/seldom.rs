//! Fields that most objects leave at their default.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that most objects leave at its default: one pointer, and a box for any other value. Thousands of objects are
/// held, each with many such fields.
///
/// In manifests and in the schema it is `T`.
pub struct Seldom<T: ?Sized>(Option<Box<Box<T>>>);

/// A type whose default value can be borrowed.
pub trait BorrowDefault: 'static {
    /// The default value.
    fn borrow_default() -> &'static Self;
}

impl BorrowDefault for str {
    fn borrow_default() -> &'static Self {
        ""
    }
}

impl<T: 'static> BorrowDefault for [T] {
    fn borrow_default() -> &'static Self {
        &[]
    }
}

impl<T: ?Sized> Default for Seldom<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: BorrowDefault + ?Sized> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().map_or(T::borrow_default(), |value| value)
    }
}

impl<T: ?Sized> Clone for Seldom<T>
where
    Box<T>: Clone,
{
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: BorrowDefault + fmt::Debug + ?Sized> fmt::Debug for Seldom<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: BorrowDefault + PartialEq + ?Sized> PartialEq for Seldom<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: BorrowDefault + Eq + ?Sized> Eq for Seldom<T> {}

impl<T: BorrowDefault + PartialEq + ?Sized> From<Box<T>> for Seldom<T> {
    fn from(value: Box<T>) -> Self {
        Self((*value != *T::borrow_default()).then(|| Box::new(value)))
    }
}

impl<T: BorrowDefault + Serialize + ?Sized> Serialize for Seldom<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de, T: BorrowDefault + PartialEq + ?Sized> Deserialize<'de> for Seldom<T>
where
    Box<T>: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<T>::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_not_held() {
        assert_eq!((size_of::<Seldom<str>>(), size_of::<Seldom<[u8]>>()), (8, 8));
        let read = |text: &str| serde_json::from_str::<Seldom<str>>(text).expect("a text");
        assert!(read(r#""""#).0.is_none());
        let some = read(r#""a""#);
        assert_eq!((&*some, serde_json::to_string(&some).expect("JSON").as_str()), ("a", r#""a""#));
        assert_eq!(serde_json::to_string(&Seldom::<[u8]>::default()).expect("JSON"), "[]");
        assert_ne!(some, Seldom::default());
    }
}
