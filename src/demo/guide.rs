//! What the demo tells at its start: the table of routes and the lines to try.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use crate::api::gateway_route::{BackendRef, PathMatch, PathMatchType, RouteMatch, RouteRule, ValueMatch};
use crate::compile::inputs::Inputs;
use crate::kinds::gateway_route::Route;
use crate::model::ids::ObjectName;

/// The text on standard error.
#[derive(Clone, Copy, Debug)]
pub struct Guide<'a> {
    /// The directory that is served from.
    pub files: &'a Path,
    /// Its objects.
    pub inputs: &'a Inputs,
    /// Where the gateway listens.
    pub http: SocketAddr,
    /// Where it speaks TLS, if it does.
    pub https: Option<SocketAddr>,
    /// Where the admin server listens.
    pub admin: SocketAddr,
}

/// One rule of a route.
struct Row {
    host: String,
    request: String,
    leads_to: String,
    curl: Option<String>,
}

impl fmt::Display for Guide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let width = |text: fn(&Row) -> &str| rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
        let (host, request) = (width(|row| &row.host), width(|row| &row.request));
        writeln!(f, "\nServing the manifests of {}; edit them, changes take effect at once.\n", self.files.display())?;
        for row in &rows {
            writeln!(f, "  {:host$}  {:request$}  {}", row.host, row.request, row.leads_to)?;
        }
        writeln!(f, "\nTry:\n")?;
        for line in rows.iter().filter_map(|row| row.curl.as_ref()) {
            writeln!(f, "  {line}")?;
        }
        if let Some(host) = self.socket_host() {
            writeln!(f, "  open http://{host}:{}/ in two browser windows   # WebSockets", self.http.port())?;
        }
        if let (Some(https), Some(host)) = (self.https, self.first_host()) {
            let note = "HTTPS, with a certificate that the demo has made";
            writeln!(f, "  curl -k --resolve '{host}:{0}:127.0.0.1' https://{host}:{0}/   # {note}", https.port())?;
        }
        writeln!(f, "  curl -i -H 'host: nobody.localhost' http://{}/   # 404: no route has this host", self.http)?;
        writeln!(f, "  curl http://{0}/debug/routes\n  curl http://{0}/metrics\n", self.admin)
    }
}

impl Guide<'_> {
    /// A host of the example that can be asked for over TLS.
    fn first_host(&self) -> Option<&str> {
        let routes = self.inputs.objects.routes.values();
        let mut hosts = routes.flat_map(|route| &route.object.spec.hostnames);
        hosts.find(|host| host.ends_with(".localhost") && !host.starts_with("*.")).map(String::as_str)
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (name, sourced) in &self.inputs.objects.routes {
            let route = &*sourced.object;
            if *route.spec.gateway_class_name != *self.inputs.gateway_class_name {
                continue;
            }
            let hostnames = self.hostnames(name, route);
            let host = match hostnames {
                [] => "any host".to_owned(),
                [host] => host.clone(),
                [first, others @ ..] => format!("{first} and {} more", others.len()),
            };
            let sample_host = hostnames.first().map_or("any.localhost".to_owned(), |host| host.replace('*', "any"));
            for rule in &route.spec.rules {
                let Some(first) = rule.matches.first() else { continue };
                let others = if rule.matches.len() > 1 { ", or others" } else { "" };
                rows.push(Row {
                    host: host.clone(),
                    request: format!("{}{others}", request(first)),
                    leads_to: leads_to(rule),
                    curl: rule.delegate.is_none().then(|| self.curl(&sample_host, first)).flatten(),
                });
            }
        }
        rows
    }

    /// The host of the first route with a rule about WebSockets; browsers take names below `localhost` for this machine.
    fn socket_host(&self) -> Option<&str> {
        let mut routes = self.inputs.objects.routes.values().map(|sourced| &sourced.object.spec);
        let route = routes.find(|spec| spec.rules.iter().any(|rule| rule.upgrades.is_some()))?;
        route.hostnames.iter().map(String::as_str).find(|host| host.ends_with(".localhost") && !host.starts_with('*'))
    }

    /// The route's own hostnames, else those of the first route that delegates to it.
    fn hostnames<'a>(&'a self, name: &ObjectName, route: &'a Route) -> &'a [String] {
        let mut parents = route.spec.parent_refs.iter().filter(|parent| parent.kind == "GatewayRoute");
        let parent = parents.find_map(|parent| {
            let namespace = parent.namespace.as_deref().unwrap_or(&name.namespace);
            self.inputs.objects.routes.get(&ObjectName::new(namespace, parent.name.as_str()))
        });
        match parent {
            Some(parent) if route.spec.hostnames.is_empty() => &parent.object.spec.hostnames,
            Some(_) | None => &route.spec.hostnames,
        }
    }

    /// A line for a shell that sends a request of this match; `None` where an example cannot be made up.
    fn curl(&self, host: &str, first: &RouteMatch) -> Option<String> {
        let path = sample_path(&first.path)?;
        let method = first.method.as_ref().map(ToString::to_string).filter(|method| method != "GET");
        let method = method.map(|method| format!(" -X {method}")).unwrap_or_default();
        let headers: Option<String> = first.headers.iter().map(header_argument).collect();
        Some(format!("curl{method} -H 'host: {host}'{} http://{}{path}", headers?, self.http))
    }
}

