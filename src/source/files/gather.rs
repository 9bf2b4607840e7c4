//! The files that the paths of a command line name.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::encoding::decode;
use super::state::Reading;
use super::watcher::{is_manifest, read_file};
use super::yaml::Format;

/// Name of standard input among paths.
pub const STDIN: &str = "-";

/// Reads all that the paths name, in their order: files, directories (flat, by name, as `standalone` reads them), and `-`
/// for standard input. A file that is named twice is read once.
///
/// # Errors
///
/// A sentence on the first path that cannot be read.
pub fn gather(paths: &[PathBuf], stdin: &mut dyn Read) -> Result<Vec<(PathBuf, Reading)>, String> {
    let mut seen = BTreeSet::new();
    let mut readings = Vec::new();
    for path in paths {
        if path.as_os_str() == STDIN {
            let mut bytes = Vec::new();
            stdin.read_to_end(&mut bytes).map_err(|error| format!("cannot read standard input: {error}"))?;
            let json = decode(&bytes).is_ok_and(|text| Format::guess(&text) == Format::Json);
            let name = if json { "<stdin>.json" } else { "<stdin>" };
            readings.push((PathBuf::from(name), Reading::Content(bytes)));
            continue;
        }
        for file in files(path).map_err(|error| format!("cannot read {}: {error}", path.display()))? {
            if !seen.insert(file.clone()) {
                continue;
            }
            match read_file(&file) {
                // A link that leads nowhere, or a file that went away just now.
                Reading::Gone => {}
                Reading::Unreadable(why) => return Err(format!("cannot read {}: {why}", file.display())),
                content @ Reading::Content(_) => readings.push((file, content)),
            }
        }
    }
    Ok(readings)
}

/// The file of this path, or the manifests of this directory.
fn files(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(BTreeSet::from([path.to_owned()]));
    }
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        if entry.file_name().is_some_and(is_manifest) && !entry.is_dir() {
            files.insert(entry);
        }
    }
    Ok(files)
}
