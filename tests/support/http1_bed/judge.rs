//! Whether what was seen is what a case wants.

use serde_json::Value;

use super::Observation;
use super::backend::Recorded;
use super::cases::{Case, find, latin1};

/// Whether an alternative of the case holds; else what was seen.
pub fn judge(case: &Case, seen: &Observation) -> Result<(), String> {
    if case.accept.iter().any(|alternative| {
        let conditions = alternative.as_object().expect("conditions");
        conditions.iter().all(|(name, wanted)| holds(name, wanted, seen))
    }) {
        return Ok(());
    }
    let mut text = format!("{} ({}): {}\n", case.id, case.title, case.must);
    text += &format!("  statuses {:?}, closed {}\n", seen.statuses, seen.closed);
    for request in &seen.requests {
        let fields: Vec<String> = request
            .fields
            .iter()
            .map(|(name, values)| {
                let values: Vec<_> = values.iter().map(|value| value.escape_ascii().to_string()).collect();
                format!("{}={values:?}", name.escape_ascii())
            })
            .collect();
        text += &format!(
            "  {} {} complete {}, body {} bytes, {}\n",
            request.method.escape_ascii(),
            request.target.escape_ascii(),
            request.complete,
            request.body.len(),
            fields.join(" ")
        );
    }
    Err(text)
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().map(|it| it.as_u64().expect("a number")).collect()
}

fn strings(value: &Value) -> Vec<Vec<u8>> {
    value.as_array().expect("a list").iter().map(|it| latin1(it.as_str().expect("a string"))).collect()
}

fn holds(name: &str, wanted: &Value, seen: &Observation) -> bool {
    let text = || latin1(wanted.as_str().expect("a string"));
    let lower = seen.received.to_ascii_lowercase();
    let contains = |needle: &Vec<u8>| find(&seen.received, needle).is_some();
    let contains_lower = |needle: &Vec<u8>| find(&lower, &needle.to_ascii_lowercase()).is_some();
    let complete: Vec<&Recorded> = seen.requests.iter().filter(|request| request.complete).collect();
    let request = complete.first().copied();
    let has = |name: &[u8]| request.is_some_and(|request| request.fields.contains_key(name));
    match name {
        "reject" => {
            let status = numbers(&wanted["status"]);
            seen.requests.is_empty()
                && matches!(seen.statuses[..], [one] if status.contains(&one))
                && (wanted["close"] != true || seen.closed)
        }
        "abort" => {
            complete.is_empty()
                && seen.closed
                && seen.statuses.first().is_none_or(|status| [400, 413, 431].contains(status))
        }
        "forward" => {
            let count = usize::try_from(wanted.as_u64().expect("a count")).expect("fits");
            let finals: Vec<u64> = seen.statuses.iter().copied().filter(|status| *status != 100).collect();
            finals == vec![200; count] && seen.requests.len() == count && complete.len() == count
        }
        "statuses" => seen.statuses == numbers(wanted),
        "first_status" => seen.statuses.first() == wanted.as_u64().as_ref(),
        "first_status_if_any" => seen.statuses.first().is_none_or(|status| Some(*status) == wanted.as_u64()),
        "at_most_one_100" => seen.statuses.iter().filter(|status| **status == 100).count() <= 1,
        "closed" => seen.closed == wanted.as_bool().expect("a bool"),
        "received_contains" => strings(wanted).iter().all(contains),
        "received_lacks" => !strings(wanted).iter().any(contains),
        "received_contains_any_case" => strings(wanted).iter().all(contains_lower),
        "received_lacks_any_case" => !strings(wanted).iter().any(contains_lower),
        "received_ends_with" => seen.received.ends_with(&text()),
        "response_incomplete" => is_incomplete(&seen.received),
        "complete_requests" => Some(complete.len() as u64) == wanted.as_u64(),
        "every_request_has" => {
            complete.iter().all(|request| strings(wanted).iter().all(|name| request.fields.contains_key(name)))
        }
        "tunnel_contains" => seen.tunnel.iter().any(|tunnel| find(tunnel, &text()).is_some()),
        "method" => request.is_some_and(|request| request.method == text()),
        "target" => request.is_some_and(|request| request.target == text()),
        "target_any_case" => request.is_some_and(|request| request.target.eq_ignore_ascii_case(&text())),
        "body" => request.is_some_and(|request| request.body == text()),
        "no_trailers" => request.is_some_and(|request| request.trailers.is_empty()),
        "fields" => wanted.as_object().expect("fields").iter().all(|(name, values)| {
            let values: Vec<Vec<u8>> = strings(values)
                .into_iter()
                .map(|value| if value == b"{peer}" { seen.peer.clone().into_bytes() } else { value })
                .collect();
            request.is_some_and(|request| request.fields.get(&latin1(name)) == Some(&values))
        }),
        "field_lines" => wanted.as_object().expect("fields").iter().all(|(name, count)| {
            let lines = request.map_or(0, |request| request.fields.get(&latin1(name)).map_or(0, Vec::len));
            request.is_some() && Some(lines as u64) == count.as_u64()
        }),
        "fields_present" => request.is_some() && strings(wanted).iter().all(|name| has(name)),
        "fields_absent" => request.is_some() && !strings(wanted).iter().any(|name| has(name)),
        "field_lacks" => wanted.as_object().expect("fields").iter().all(|(name, text)| {
            let needle = latin1(text.as_str().expect("a string"));
            request.is_some_and(|request| {
                let values = request.fields.get(&latin1(name));
                !values.is_some_and(|values| values.iter().any(|value| find(value, &needle).is_some()))
            })
        }),
        "fields_never_contain" => request.is_some_and(|request| {
            let parts: Vec<&Vec<u8>> =
                request.fields.iter().flat_map(|(name, values)| std::iter::once(name).chain(values)).collect();
            strings(wanted).iter().all(|needle| !parts.iter().any(|part| find(part, needle).is_some()))
        }),
        name => panic!("unknown condition {name}"),
    }
}

/// Whether a response is visibly cut.
fn is_incomplete(received: &[u8]) -> bool {
    let Some(end) = find(received, b"\r\n\r\n") else { return true };
    let head = received[..end].to_ascii_lowercase();
    let body = &received[end + 4..];
    if find(&head, b"transfer-encoding: chunked").is_some() {
        return !body.ends_with(b"0\r\n\r\n");
    }
    let length = find(&head, b"content-length: ").and_then(|at| {
        let digits: String =
            head[at + 16..].iter().take_while(|b| b.is_ascii_digit()).map(|&b| char::from(b)).collect();
        digits.parse::<usize>().ok()
    });
    length.is_some_and(|length| body.len() < length)
}
