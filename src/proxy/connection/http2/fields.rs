//! Finds pseudo fields in the blocks of fields that a client sends (RFC 7541), which h2 drops from trailers without a word.
//!
//! Fields are not decoded. What is followed is where each begins, whether its name begins with a colon, and the table of both
//! sides: a field may be no more than a number in it. Of an entry of the table two things are kept: its size, which decides
//! when it leaves, and whether it is a pseudo field.
//!
//! Pure: bytes in, however they are split. Bytes that break the rules are h2's to refuse: nothing is found in them or behind
//! them, and h2 ends the connection at the same byte.

use std::collections::VecDeque;

/// The size of the table as long as SETTINGS say nothing else (RFC 9113 §6.5.2).
const TABLE: u32 = 4096;
/// What an entry takes beside its name and its value (RFC 7541 §4.1).
const ENTRY: u32 = 32;
/// The entries of the static table, of which the first ones are pseudo fields (RFC 7541 Appendix A).
const STATIC: u32 = 61;
const STATIC_PSEUDO: u32 = 14;
/// The bytes of the names in the static table, in its order.
const STATIC_NAMES: [u8; STATIC as usize] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4,
    4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

/// What a string is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Name,
    Value,
}

/// Where in a block the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the beginning of a field.
    Field,
    /// In the number of an entry, with so many bits of it.
    Index { number: u32, bits: u32, is_whole_field: bool },
    /// In a new size of the table.
    Size { number: u32, bits: u32 },
    /// At the beginning of a string.
    Length(Part),
    /// In the length of a string.
    LongLength { part: Part, is_coded: bool, number: u32, bits: u32 },
    /// In a string, with so many bytes left.
    Text { part: Part, code: Option<Huffman>, left: u32, is_first: bool },
    /// Behind a byte that breaks the rules.
    Broken,
}

/// Follows the blocks of fields of one direction.
#[derive(Debug)]
pub(super) struct FieldFollower {
    state: State,
    /// The field goes into the table.
    is_kept: bool,
    /// Whether its name begins with a colon, and the bytes of the name, and of both name and value so far.
    is_pseudo: bool,
    name: u32,
    size: u32,
    /// The most that the table may hold, and what it holds: the newest entry first.
    most: u32,
    sum: u32,
    table: VecDeque<Entry>,
}

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    name: u16,
    size: u16,
    is_pseudo: bool,
}

impl Default for FieldFollower {
    fn default() -> Self {
        Self {
            state: State::Field,
            is_kept: false,
            is_pseudo: false,
            name: 0,
            size: 0,
            most: TABLE,
            sum: 0,
            table: VecDeque::new(),
        }
    }
}

impl FieldFollower {
    /// Begins a block of fields.
    pub(super) fn begin(&mut self) {
        if self.state != State::Broken {
            self.state = State::Field;
        }
    }

