//! Values: what the schema takes and refuses, and what the objects are with them.

use std::path::Path;
use std::process::Command;

use clap::Parser as _;
use serde_json::{Value, json};
use tidegate::cli::{Cli, ControllerCommand, LogFormat};
use tidegate::settings::file::{SettingsFile, schema};

use crate::{assert_committed, documents, find, get, helm, path, read, render, template};

#[test]
fn the_chart_of_crds_has_the_committed_bytes() {
    assert_committed(
        "charts/tidegate-crds/templates/gatewayroutes.tidegate.dev.yaml",
        &read("crds/gatewayroutes.tidegate.dev.yaml"),
    );
    // Templates are what helm executes: braces of its own would change the bytes.
    assert!(!read("crds/gatewayroutes.tidegate.dev.yaml").contains("{{"));
}

#[test]
fn charts_have_the_version_of_the_program() {
    for chart in ["charts/tidegate/Chart.yaml", "charts/tidegate-crds/Chart.yaml"] {
        let chart: Value = serde_saphyr::from_str(&read(chart)).unwrap();
        assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"), "{chart}");
        assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"), "{chart}");
    }
    assert!(read("charts/tidegate/UPGRADE.md").contains(&format!("### {}\n", env!("CARGO_PKG_VERSION"))));
}

const SCHEMA: &str = "charts/tidegate/values.schema.json";

/// `listeners` and `dataPlane` are the settings file's own schema.
#[test]
fn the_schema_holds_that_of_the_settings_file() {
    let mut expected: Value = serde_json::from_str(&read(SCHEMA)).unwrap();
    let mut settings = schema();
    let mut definitions = settings["$defs"].take();
    let settings = settings.as_object_mut().unwrap();
    settings.remove("$defs");
    settings.remove("$schema");
    definitions["SettingsFile"] = Value::Object(settings.clone());
    expected["$defs"] = definitions;
    assert_committed(SCHEMA, &format!("{}\n", serde_json::to_string_pretty(&expected).unwrap()));
}

/// Every map that stands in values.yaml with keys of the chart is closed, and every key of it is described.
#[test]
fn values_and_schema_name_the_same_keys() {
    fn walk(values: &Value, schema: &Value, at: &str) {
        let Some(properties) = schema["properties"].as_object() else { return };
        assert_eq!(schema["additionalProperties"], false, "{at} is open");
        for (key, inner) in properties {
            if at.is_empty() && key == "global" {
                continue;
            }
            let value = values.get(key).unwrap_or_else(|| panic!("{at}.{key} is in the schema and not in values.yaml"));
            walk(value, inner, &format!("{at}.{key}"));
        }
        for key in values.as_object().unwrap().keys() {
            assert!(properties.contains_key(key), "{at}.{key} is in values.yaml and not in the schema");
        }
    }
    let values: Value = serde_saphyr::from_str(&read("charts/tidegate/values.yaml")).unwrap();
    let schema: Value = serde_json::from_str(&read(SCHEMA)).unwrap();
    walk(&values, &schema, "");
    let closed = schema["$defs"].as_object().unwrap().iter().filter(|(_, inner)| inner.get("properties").is_some());
    for (name, inner) in closed {
        assert_eq!(inner["additionalProperties"], false, "{name} is open");
    }
}

#[test]
fn helm_lint_has_nothing_to_say_with_any_kubernetes_that_the_charts_allow() {
    let Some(helm) = helm() else { return };
    for version in ["1.33.0", "1.34.4", "1.35.4", "1.36.3", "1.37.2"] {
        for chart in ["charts/tidegate", "charts/tidegate-crds"] {
            let output = Command::new(helm)
                .args(["lint", "--strict", "--kube-version", version])
                .arg(path(chart))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success(), "{chart} {version}: {said}");
        }
    }
    let error = template(helm, "{}", &["--kube-version", "1.32.9"]).unwrap_err();
    assert!(error.contains("kubeVersion"), "{error}");
}

