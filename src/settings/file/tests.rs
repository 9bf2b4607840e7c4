//! The file over the defaults, and everything that is refused.

use super::*;
use crate::settings::{
    Controller, Deadlines, DrainSettings, Forwarding, Jwt, Limits, ListenerTls, Locality, MetricsSettings, Sessions,
};

fn defaults() -> Settings {
    let listener = Listener {
        address: "[::]:8080".parse().expect("an address"),
        http2_prior_knowledge: true,
        proxy_protocol: ProxyProtocol::default(),
        mode: crate::settings::ListenerMode::Gateway,
        trusted_forwarders: Vec::new(),
        health_path: None,
        allowed_namespaces: None,
        tls: None,
    };
    Settings {
        listeners: BTreeMap::from([("http".to_owned(), listener)]),
        deadlines: Deadlines::default(),
        limits: Limits::default(),
        forwarding: Forwarding::default(),
        metrics: MetricsSettings::default(),
        access_log: AccessLog::Stdout,
        drain: DrainSettings { delay: Duration::ZERO, timeout: Duration::from_secs(15) },
        controller: Controller::default(),
        sessions: Sessions::default(),
        jwt: Jwt::default(),
        locality: Locality::default(),
        admin: "[::]:9090".parse().expect("an address"),
        debug_allow: Vec::new(),
        debug_hosts: Vec::new(),
        workers: 1,
    }
}

fn read(text: &str) -> Result<Settings, String> {
    let path = Path::new("settings.yaml");
    let mut settings = defaults();
    SettingsFile::parse(text, path)
        .and_then(|file| file.overlay(path, &mut settings))
        .map_err(|error| error.to_string())?;
    settings.validate().map_err(|error| error.to_string())?;
    Ok(settings)
}

#[test]
fn an_empty_file_changes_nothing() {
    for text in ["", "# nothing\n", "{}\n", "deadlines: {}\n"] {
        assert_eq!(read(text), Ok(defaults()), "{text:?}");
    }
}