    /// Goes on at `bytes` of a block; whether a pseudo field ends in them.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while let Some((&byte, rest)) = bytes.split_first() {
            if let State::Text { part, code: None, left, is_first: false } = &mut self.state {
                // The bytes themselves are of no interest.
                let (part, taken) = (*part, usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len()));
                *left -= u32::try_from(taken).unwrap_or(*left);
                if *left == 0 {
                    found |= self.end(part);
                }
                bytes = bytes.get(taken..).unwrap_or_default();
                continue;
            }
            found |= self.step(byte);
            bytes = rest;
        }
        found
    }

    /// Takes one byte; whether a pseudo field ends with it.
    fn step(&mut self, byte: u8) -> bool {
        match self.state {
            State::Field => self.begin_field(byte),
            State::Index { number, bits, is_whole_field } => match longer(number, bits, byte) {
                Longer::More(number, bits) => self.goes_on(State::Index { number, bits, is_whole_field }),
                Longer::Whole(number) => self.named(number, is_whole_field),
                Longer::TooLong => self.breaks(),
            },
            State::Size { number, bits } => match longer(number, bits, byte) {
                Longer::More(number, bits) => self.goes_on(State::Size { number, bits }),
                Longer::Whole(number) => self.resize(number),
                Longer::TooLong => self.breaks(),
            },
            State::Length(part) => {
                let is_coded = byte & 0x80 != 0;
                match short(byte, 7) {
                    Some(length) => self.begin_text(part, is_coded, length),
                    None => self.goes_on(State::LongLength { part, is_coded, number: 0x7f, bits: 0 }),
                }
            }
            State::LongLength { part, is_coded, number, bits } => match longer(number, bits, byte) {
                Longer::More(number, bits) => self.goes_on(State::LongLength { part, is_coded, number, bits }),
                Longer::Whole(length) => self.begin_text(part, is_coded, length),
                Longer::TooLong => self.breaks(),
            },
            State::Text { part, code, left, is_first } => self.text(part, code, left, is_first, byte),
            State::Broken => false,
        }
    }

    fn goes_on(&mut self, state: State) -> bool {
        self.state = state;
        false
    }

    fn breaks(&mut self) -> bool {
        self.table = VecDeque::new();
        self.goes_on(State::Broken)
    }

    /// The first byte of a field, or of a new size (RFC 7541 §6).
    fn begin_field(&mut self, byte: u8) -> bool {
        (self.is_kept, self.size, self.is_pseudo) = (byte & 0xc0 == 0x40, 0, false);
        let (bits, is_whole_field) = match byte {
            0x80.. => (7, true),
            0x40..=0x7f => (6, false),
            0x20..=0x3f => {
                return match short(byte, 5) {
                    Some(size) => self.resize(size),
                    None => self.goes_on(State::Size { number: 0x1f, bits: 0 }),
                };
            }
            ..=0x1f => (4, false),
        };
        match short(byte, bits) {
            Some(number) => self.named(number, is_whole_field),
            None => self.goes_on(State::Index { number: (1 << bits) - 1, bits: 0, is_whole_field }),
        }
    }

    /// A field, or its name, is entry `number` of the tables; 0 is a name that follows.
    fn named(&mut self, number: u32, is_whole_field: bool) -> bool {
        if number == 0 {
            return if is_whole_field { self.breaks() } else { self.goes_on(State::Length(Part::Name)) };
        }
        let (name, is_pseudo) = if number <= STATIC {
            let name = STATIC_NAMES.get(number as usize - 1).copied().unwrap_or_default();
            (u16::from(name), number <= STATIC_PSEUDO)
        } else {
            match self.table.get((number - STATIC - 1) as usize) {
                Some(entry) => (entry.name, entry.is_pseudo),
                None => return self.breaks(),
            }
        };
        if is_whole_field {
            self.state = State::Field;
            return is_pseudo;
        }
        (self.size, self.is_pseudo) = (u32::from(name), is_pseudo);
        self.name = self.size;
        self.goes_on(State::Length(Part::Value))
    }

    fn begin_text(&mut self, part: Part, is_coded: bool, length: u32) -> bool {
        if length == 0 {
            return self.end(part);
        }
        // The code has to be followed where the size counts.
        let code = (is_coded && self.is_kept).then(Huffman::default);
        let is_first = part == Part::Name;
        if code.is_none() {
            self.size = self.size.saturating_add(length);
        }
        if is_first && is_coded {
            // What a name begins with is in its first byte.
            return self.goes_on(State::Text { part, code: code.or(Some(Huffman::default())), left: length, is_first });
        }
        self.goes_on(State::Text { part, code, left: length, is_first })
    }

    fn text(&mut self, part: Part, code: Option<Huffman>, left: u32, is_first: bool, byte: u8) -> bool {
        let mut code = code;
        if is_first {
            self.is_pseudo = if code.is_some() { byte >> 1 == Huffman::COLON } else { byte == b':' };
        }
        if let Some(code) = &mut code {
            let symbols = code.read(byte);
            if self.is_kept {
                self.size = self.size.saturating_add(symbols);
            }
        }
        if left > 1 {
            // Where the size does not count, the rest of the name is skipped.
            let code = code.filter(|_| self.is_kept);
            return self.goes_on(State::Text { part, code, left: left - 1, is_first: false });
        }
        self.end(part)
    }

    /// A string is complete; whether that ends a pseudo field.
    fn end(&mut self, part: Part) -> bool {
        match part {
            Part::Name => {
                self.name = self.size;
                self.goes_on(State::Length(Part::Value))
            }
            Part::Value => {
                self.state = State::Field;
                if self.is_kept {
                    self.keep();
                }
                self.is_pseudo
            }
        }
    }

    /// Puts the field into the table, from which the oldest entries leave for it (RFC 7541 §4.4).
    fn keep(&mut self) {
        let size = self.size.saturating_add(ENTRY);
        self.shrink_to(self.most.saturating_sub(size));
        // One that is larger than the table empties it and does not stay.
        if size <= self.most
            && let (Ok(name), Ok(size)) = (u16::try_from(self.name), u16::try_from(size))
        {
            self.sum += u32::from(size);
            self.table.push_front(Entry { name, size, is_pseudo: self.is_pseudo });
        }
    }

    fn shrink_to(&mut self, most: u32) {
        while self.sum > most
            && let Some(entry) = self.table.pop_back()
        {
            self.sum -= u32::from(entry.size);
        }
    }

    fn resize(&mut self, size: u32) -> bool {
        if size > TABLE {
            return self.breaks();
        }
        self.most = size;
        self.shrink_to(size);
        self.goes_on(State::Field)
    }
}

