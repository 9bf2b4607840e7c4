//! What a request is known to cost, kept in `baseline.txt` with the build that it holds for.
//!
//! Another profile, compiler or processor makes other code of the same source, so each line names all three.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::verdict::verdict;

/// What a request may cost beyond the baseline, as a part of it: more than two runs of one build differ by.
const ALLOWANCE: f64 = 0.02;

/// What one request costs.
#[derive(Clone, Copy)]
pub struct Costs {
    /// User instructions.
    pub instructions: f64,
    /// System calls.
    pub calls: f64,
}

/// Compares costs with those of the subject's build, or writes them down; true when none of them is above its bound.
///
/// # Errors
/// When the file cannot be read or written, and with `CI=true` also when it has no line for this build.
pub fn judge(subject: &Path, costs: Costs, record: bool) -> io::Result<bool> {
    let build = build(subject)?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/benches/gates/baseline.txt");
    let text = fs::read_to_string(&file)?;
    let Costs { instructions, calls } = costs;
    if record {
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| parse(line).is_none_or(|(other, _)| other != build))
            .map(str::to_owned)
            .collect();
        lines.push(format!("{build} {instructions:.0} {calls:.2}"));
        fs::write(&file, lines.join("\n") + "\n")?;
        println!("recorded: {instructions:.0} user instructions and {calls:.2} system calls per request of {build}");
        return Ok(true);
    }
    let Some((_, known)) = text.lines().filter_map(parse).find(|(other, _)| *other == build) else {
        let found = format!("{instructions:.0} user instructions and {calls:.2} system calls per request");
        let missing = format!("{found}, not compared: baseline.txt has no line for {build}; --record adds it");
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            return Err(io::Error::other(missing));
        }
        println!("{missing}");
        return Ok(true);
    };
    let mut met = true;
    let pairs = [
        ("user instructions per request", instructions, known.instructions, 0),
        ("system calls per request", calls, known.calls, 2),
    ];
    for (what, found, known, digits) in pairs {
        let bound = known * (1.0 + ALLOWANCE);
        let described = format!("{bound:.digits$}: the recorded {known:.digits$} and 2 %");
        met &= verdict(what, format!("{found:.digits$}"), described, found <= bound);
        if found < known * (1.0 - ALLOWANCE) {
            println!("{what}: better than recorded; --record keeps the gain");
        }
    }
    Ok(met)
}

/// Profile, compiler and processor of a build. Cargo names the folder of a binary after its profile, `release` also for
/// `bench`; a binary from elsewhere is taken for a build of the compiler that is there.
fn build(subject: &Path) -> io::Result<String> {
    let folder = subject.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let compiler = std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
    let output = Command::new(compiler).arg("--version").output()?;
    let version = String::from_utf8_lossy(&output.stdout);
    let version = version.split_whitespace().nth(1).unwrap_or("unknown").to_owned();
    Ok(format!("{folder} {version} {}", std::env::consts::ARCH))
}

/// A line `PROFILE COMPILER PROCESSOR INSTRUCTIONS CALLS`; `None` for a comment.
fn parse(line: &str) -> Option<(String, Costs)> {
    let line = line.split('#').next()?;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [profile, compiler, processor, instructions, calls] = fields[..] else { return None };
    let costs = Costs { instructions: instructions.parse().ok()?, calls: calls.parse().ok()? };
    Some((format!("{profile} {compiler} {processor}"), costs))
}
