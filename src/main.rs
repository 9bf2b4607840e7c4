//! tmp
use std::collections::BTreeMap;
use tidegate::settings::*;
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let get = |n: &str| args.iter().position(|a| a == n).and_then(|i| args.get(i + 1)).cloned();
    tidegate::telemetry::logging::init(
        &get("--log").unwrap_or("info".into()),
        tidegate::telemetry::logging::Format::Text,
    )?;
    let listener = Listener {
        address: get("--http").unwrap_or("127.0.0.1:8080".into()).parse()?,
        http2_prior_knowledge: false,
        trusted_forwarders: vec![],
        health_path: None,
        allowed_namespaces: None,
    };
    let settings = Settings {
        listeners: BTreeMap::from([("http".to_owned(), listener)]),
        deadlines: Default::default(),
        limits: Default::default(),
        forwarding: Default::default(),
        metrics: Default::default(),
        access_log: AccessLog::Off,
        drain: Drain { delay: std::time::Duration::ZERO, timeout: std::time::Duration::from_secs(15) },
        controller: Default::default(),
        admin: get("--admin").unwrap_or("127.0.0.1:9090".into()).parse()?,
        debug_allow: vec![],
        workers: get("--workers").unwrap_or("2".into()).parse()?,
    };
    let running = tidegate::app::start(settings, std::path::Path::new(&get("--config").unwrap()))?;
    running.print_ready()?;
    running.wait()
}
