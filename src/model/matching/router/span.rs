//! How the tables of the router point at things: numbers instead of pointers, pieces of one text instead of many texts.

use super::table::count;

/// A piece of a text that holds many.
#[derive(Clone, Copy, Default)]
pub(super) struct Span {
    pub(super) from: u32,
    pub(super) len: u32,
}

impl Span {
    /// Writes a piece at the end of the text.
    pub(super) fn push(text: &mut String, piece: &str) -> Self {
        let span = Self { from: count(text.len()), len: count(piece.len()) };
        text.push_str(piece);
        span
    }

    pub(super) fn of(self, text: &str) -> &str {
        &text[self.from as usize..][..self.len as usize]
    }
}
