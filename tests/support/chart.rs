//! The chart as helm renders it.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// A file for one call.
pub fn scratch(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// What `helm template` prints with these values, or what it complains about.
pub fn template(helm: &Path, values: &str, args: &[&str]) -> Result<String, String> {
    let values = scratch(values);
    let output = Command::new(helm)
        .args(["template", "tidegate", "--namespace", "tidegate-system", "--kube-version", "1.36.3", "--values"])
        .arg(values.path())
        .args(args)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/tidegate"))
        // Nothing of the user's: no repositories, plugins or kubeconfig.
        .env("HELM_CONFIG_HOME", "/nonexistent")
        .env("KUBECONFIG", "/nonexistent")
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