fn request(first: &RouteMatch) -> String {
    let method = first.method.as_ref().map(|method| format!("{method} ")).unwrap_or_default();
    let deeper = first.path.r#type.known() == Some(PathMatchType::PathPrefix) && *first.path.value != *"/";
    let path = format!("{}{}", first.path.value, if deeper { " and below" } else { "" });
    let kinds = [("", &first.headers), ("?", &first.query_params), ("cookie ", &first.cookies)];
    let values = kinds.into_iter().flat_map(|(kind, values)| values.iter().map(move |value| (kind, value)));
    let values: String = values
        .map(|(kind, value)| match &value.value {
            Some(text) => format!(", {kind}{}: {text}", value.name),
            None => format!(", {kind}{} {}", value.name, value.r#type),
        })
        .collect();
    format!("{method}{path}{values}")
}

fn leads_to(rule: &RouteRule) -> String {
    if rule.delegate.is_some() {
        return "delegated".to_owned();
    }
    for filter in &rule.filters {
        if let Some(redirect) = &filter.request_redirect {
            return format!("redirect {}", redirect.status_code);
        }
        if let Some(direct) = &filter.direct_response {
            return format!("answer {}", direct.status_code);
        }
    }
    let tier = |backend: &BackendRef| backend.tier;
    let total = |of: u8| -> u64 {
        rule.backend_refs.iter().filter(|backend| tier(backend) == of).map(|backend| u64::from(backend.weight)).sum()
    };
    let backends: Vec<String> = rule
        .backend_refs
        .iter()
        .map(|backend| {
            let port = backend.port.map(|port| format!(":{port}")).unwrap_or_default();
            let percent = u64::from(backend.weight) * 100 / total(backend.tier).max(1);
            let share = if percent == 100 { String::new() } else { format!(" {percent} %") };
            let fallback = if backend.tier > 0 { " as a fallback" } else { "" };
            format!("{}{port}{share}{fallback}", backend.name)
        })
        .collect();
    let algorithm = rule.load_balancer.as_ref().map(|balancer| format!(" ({})", balancer.algorithm));
    format!("{}{}", backends.join(", "), algorithm.unwrap_or_default())
}

/// A path that matches; none for regular expressions.
fn sample_path(path: &PathMatch) -> Option<String> {
    match path.r#type.known()? {
        PathMatchType::Exact | PathMatchType::PathPrefix => Some(path.value.to_string()),
        PathMatchType::Template => {
            let element = |(number, element): (usize, &str)| match element.starts_with('{') {
                true => number.to_string(),
                false => element.to_owned(),
            };
            Some(path.value.split('/').enumerate().map(element).collect::<Vec<_>>().join("/"))
        }
        PathMatchType::RegularExpression => None,
    }
}

/// ` -H 'name: value'` where a value can be made up.
fn header_argument(header: &ValueMatch) -> Option<String> {
    match header.r#type.to_string().as_str() {
        "Exact" | "Prefix" => Some(format!(" -H '{}: {}'", header.name, header.value.as_deref()?)),
        "Present" => Some(format!(" -H '{}: x'", header.name)),
        "Absent" => Some(String::new()),
        _ => None,
    }
}
