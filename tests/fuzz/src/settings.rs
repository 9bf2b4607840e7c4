//! The settings file: it is refused with a place and a reason, or every value of it can be used.

use std::path::Path;

use super::split::lines;
use tidegate::cli::standalone_defaults;
use tidegate::settings::file::SettingsFile;
use tidegate::settings::{Settings, parse_address, parse_duration, parse_network};

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    check_values(text);
    let path = Path::new("settings.yaml");
    let read = || -> Result<Settings, String> {
        let mut settings = standalone_defaults();
        let file = SettingsFile::parse(text, path).map_err(|error| error.to_string())?;
        file.overlay(path, &mut settings).map_err(|error| error.to_string())?;
        Ok(settings)
    };
    let found = read();
    assert_eq!(read(), found, "the same file is read differently");
    match found {
        Ok(settings) => {
            if let Err(error) = settings.validate() {
                assert_line(&error.to_string());
            } else {
                assert!((1..=32).contains(&settings.listeners.len()) && settings.workers > 0);
            }
        }
        Err(error) => {
            assert_line(&error);
            let rest = error.strip_prefix("settings.yaml:").expect("the message begins with the file");
            let lines = lines(text) + 1;
            // What is not supported is named by its key, everything else by its place.
            let is_place = |line: &str| line.parse().is_ok_and(|line: usize| (1..=lines).contains(&line));
            assert!(rest.starts_with(' ') || rest.split(':').next().is_some_and(is_place), "{error}");
        }
    }
}

/// A message is one line of printable text that says something.
fn assert_line(message: &str) {
    assert!(!message.is_empty() && !message.chars().any(char::is_control), "{message:?}");
}

/// What a value is read as, it is read as again when it is written.
fn check_values(text: &str) {
    match parse_address(text) {
        Ok(address) => assert_eq!(parse_address(&address.to_string()), Ok(address)),
        Err(error) => assert_line(&error),
    }
    match parse_network(text) {
        Ok(network) => assert_eq!(parse_network(&network.to_string()), Ok(network)),
        Err(error) => assert_line(&error),
    }
    match parse_duration(text) {
        Ok(duration) => {
            let millis = duration.as_millis();
            assert!(text.len() > 1 && text.bytes().all(|b| b.is_ascii_digit() || b"hms.".contains(&b)), "{text}");
            if millis < 99_999 {
                assert_eq!(parse_duration(&format!("{millis}ms")), Ok(duration), "{text}");
            }
        }
        Err(error) => assert_line(&error),
    }
}
