//! The cases and how they are read.

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// One step of the client.
#[derive(Clone, Debug)]
pub enum Step {
    Bytes(Vec<u8>),
    HalfClose,
}

impl Step {
    /// A number that depends on its bytes.
    pub fn sum(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.iter().map(|&byte| u64::from(byte)).sum(),
            Self::HalfClose => 1,
        }
    }
}

/// One case of the file.
#[derive(Clone, Debug)]
pub struct Case {
    pub id: String,
    pub title: String,
    pub must: String,
    pub send: Vec<Step>,
    pub accept: Vec<Value>,
}

/// What the backend does for targets with a certain end.
#[derive(Clone, Debug)]
pub struct Script {
    pub target_ends_with: String,
    pub at_head: bool,
    pub steps: Vec<Value>,
}

impl Script {
    /// What it sends, each time as a whole.
    pub fn sends(&self) -> impl Iterator<Item = Vec<u8>> {
        self.steps.iter().filter_map(|step| step.get("send")).map(|text| latin1(text.as_str().expect("a string")))
    }
}

/// The file.
#[derive(Clone, Debug)]
pub struct Cases {
    pub cases: Vec<Case>,
    pub scripts: Vec<Script>,
}

/// Loads the cases of `tests/data/wire-cases`.
pub fn load() -> Cases {
    load_from(Path::new(env!("CARGO_MANIFEST_DIR")))
}

/// As [`load`], with the folder of the repository.
pub fn load_from(root: &Path) -> Cases {
    let path = root.join("tests/data/wire-cases/http1.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file: Value = serde_json::from_str(&text).expect("the cases are JSON");
    assert_eq!(file["format"], 1);
    assert_eq!(file["host"], "a.test");
    let mut cases = Vec::new();
    let mut scripts = Vec::new();
    for case in file["cases"].as_array().expect("a list") {
        if let Some(backend) = case.get("backend") {
            scripts.push(Script {
                target_ends_with: string(&backend["target_ends_with"]),
                at_head: backend["when"] == "head",
                steps: backend["do"].as_array().expect("steps").clone(),
            });
        }
        cases.push(Case {
            id: string(&case["id"]),
            title: string(&case["title"]),
            must: string(&case["must"]),
            send: case["send"].as_array().expect("steps").iter().map(step).collect(),
            accept: case["accept"].as_array().expect("alternatives").clone(),
        });
    }
    Cases { cases, scripts }
}

fn string(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The bytes that a string of the file stands for (ISO 8859-1).
pub fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect()
}

fn step(step: &Value) -> Step {
    if step.get("half_close").is_some() {
        return Step::HalfClose;
    }
    let mut bytes = Vec::new();
    for part in step["bytes"].as_array().expect("parts") {
        match part {
            Value::String(text) => bytes.extend(latin1(text)),
            part => {
                let unit = latin1(part[0].as_str().expect("a string"));
                let times = usize::try_from(part[1].as_u64().expect("a count")).expect("fits");
                bytes.extend(unit.repeat(times));
            }
        }
    }
    assert_eq!(bytes.len() as u64, step["length"], "length of a step");
    let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sum, step["sha256"], "checksum of a step");
    Step::Bytes(bytes)
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}