/// A number in the lowest `bits` of its first byte; `None` when it goes on (RFC 7541 §5.1).
fn short(byte: u8, bits: u32) -> Option<u32> {
    let most = (1_u32 << bits) - 1;
    let number = u32::from(byte) & most;
    (number < most).then_some(number)
}

/// What another byte of a number makes of it.
enum Longer {
    More(u32, u32),
    Whole(u32),
    /// Longer than any number that has a use here, and than h2 takes.
    TooLong,
}

fn longer(number: u32, bits: u32, byte: u8) -> Longer {
    if bits > 21 {
        return Longer::TooLong;
    }
    let number = number + (u32::from(byte & 0x7f) << bits);
    if byte & 0x80 == 0 { Longer::Whole(number) } else { Longer::More(number, bits + 7) }
}

/// Counts the symbols of a text in Huffman's code, whose codes of one length are consecutive numbers (RFC 7541 Appendix B).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Huffman {
    /// Bits that are no whole symbol yet, and their number.
    code: u32,
    bits: u32,
}

impl Huffman {
    /// The code of a colon, of seven bits.
    const COLON: u8 = 0x5c;
    /// How many symbols have a code of so many bits.
    const SYMBOLS: [u32; 31] =
        [0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];
    /// Behind the codes of one length: the first number of that length that begins longer ones.
    const ENDS: [u32; 31] = {
        let mut ends = [0; 31];
        let (mut bits, mut next) = (1, 0);
        while bits < 31 {
            next = next * 2 + Self::SYMBOLS[bits];
            ends[bits] = next;
            bits += 1;
        }
        ends
    };

    /// The number of symbols that end in a byte.
    fn read(&mut self, byte: u8) -> u32 {
        let mut symbols = 0;
        for bit in (0..8).rev() {
            self.code = (self.code << 1) | u32::from((byte >> bit) & 1);
            self.bits += 1;
            // No code is longer than the table.
            if Self::ENDS.get(self.bits as usize).is_none_or(|end| self.code < *end) {
                *self = Self::default();
                symbols += 1;
            }
        }
        symbols
    }
}

#[cfg(test)]
mod tests;
