//! Words that a stranger could not understand stay out of the repository: codes of rules that are written down nowhere,
//! numbers of decisions, names of files that are elsewhere, and phrases of our own.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// What must not stand in a line, and what is to be done instead.
const FORBIDDEN: &[(&str, &str)] = &[
    (r"\b(LN|RL|ML|CH|FI|PA|HO|UP|TU|RS|CO|HT)[0-9]{1,2}\b", "a rule's code: say the rule, and its RFC section"),
    (r"(?i)\bdecisions? [0-9]+", "a decision's number: say what was decided and why"),
    (r"(?i)\b(decisions|house|reliability|performance|policy|explain|style)\.md\b", "a file outside of the repository"),
    (r"\.\./shared", "a path outside of the repository"),
    (r"(^|[^\w.}/])/(home|root|Users)/", "a path of one machine"),
    (r"(?i)\bin force\b", "say supported, active or served"),
    (r"(?i)\blest\b|\bfor want of\b|\bnobody's\b|\bhangs on\b", "say it in plain words"),
];

/// Folders and files of which every line counts; `tests/data/wire-cases` explains its own codes.
const PLACES: &[&str] = &[
    "src",
    "tests",
    "manifests",
    "charts",
    "crds",
    "README.md",
    "Cargo.toml",
    "Dockerfile",
    ".ci",
    ".cargo",
    ".clippy.toml",
    ".deny.toml",
];

/// What is built or fetched, and what speaks about the words themselves.
fn is_skipped(path: &Path) -> bool {
    ["wire-cases", ".cache", ".bin", "words.rs"].iter().any(|name| path.ends_with(name))
}

fn read_folder(path: &Path, found: &mut Vec<PathBuf>) {
    if is_skipped(path) {
        return;
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a readable folder") {
            read_folder(&entry.expect("an entry").path(), found);
        }
    } else if path.is_file() {
        found.push(path.to_owned());
    }
}

#[test]
fn every_word_is_one_that_a_stranger_knows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    PLACES.iter().for_each(|place| read_folder(&root.join(place), &mut files));
    let forbidden: Vec<(Regex, &str)> =
        FORBIDDEN.iter().map(|(pattern, instead)| (Regex::new(pattern).expect("a pattern"), *instead)).collect();
    let checkout = root.to_str().expect("a path in UTF-8");
    let (mut read, mut wrong) = (0, Vec::new());
    for file in files {
        let name = file.strip_prefix(root).expect("below the root");
        // What is no text has no words.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        read += 1;
        for (number, line) in text.lines().enumerate() {
            if line.contains(checkout) {
                wrong.push(format!(
                    "{}:{}: {checkout:?}: where the repository lies on one machine",
                    name.display(),
                    number + 1
                ));
            }
            for (pattern, instead) in forbidden.iter().filter(|(pattern, _)| pattern.is_match(line)) {
                let found = pattern.find(line).map_or("", |found| found.as_str());
                wrong.push(format!("{}:{}: {found:?}: {instead}", name.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{} lines:\n{}", wrong.len(), wrong.join("\n"));
    assert!(read > 200, "only {read} files were read");
}

#[test]
fn the_patterns_find_what_they_are_for() {
    let samples = [
        "// as RL4 says",
        "decision 21",
        "see house.md",
        "../shared/cases",
        "in /home/me/x",
        "stays in force",
        "lest it",
    ];
    for (sample, (pattern, _)) in samples.iter().zip(FORBIDDEN) {
        assert!(Regex::new(pattern).expect("a pattern").is_match(sample), "{pattern} in {sample}");
    }
    for sample in
        ["FIN, RST", "HTTP/1.1", "the policy", "enforced", "UTF8", "RS256", "a decision", "a/home/b", "${dir}/root/x"]
    {
        let found = FORBIDDEN.iter().find(|(pattern, _)| Regex::new(pattern).expect("a pattern").is_match(sample));
        assert!(found.is_none(), "{sample}: {found:?}");
    }
}