#[test]
fn every_key_reaches_its_setting() {
    let text = "
listeners:
  public:
    address: 0.0.0.0:80
    protocol: HTTP
    http2PriorKnowledge: false
    proxyProtocol: {mode: optional, trusted: [10.1.0.0/16]}
    trustedForwarders: [10.0.0.0/8, 192.0.2.1]
    healthPath: /healthz
    allowedNamespaces: [shop]
  inner: {address: \":8081\", proxyProtocol: {mode: off}}
  secure: {address: \":8443\", protocol: HTTPS, defaultCertificate: {namespace: ns, name: it}}
deadlines: {firstByte: 1s, proxyHeader: 11s, tlsHandshake: 9s, head: 2s, idle: 3s, bodyRateWindow: 4s, writeStall: 5s, connect: 250ms, responseHead: 0s,
            upstreamIdle: 1m30s, linger: 1h, admin: 6s, adminConnection: 7s,
            tcpKeepalive: 7s, tcpUserTimeout: 8s}
limits: {requestLine: 1, field: 2, fieldsTotal: 3, fieldCount: 4, body: 5, chunkLine: 6, chunkExtensions: 7,
         trailersTotal: 8, trailerCount: 9, upgradeHeld: 10, responseHead: 11, interimResponses: 12, unreadBody: 13, retryBodies: 22,
         mirrorBodies: 25, mirrors: 26, rateLimitCells: 27, compressorMemory: 28, coalesceBytes: 30, passwordChecks: 29,
         bodyRate: 14, http2Streams: 15, tlsHandshakes: 24, upstreamIdlePerEndpoint: 16, connections: 21, connectionsPerAddress: 20, memory: 23, adminConnections: 17}
forwarding: {retryNonIdempotentOnIdleClose: true, mergeSlashes: false, reasonHeader: yes, clientCertificate: {namespace: ns, name: own}}
metrics: {maxSeries: 18}
accessLog: off
drain: {delay: 7s, timeout: 8s}
controller: {controllerName: example.com/a, gatewayClassName: blue, hostnameOwnership: Namespace}
sessions: {keyFile: /etc/key}
jwt: {caFile: /etc/ca.pem, logSubject: true}
locality: {zone: a, node: n1}
admin: 127.0.0.1:9
debugAllow: [\"::1\"]
debugHosts: [admin.shop.svc]
workers: 3
";
    let seconds = Duration::from_secs;
    let network = |text: &str| text.parse::<IpNet>().expect("a network");
    let public = Listener {
        address: "0.0.0.0:80".parse().expect("an address"),
        http2_prior_knowledge: false,
        proxy_protocol: ProxyProtocol { mode: ProxyProtocolMode::Optional, trusted: vec![network("10.1.0.0/16")] },
        mode: crate::settings::ListenerMode::Gateway,
        trusted_forwarders: vec![network("10.0.0.0/8"), network("192.0.2.1/32")],
        health_path: Some("/healthz".to_owned()),
        allowed_namespaces: Some(vec!["shop".to_owned()]),
        tls: None,
    };
    let inner = Listener {
        address: "[::]:8081".parse().expect("an address"),
        ..defaults().listeners.remove("http").expect("a default listener")
    };
    let tls = ListenerTls { default_certificate: Some(("ns".to_owned(), "it".to_owned())) };
    let address = "[::]:8443".parse().expect("an address");
    let secure = Listener { address, tls: Some(tls), ..inner.clone() };
    let named = [("public", public), ("inner", inner), ("secure", secure)];
    let expected = Settings {
        listeners: named.map(|(name, listener)| (name.to_owned(), listener)).into(),
        deadlines: Deadlines {
            first_byte: seconds(1),
            proxy_header: seconds(11),
            tls_handshake: seconds(9),
            head: seconds(2),
            idle: seconds(3),
            body_rate_window: seconds(4),
            write_stall: seconds(5),
            connect: Duration::from_millis(250),
            response_head: Duration::ZERO,
            upstream_idle: seconds(90),
            linger: seconds(3600),
            tcp_keepalive: seconds(7),
            tcp_user_timeout: seconds(8),
            admin: seconds(6),
            admin_connection: seconds(7),
        },
        limits: Limits {
            request_line: 1,
            field: 2,
            fields_total: 3,
            field_count: 4,
            body: Some(5),
            chunk_line: 6,
            chunk_extensions: 7,
            trailers_total: 8,
            trailer_count: 9,
            upgrade_held: 10,
            response_head: 11,
            interim_responses: 12,
            unread_body: 13,
            retry_bodies: 22,
            mirror_bodies: 25,
            mirrors: 26,
            rate_limit_cells: 27,
            compressor_memory: 28,
            coalesce_bytes: 30,
            body_rate: 14,
            password_checks: Some(29),
            http2_streams: 15,
            tls_handshakes: 24,
            upstream_idle_per_endpoint: 16,
            connections: Some(21),
            connections_per_address: Some(20),
            memory: Some(23),
            admin_connections: 17,
        },
        forwarding: Forwarding {
            retry_non_idempotent_on_idle_close: true,
            merge_slashes: false,
            reason_header: true,
            client_certificate: Some(("ns".to_owned(), "own".to_owned())),
        },
        metrics: MetricsSettings { max_series: 18 },
        access_log: AccessLog::Off,
        drain: DrainSettings { delay: seconds(7), timeout: seconds(8) },
        controller: Controller {
            controller_name: "example.com/a".to_owned(),
            gateway_class_name: "blue".to_owned(),
            hostname_ownership: HostnameOwnership::Namespace,
        },
        sessions: Sessions { key_file: Some("/etc/key".into()) },
        jwt: Jwt { ca_file: Some("/etc/ca.pem".into()), log_subject: true },
        locality: Locality { zone: Some("a".to_owned()), node: Some("n1".to_owned()) },
        admin: "127.0.0.1:9".parse().expect("an address"),
        debug_allow: vec![network("::1/128")],
        debug_hosts: vec!["admin.shop.svc".to_owned()],
        workers: 3,
    };
    assert_eq!(read(text), Ok(expected));
    assert_eq!(read("accessLog: /var/log/a.json").map(|s| s.access_log), Ok(AccessLog::File("/var/log/a.json".into())));
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let cases = [
        ("a: [", "settings.yaml:1:"),
        ("listener: {}\n", "settings.yaml:1:1: unknown field `listener`"),
        ("deadlines:\n  idel: 1s\n", "settings.yaml:2:3: unknown field `idel`"),
        ("drain: {delay: 1s}\ndrain: {}\n", "settings.yaml:2:1: duplicate mapping key: drain"),
        ("listeners: {a: {}}\n", "missing field `address`"),
        ("drain:\n  delay: soon\n", "found \"soon\", expected a duration such as 250ms, 10s or 1m30s"),
        ("admin: localhost:1\n", "found \"localhost:1\", expected IP:PORT"),
        ("debugAllow: [all]\n", "found \"all\", expected a network such as 10.0.0.0/8"),
        ("workers: 0\n", "workers: found 0, expected 1 to 1024"),
        ("limits: {body: 20a: { \0b", r"settings.yaml:1:16: found 20a: { \u{0}b, expected a whole number"),
        ("\"a\\nb\": 1\n", r"settings.yaml:1:1: unknown field `a\nb`"),
        (
            "listeners: {\"a\\nb\": {address: \":1\", defaultCertificate: {namespace: y, name: x}}}\n",
            r"listeners.a\nb.defaultCertificate: a certificate on a listener",
        ),
        ("listeners: {\"a\\nb\": {address: \":1\"}}\n", r#"listeners.a\nb: found "a\nb", expected a name of"#),
        ("workers: many\n", "settings.yaml:1:10: found many, expected a whole number"),
        ("limits: {field: -1}\n", "settings.yaml:1:17: found -1, expected a whole number"),
        ("limits:\n  body: 10 Mi # as in a manifest\n", "settings.yaml:2:9: found 10 Mi, expected a whole number"),
        ("limits: {http2Streams: 1e3}\n", "settings.yaml:1:24: found 1e3, expected a whole number"),
        ("limits\n", "settings.yaml:1:1: expected keys with values, such as"),
        ("- limits\n", "settings.yaml:1:1: expected keys with values, such as"),
        ("limits: {field: 0}\n", "limits.field: found 0, expected at least 1"),
        ("metrics: {maxSeries: 0}\n", "metrics.maxSeries: found 0, expected at least 1"),
        ("listeners: {}\n", "listeners: found 0, expected 1 to 32 listeners"),
        (
            "debugHosts: [a.test, \"b.test:9090\"]\n",
            "debugHosts: found \"b.test:9090\", expected a host name without port",
        ),
        ("listeners: {A_b: {address: \":1\"}}\n", "listeners.A_b: found \"A_b\", expected a name of"),
        (
            "listeners: {a: {address: \":1\"}, b: {address: \":1\"}}\n",
            "listeners.b.address: found [::]:1, which a has too, expected an address of its own",
        ),
        ("listeners: {a: {address: \":9090\"}}\n", "which admin has too"),
        ("listeners: {a: {address: \":1\", healthPath: healthz}}\n", "expected a path that begins with /"),
        (
            "listeners: {a: {address: \":1\", defaultCertificate: {namespace: y, name: x}}}\n",
            "a certificate on a listener with protocol HTTP is not supported yet",
        ),
        (
            "listeners: {a: {address: \":1\", proxyProtocol: {mode: required}}}\n",
            "listeners.a.proxyProtocol.trusted: found none, expected the networks of the load balancers",
        ),
        (
            "listeners: {a: {address: \":1\", proxyProtocol: {trusted: [10.0.0.0/8]}}}\n",
            "listeners.a.proxyProtocol.trusted: found networks that mode off never asks for, expected none, or mode",
        ),
        ("listeners: {a: {address: \":1\", proxyProtocol: {mode: maybe}}}\n", "unknown variant `maybe`"),
    ];
    for (text, expected) in cases {
        let error = read(text).expect_err(text);
        assert!(!error.contains("DuplicateKeyPolicy"), "{error}");
        assert!(error.contains(expected), "{text:?}\n  says     {error}\n  expected {expected}");
    }
    let many: String = (0..33).map(|n| format!("  l{n}: {{address: \":{}\"}}\n", n + 1)).collect();
    let error = read(&format!("listeners:\n{many}")).expect_err("too many");
    assert_eq!(error, "listeners: found 33, expected 1 to 32 listeners");
    let missing = SettingsFile::read(Path::new("/nowhere/settings.yaml")).expect_err("no such file");
    assert_eq!(missing.to_string(), "cannot read the settings file /nowhere/settings.yaml");
}

#[test]
fn the_schema_names_every_key_and_closes_every_block() {
    let schema = schema();
    let properties = schema["properties"].as_object().expect("properties");
    let mut names: Vec<_> = properties.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accessLog",
            "admin",
            "controller",
            "deadlines",
            "debugAllow",
            "debugHosts",
            "drain",
            "forwarding",
            "jwt",
            "limits",
            "listeners",
            "locality",
            "metrics",
            "sessions",
            "workers"
        ]
    );
    assert_eq!(schema["additionalProperties"], false);
    for (name, definition) in schema["$defs"].as_object().expect("definitions") {
        if definition["type"] == "object" {
            assert_eq!(definition["additionalProperties"], false, "{name}");
        }
    }
}

#[test]
fn durations_have_one_to_four_parts() {
    for (text, milliseconds) in [
        ("0s", 0),
        ("250ms", 250),
        ("10s", 10_000),
        ("1m30s", 90_000),
        ("1h1m1s1ms", 3_661_001),
        ("99999h", 359_996_400_000),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
    }
    for text in ["", "10", "s", "1.5s", "-1s", "1d", "1h1m1s1ms1s", "100000s", "1s ", "1 s"] {
        assert!(parse_duration(text).is_err(), "{text:?}");
    }
}
