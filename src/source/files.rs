//! Objects from a directory of manifests.
//!
//! * [`encoding`]: bytes to text. [`yaml`]: text to documents, documents to values, field paths to places.
//! * [`admit`]: what an API server would do with a manifest. [`document`]: values to validated objects.
//! * [`path`]: field paths, taken apart.
//! * [`state`]: last good state of a directory, without files, threads and clocks.
//! * [`watcher`]: the thread that feeds it. [`gather`]: reads what a command line names, once.

pub mod admit;
pub mod document;
pub mod encoding;
pub mod gather;
pub mod path;
pub mod state;
pub mod watcher;
pub mod yaml;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use self::state::Reading;
use self::yaml::{Format, Places};
use crate::compile::diagnostics::Diagnostic;

pub use watcher::{FileSource, StartError};

/// Moves diagnostics from the start of their object to the field that they name, by reading the files once more. What
/// changed meanwhile keeps its place. Costs as much as parsing these documents.
pub fn refine(diagnostics: &mut [Diagnostic]) {
    let mut texts: HashMap<Arc<PathBuf>, Option<String>> = HashMap::new();
    refine_with(diagnostics, |file| {
        let text = texts.entry(Arc::clone(file)).or_insert_with(|| match watcher::read_file(file) {
            Reading::Content(bytes) => encoding::decode(&bytes).ok().map(Cow::into_owned),
            Reading::Gone | Reading::Unreadable(_) => None,
        });
        text.clone()
    });
}

/// [`refine`] with the texts of files from elsewhere.
pub fn refine_with(diagnostics: &mut [Diagnostic], mut text: impl FnMut(&Arc<PathBuf>) -> Option<String>) {
    // Diagnostics about one object follow each other, so that the last document is often the next one too.
    let mut last: Option<(Arc<PathBuf>, u32, u32, Option<Places>)> = None;
    for diagnostic in diagnostics.iter_mut().filter(|diagnostic| !diagnostic.path.is_empty()) {
        let Some(origin) = diagnostic.origin.as_mut() else { continue };
        if !last.as_ref().is_some_and(|(file, document, ..)| *file == origin.file && *document == origin.document) {
            let text = text(&origin.file).unwrap_or_default();
            let documents = yaml::split(&text, Format::of(&origin.file));
            let document = documents.get(origin.document as usize);
            let (line, places) = document.map_or((1, None), |document| (document.line, Places::read(document.text)));
            last = Some((Arc::clone(&origin.file), origin.document, line, places));
        }
        let Some((_, _, first, Some(places))) = &last else { continue };
        let Some(line) = (origin.line + 1).checked_sub(*first) else { continue };
        if let Some((line, column)) = places.find_in((line, origin.column), &diagnostic.path) {
            origin.line = first + line - 1;
            origin.column = column;
        }
    }
}