#[test]
fn values_that_cannot_work_are_refused_by_name() {
    let Some(helm) = helm() else { return };
    let cases = [
        ("replica: 3", "replica"),
        ("deployment: {replica: 3}", "replica"),
        ("deployment: {replicas: many}", "/deployment/replicas"),
        ("deployment: {kind: StatefulSet}", "/deployment/kind"),
        ("image: {tags: x}", "tags"),
        ("image: {digest: sha256:12}", "/image/digest"),
        ("listeners: {http: {adress: \"[::]:80\"}}", "adress"),
        ("listeners: {http: {address: \"8080\"}}", "/listeners/http/address"),
        ("listeners: {http: {address: \"[::]:0\"}}", "listeners.http.address: found \"[::]:0\""),
        ("listeners: {http: null}", "service.ports.http: found no listener of this name"),
        (
            "listeners: {admin: {address: \"[::]:9090\"}}",
            "listeners.admin.address: found port 9090, which metrics.port has",
        ),
        ("dataPlane: {deadlines: {heads: 1s}}", "heads"),
        ("dataPlane: {deadlines: {head: soon}}", "/dataPlane/deadlines/head"),
        ("dataPlane: {drain: {delay: 5}}", "/dataPlane/drain/delay"),
        ("dataPlane: {drain: {delay: null}}", "dataPlane.drain.delay: found nothing"),
        ("dataPlane: {limit: {}}", "limit"),
        ("service: {ports: {web: 80}}", "service.ports.web: found no listener of this name, expected one of: http"),
        ("service: {ports: {http: 70000}}", "/service/ports/http"),
        ("controller: {watchNamespaces: [Team_A]}", "/controller/watchNamespaces/0"),
        ("podDisruptionBudget: {minAvailable: 1}", "minAvailable"),
        ("metrics: {podMonitor: {enabled: \"yes\"}}", "/metrics/podMonitor/enabled"),
        ("autoscaling: {enabled: true}\ndeployment: {kind: DaemonSet}", "autoscaling.enabled: found true with"),
        ("autoscaling: {enabled: true, minReplicas: 11}", "autoscaling.minReplicas"),
        ("workers: 0", "/workers"),
        ("hostNetwork: true\ndeployment: {kind: DaemonSet}", "deployment.rollingUpdate.maxSurge: found more than 0"),
        ("deployment: {rollingUpdate: {maxSurge: 0}}", "with which no pod could ever be replaced"),
        ("helmTest: {wait: soon}", "/helmTest/wait"),
        ("rbac: {clusterRole: false}", "rbac.clusterRole: found false without controller.watchNamespaces"),
        (
            "rbac: {clusterRole: false}\ncontroller: {watchNamespaces: [shop]}\ncertificates: {clusterWide: true}",
            "certificates.clusterWide: found true with rbac.clusterRole false",
        ),
        ("metrics: {scrapeAnnotation: true}", "scrapeAnnotation"),
    ];
    for (values, expected) in cases {
        let error = template(helm, values, &[]).expect_err(values);
        assert!(error.contains(expected) || error.contains(&expected.replace('/', ".")), "{values}: {error}");
    }
}

/// The settings of the ConfigMap, as the program reads them.
fn settings(objects: &[Value]) -> tidegate::settings::Settings {
    let text = get(objects, "ConfigMap", "tidegate")["data"]["settings.yaml"].as_str().unwrap().to_owned();
    let cli = Cli::try_parse_from(["tidegate", "standalone", "--config", "."]).unwrap();
    let tidegate::cli::Command::Standalone(standalone) = cli.command else { panic!("not standalone") };
    let mut settings = standalone.settings().unwrap();
    let file = SettingsFile::parse(&text, Path::new("settings.yaml")).unwrap_or_else(|error| panic!("{error}\n{text}"));
    file.overlay(Path::new("settings.yaml"), &mut settings).unwrap_or_else(|error| panic!("{error}\n{text}"));
    settings.validate().unwrap();
    settings
}

/// The arguments of the pod with these values, as the program reads them.
fn controller(helm: &Path, values: &str) -> ControllerCommand {
    let objects = render(helm, values);
    let container = &get(&objects, "Deployment", "tidegate")["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
    let cli = Cli::try_parse_from(std::iter::once("tidegate").chain(args)).unwrap_or_else(|error| panic!("{error}"));
    let tidegate::cli::Command::Controller(controller) = cli.command else { panic!("not controller: {cli:?}") };
    controller
}

#[test]
fn the_arguments_are_what_the_program_reads() {
    let Some(helm) = helm() else { return };
    let defaults = controller(helm, "{}");
    assert!(defaults.watch_namespaces.is_empty() && !defaults.watch_legacy_endpoints && defaults.kubeconfig.is_none());
    assert_eq!((defaults.serve.process.log.as_str(), defaults.serve.process.log_format), ("info", LogFormat::Json));
    assert_eq!(defaults.serve.process.settings.as_deref(), Some(Path::new("/etc/tidegate/settings.yaml")));
    let changed = controller(
        helm,
        r#"
controller: {watchNamespaces: [shop, team-a], watchLegacyEndpoints: true}
log: {level: "warn,tidegate::source=debug", format: text}
extraArgs: [--workers=2]
"#,
    );
    assert_eq!(changed.watch_namespaces, ["shop", "team-a"]);
    assert!(changed.watch_legacy_endpoints);
    assert_eq!(
        (changed.serve.process.log.as_str(), changed.serve.process.log_format),
        ("warn,tidegate::source=debug", LogFormat::Text)
    );
    assert_eq!(changed.serve.process.workers.map(std::num::NonZeroUsize::get), Some(2));
}

#[test]
fn the_settings_file_is_what_the_program_reads() {
    let Some(helm) = helm() else { return };
    let defaults = settings(&render(helm, "{}"));
    assert_eq!(defaults.listeners["http"].address.to_string(), "[::]:8080");
    assert_eq!(defaults.admin.to_string(), "[::]:9090");
    assert_eq!(defaults.drain.delay.as_secs(), 10);
    assert_eq!(defaults.drain.timeout.as_secs(), 45);
    let changed = settings(&render(
        helm,
        r#"
listeners:
  http: {http2PriorKnowledge: false, trustedForwarders: [10.0.0.0/8], healthPath: /healthz}
  internal: {address: "[::]:8081", allowedNamespaces: [shop]}
controller: {controllerName: example.com/edge, gatewayClassName: edge}
metrics: {port: 9100}
workers: 3
dataPlane:
  deadlines: {head: 1m30s, idle: 0s}
  limits: {body: 10737418240, fieldCount: 64}
  forwarding: {mergeSlashes: false}
  metrics: {maxSeries: 1500000}
  jwt: {logSubject: true}
  accessLog: off
"#,
    ));
    let http = &changed.listeners["http"];
    assert_eq!((http.address.port(), http.http2_prior_knowledge), (8080, false), "listeners are merged by name");
    assert_eq!(http.trusted_forwarders.len(), 1);
    assert!(changed.jwt.log_subject);
    assert_eq!(http.health_path.as_deref(), Some("/healthz"));
    assert_eq!(changed.listeners["internal"].allowed_namespaces, Some(vec!["shop".to_owned()]));
    assert_eq!(changed.controller.controller_name, "example.com/edge");
    assert_eq!(changed.controller.gateway_class_name, "edge");
    assert_eq!((changed.admin.port(), changed.workers), (9100, 3));
    assert_eq!((changed.deadlines.head.as_secs(), changed.deadlines.idle.as_secs()), (90, 0));
    assert_eq!((changed.limits.body, changed.limits.field_count), (Some(10_737_418_240), 64));
    assert!(!changed.forwarding.merge_slashes);
    assert_eq!(changed.metrics.max_series, 1_500_000);
    assert_eq!(changed.access_log, tidegate::settings::AccessLog::Off);
}

#[test]
fn the_key_of_sessions_is_mounted_where_the_settings_look_for_it() {
    let Some(helm) = helm() else { return };
    // Without a cluster a key would be another one with each rendering.
    let without = render(helm, "{}");
    assert_eq!(settings(&without).sessions.key_file, None);
    assert!(without.iter().all(|object| object["kind"] != "Secret"));
    let with = render(helm, "sessions: {existingSecret: mine}");
    let pod = &get(&with, "Deployment", "tidegate")["spec"]["template"]["spec"];
    let items = |list: &Value| list.as_array().unwrap().clone();
    let volume = items(&pod["volumes"]).into_iter().find(|volume| volume["name"] == "sessions").unwrap();
    assert_eq!(volume["secret"]["secretName"], "mine");
    let mounts = items(&pod["containers"][0]["volumeMounts"]);
    let mount = mounts.iter().find(|mount| mount["name"] == "sessions").unwrap();
    let path =
        Path::new(mount["mountPath"].as_str().unwrap()).join(volume["secret"]["items"][0]["path"].as_str().unwrap());
    assert_eq!(settings(&with).sessions.key_file, Some(path));
    assert!(with.iter().all(|object| object["kind"] != "Secret"));
}

#[test]
fn the_grace_period_follows_the_drain_settings() {
    let Some(helm) = helm() else { return };
    let cases =
        [("10s", "45s", 60), ("0s", "1s", 6), ("500ms", "1m30s", 96), ("1h1m1s1ms", "0s", 3667), ("999ms", "1ms", 6)];
    for (delay, timeout, expected) in cases {
        let objects = render(helm, &format!("dataPlane: {{drain: {{delay: {delay}, timeout: {timeout}}}}}"));
        let pod = &get(&objects, "Deployment", "tidegate")["spec"]["template"]["spec"];
        assert_eq!(pod["terminationGracePeriodSeconds"], expected, "{delay} {timeout}");
    }
}

/// The pod meets the restricted Pod Security Standard, whatever kind makes it.
#[test]
fn the_pod_is_restricted_probed_and_spread() {
    let Some(helm) = helm() else { return };
    for kind in ["Deployment", "DaemonSet"] {
        let objects = render(helm, &format!("deployment: {{kind: {kind}}}"));
        let template = &get(&objects, kind, "tidegate")["spec"]["template"];
        let pod = &template["spec"];
        let context = &pod["securityContext"];
        assert_eq!((&context["runAsNonRoot"], &context["runAsUser"]), (&json!(true), &json!(65532)));
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        assert!(pod.get("hostNetwork").is_none());
        let containers = pod["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1);
        let container = &containers[0];
        let expected = json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}
        });
        assert_eq!(container["securityContext"], expected);
        assert_eq!(container["resources"]["requests"]["memory"], container["resources"]["limits"]["memory"]);
        assert_eq!(container["image"], format!("tidegate:{}", env!("CARGO_PKG_VERSION")));
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], "metrics", "{probe}");
        }
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez");
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/servingz");
        // Every selector of the release finds these pods.
        let labels = template["metadata"]["labels"].as_object().unwrap();
        let selectors = [
            &get(&objects, kind, "tidegate")["spec"]["selector"]["matchLabels"],
            &get(&objects, "Service", "tidegate")["spec"]["selector"],
            &get(&objects, "NetworkPolicy", "tidegate")["spec"]["podSelector"]["matchLabels"],
            &pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
            &pod["topologySpreadConstraints"][1]["labelSelector"]["matchLabels"],
        ];
        for selector in selectors {
            let selector = selector.as_object().unwrap();
            assert!(!selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
        }
        let other = if kind == "Deployment" { "DaemonSet" } else { "Deployment" };
        assert!(find(&objects, other, "tidegate").is_none());
        // Of a DaemonSet it would forbid every eviction.
        let budget = find(&objects, "PodDisruptionBudget", "tidegate");
        let selected = budget.map(|budget| &budget["spec"]["selector"]["matchLabels"]);
        assert_eq!(selected, (kind == "Deployment").then_some(selectors[0]), "{kind}");
    }
}

#[test]
fn what_is_switched_on_is_there_and_what_is_off_is_not() {
    let Some(helm) = helm() else { return };
    let optional = [
        ("HorizontalPodAutoscaler", "autoscaling: {enabled: true}"),
        ("PodMonitor", "metrics: {podMonitor: {enabled: true}}"),
        ("ServiceMonitor", "metrics: {serviceMonitor: {enabled: true}}"),
        ("PrometheusRule", "metrics: {prometheusRule: {enabled: true}}"),
    ];
    let defaults = render(helm, "{}");
    for (kind, values) in optional {
        assert!(find(&defaults, kind, "tidegate").is_none(), "{kind}");
        get(&render(helm, values), kind, "tidegate");
    }
    // Nobody scrapes a pod twice.
    for (values, expected) in [("{}", true), (optional[1].1, false), (optional[2].1, false)] {
        let objects = render(helm, values);
        let annotations = &get(&objects, "Deployment", "tidegate")["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations.get("prometheus.io/scrape").is_some(), expected, "{values}");
    }
    let always = [
        ("PodDisruptionBudget", "podDisruptionBudget: {enabled: false}"),
        ("NetworkPolicy", "networkPolicy: {enabled: false}"),
        ("Service", "service: {enabled: false}"),
        ("ServiceAccount", "serviceAccount: {create: false}"),
    ];
    for (kind, values) in always {
        get(&defaults, kind, "tidegate");
        assert!(find(&render(helm, values), kind, "tidegate").is_none(), "{kind}");
    }
    // With an autoscaler nobody else sets the number of replicas.
    assert_eq!(get(&defaults, "Deployment", "tidegate")["spec"]["replicas"], 2);
    let scaled = render(helm, "autoscaling: {enabled: true}");
    assert!(get(&scaled, "Deployment", "tidegate")["spec"].get("replicas").is_none());
    // A change of the settings rolls the pods; a change of anything else does not.
    let sum = |values: &str| {
        let objects = render(helm, values);
        get(&objects, "Deployment", "tidegate")["spec"]["template"]["metadata"]["annotations"].clone()
    };
    assert_ne!(sum("{}"), sum("dataPlane: {limits: {body: 1}}"));
    assert_eq!(sum("{}"), sum("service: {type: NodePort}"));
}

#[test]
fn the_service_leads_to_the_listeners() {
    let Some(helm) = helm() else { return };
    let values = "listeners: {internal: {address: \"[::]:8081\"}, metrics: {address: \"[::]:8082\"}}\nservice: {ports: \
                  {internal: 8000, metrics: 8001}, type: ClusterIP}";
    let objects = render(helm, values);
    let service = &get(&objects, "Service", "tidegate")["spec"];
    let expected = json!([
        {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"},
        {"name": "https", "port": 443, "targetPort": "https", "protocol": "TCP"},
        {"name": "internal", "port": 8000, "targetPort": "internal", "protocol": "TCP"},
        {"name": "metrics", "port": 8001, "targetPort": 8082, "protocol": "TCP"},
    ]);
    assert_eq!(service["ports"], expected);
    assert!(service.get("externalTrafficPolicy").is_none(), "the API server refuses it for ClusterIP");
    let policy = &get(&objects, "NetworkPolicy", "tidegate")["spec"];
    let expected = json!([{"port": "http"}, {"port": "https"}, {"port": "internal"}, {"port": 8082}]);
    assert_eq!(policy["ingress"][0]["ports"], expected);
    // Each pod is reached at the port that it has: the names are those of its own ports.
    let container = &get(&objects, "Deployment", "tidegate")["spec"]["template"]["spec"]["containers"][0];
    let named: Vec<_> = container["ports"].as_array().unwrap().iter().map(|port| &port["name"]).collect();
    assert!(["http", "https", "internal"].iter().all(|name| named.contains(&&Value::from(*name))), "{named:?}");
    assert!(policy["egress"][1].get("to").is_none(), "an ipBlock leaves nodes out in some networks");
    let ipv4 = &policy["egress"][2]["to"][1]["ipBlock"];
    assert_eq!(ipv4["except"], json!(["169.254.0.0/16"]), "credentials of nodes are out of reach");
    let objects = render(helm, "networkPolicy: {egressNamespaces: [{matchLabels: {team: shop}}], metricsFrom: []}");
    let policy = &get(&objects, "NetworkPolicy", "tidegate")["spec"];
    assert_eq!(policy["egress"][2]["to"], json!([{"namespaceSelector": {"matchLabels": {"team": "shop"}}}]));
    assert_eq!(policy["ingress"].as_array().unwrap().len(), 1);
}

/// It asks in plain HTTP, and says nothing about the connection before.
#[test]
fn without_a_listener_that_it_can_ask_there_is_no_test_of_the_release() {
    let Some(helm) = helm() else { return };
    let tests = |values: &str| {
        let is_test = |object: &&Value| object["metadata"]["annotations"]["helm.sh/hook"] == "test";
        let objects = render(helm, values);
        let pods: Vec<Value> = objects.iter().filter(is_test).cloned().collect();
        pods.iter().find(|object| object["kind"] == "Pod").map(|pod| pod["spec"]["containers"][0]["args"][1].clone())
    };
    let of_port = |port: u16| Some(Value::from(format!("http://tidegate.tidegate-system.svc:{port}/")));
    assert_eq!(tests("{}"), of_port(80));
    let early = "listeners: {early: {address: \"[::]:8444\", protocol: HTTPS}}\nservice: {ports: {early: 444}}";
    assert_eq!(tests(early), of_port(80));
    assert_eq!(tests("listeners: {http: null}\nservice: {ports: {http: null}}"), None);
    assert_eq!(tests("listeners: {http: {proxyProtocol: {mode: required, trusted: [10.0.0.0/8]}}}"), None);
}

/// What `helm test` applies is served by the gateway of these values, and its pod asks that gateway.
#[test]
fn the_test_of_the_release_fits_its_values() {
    let Some(helm) = helm() else { return };
    let cases = [
        ("{}", "tidegate-system"),
        ("controller: {watchNamespaces: [shop, team-a]}", "shop"),
        ("controller: {watchNamespaces: [shop, tidegate-system]}", "tidegate-system"),
        ("listeners: {http: {allowedNamespaces: [team-a]}}", "team-a"),
        ("listeners: {http: {allowedNamespaces: [team-a]}}\ncontroller: {watchNamespaces: [shop, team-a]}", "team-a"),
    ];
    for (values, namespace) in cases {
        let objects = render(helm, values);
        let route = get(&objects, "GatewayRoute", "tidegate-test");
        assert_eq!(route["metadata"]["namespace"], namespace, "{values}");
        assert_eq!(route["spec"]["gatewayClassName"], "tidegate");
        let pod = get(&objects, "Pod", "tidegate-test");
        let args = pod["spec"]["containers"][0]["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
        let cli =
            Cli::try_parse_from(std::iter::once("tidegate").chain(args)).unwrap_or_else(|error| panic!("{error}"));
        let tidegate::cli::Command::Probe(probe) = cli.command else { panic!("not probe: {cli:?}") };
        assert_eq!(probe.targets[0].to_string(), "http://tidegate.tidegate-system.svc:80/");
        assert_eq!(probe.host.unwrap(), route["spec"]["hostnames"][0].as_str().unwrap());
        let body = &route["spec"]["rules"][0]["filters"][0]["directResponse"]["body"];
        assert_eq!(probe.contains.as_deref(), body.as_str());
        // The Service must not take the pod for one of the gateway's.
        let selector = get(&objects, "Service", "tidegate")["spec"]["selector"].clone();
        let labels = &pod["metadata"]["labels"];
        assert!(selector.as_object().unwrap().iter().any(|(key, value)| labels[key] != *value));
    }
    for values in ["helmTest: {enabled: false}", "service: {enabled: false}"] {
        assert!(!render(helm, values).iter().any(|object| object["metadata"]["name"] == "tidegate-test"), "{values}");
    }
}

#[test]
fn passed_through_values_arrive() {
    let Some(helm) = helm() else { return };
    let objects = render(
        helm,
        r#"
image: {registry: images.example, repository: edge/tidegate, tag: v9}
commonLabels: {team: edge}
extraArgs: [--workers=2]
extraEnv: [{name: A, value: b}]
extraVolumes: [{name: more, emptyDir: {}}]
extraVolumeMounts: [{name: more, mountPath: /more}]
extraObjects:
- "{apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}-extra'}}"
- {apiVersion: v1, kind: Secret, metadata: {name: more}}
nodeSelector: {disk: fast}
tolerations: [{operator: Exists}]
priorityClassName: high
imagePullSecrets: [{name: pull}]
"#,
    );
    let deployment = get(&objects, "Deployment", "tidegate");
    assert_eq!(deployment["metadata"]["labels"]["team"], "edge");
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "images.example/edge/tidegate:v9");
    assert_eq!(container["args"].as_array().unwrap().last().unwrap(), "--workers=2");
    assert_eq!(container["env"].as_array().unwrap().last().unwrap(), &json!({"name": "A", "value": "b"}));
    assert_eq!(container["volumeMounts"][1]["mountPath"], "/more");
    assert_eq!(pod["volumes"][1]["name"], "more");
    assert_eq!((&pod["nodeSelector"]["disk"], &pod["priorityClassName"]), (&json!("fast"), &json!("high")));
    assert_eq!(pod["tolerations"][0]["operator"], "Exists");
    assert_eq!(pod["imagePullSecrets"][0]["name"], "pull");
    get(&objects, "ConfigMap", "tidegate-extra");
    get(&objects, "Secret", "more");
    let digest = format!("sha256:{}", "a".repeat(64));
    let objects = render(helm, &format!("image: {{digest: \"{digest}\"}}"));
    let deployment = get(&objects, "Deployment", "tidegate");
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], format!("tidegate@{digest}"));
    for object in &objects {
        assert!(object["metadata"]["labels"]["app.kubernetes.io/instance"] == "tidegate", "{object}");
    }
}

const BASE: &str = "manifests/base/tidegate.yaml";

/// The kustomize base is the chart with its defaults and without what only helm needs.
#[test]
fn the_kustomize_base_is_the_chart() {
    let Some(helm) = helm() else { return };
    let rendered = template(helm, "{}", &["--skip-tests"]).unwrap();
    let mut text =
        String::from("# Made from charts/tidegate by the test the_kustomize_base_is_the_chart; do not edit.\n");
    let kept = rendered.lines().filter(|line| {
        let line = line.trim();
        !line.starts_with("helm.sh/chart:")
            && !line.starts_with("app.kubernetes.io/managed-by:")
            && !line.starts_with('#')
    });
    for line in kept {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    assert_eq!(documents(&text).len(), documents(&rendered).len());
    assert_committed(BASE, &text);
    assert!(read("manifests/base/kustomization.yaml").contains("tidegate.yaml"));
}
