use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use prost::Message as _;

use super::messages::{
    BoolValue, CheckResponse, DeniedHttpResponse, HeaderValueOption, HttpResponse, HttpStatus, OkHttpResponse, Status,
};
use super::verdict::{Refusal, Verdict};
use super::{grpc, http_service, messages};
use crate::filter::field_edit::{Edit, FieldEdit};
use crate::filter::layer::CallAnswer;

fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let line =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    lines.iter().map(line).collect()
}

/// The answer of a call that went well, with this message.
fn called(message: &[u8]) -> CallAnswer {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], &length[..], message].concat();
    CallAnswer {
        status: StatusCode::OK,
        headers: fields(&[("content-type", "application/grpc")]),
        body: Some(body.into()),
        trailers: fields(&[("grpc-status", "0")]),
    }
}

fn response(code: i32, http_response: HttpResponse) -> Vec<u8> {
    CheckResponse { status: Some(Status { code }), http_response: Some(http_response) }.encode_to_vec()
}

#[test]
fn what_is_no_whole_answer_decides_nothing() {
    let ok = called(b"");
    assert!(matches!(grpc::verdict(&ok, 9), Some(Verdict::Passes(_))));
    let with = |change: &dyn Fn(&mut CallAnswer)| {
        let mut answer = called(b"");
        change(&mut answer);
        grpc::verdict(&answer, 9).is_some()
    };
    let body = |bytes: &'static [u8]| move |answer: &mut CallAnswer| answer.body = Some(bytes.into());
    assert!(with(&|answer| {
        answer.headers.extend(fields(&[("grpc-status", "0")]));
        answer.trailers.clear();
    }));
    for (name, is_answer) in [
        ("no status", with(&|answer| answer.trailers.clear())),
        ("another status", with(&|answer| answer.trailers = fields(&[("grpc-status", "12")]))),
        ("one that begins alike", with(&|answer| answer.trailers = fields(&[("grpc-status", "00")]))),
        (
            "trailers before the head",
            with(&|answer| {
                answer.headers.extend(fields(&[("grpc-status", "0")]));
                answer.trailers = fields(&[("grpc-status", "1")]);
            }),
        ),
        ("another status of HTTP", with(&|answer| answer.status = StatusCode::NO_CONTENT)),
        ("a message that is too long", with(&|answer| answer.body = None)),
        ("no message", with(&body(b""))),
        ("a part of a prefix", with(&body(&[0, 0, 0]))),
        ("a part of a message", with(&body(&[0, 0, 0, 0, 2, 10]))),
        ("two messages", with(&body(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))),
        ("a message that is compressed", with(&body(&[1, 0, 0, 0, 0]))),
        ("a message of another kind", with(&body(&[0, 0, 0, 0, 1, 10]))),
    ] {
        assert!(!is_answer, "{name}");
    }
}

#[test]
fn edits_of_fields_have_an_old_form_and_a_new_one() {
    let edit = |append: Option<bool>, append_action: i32| HeaderValueOption {
        header: Some(messages::HeaderValue { key: "X-A".to_owned(), value: "v".to_owned(), raw_value: Vec::new() }),
        append: append.map(|value| BoolValue { value }),
        append_action,
    };
    let table = [
        (Some(true), 0, Edit::Append, Edit::Append),
        (Some(false), 0, Edit::Set, Edit::Set),
        (Some(true), 2, Edit::Append, Edit::Append),
        // The default of the new form means another thing in requests than in responses, as with Envoy.
        (None, 0, Edit::Set, Edit::Append),
        (None, 1, Edit::SetIfAbsent, Edit::SetIfAbsent),
        (None, 2, Edit::Set, Edit::Set),
        (None, 3, Edit::SetIfPresent, Edit::SetIfPresent),
    ];
    for (append, action, of_request, of_response) in table {
        let changes = OkHttpResponse {
            headers: vec![edit(append, action)],
            response_headers_to_add: vec![edit(append, action)],
            ..OkHttpResponse::default()
        };
        let verdict = grpc::verdict(&called(&response(0, HttpResponse::Ok(changes))), 9);
        let Some(Verdict::Passes(changes)) = verdict else { panic!("{verdict:?}") };
        let expected = |edit| {
            let (name, value) = (HeaderName::from_static("x-a"), HeaderValue::from_static("v"));
            [FieldEdit { name, value, edit }]
        };
        assert_eq!(changes.fields, expected(of_request), "{append:?} {action}");
        assert_eq!(changes.response, expected(of_response), "{append:?} {action}");
    }
}

#[test]
fn a_refusal_has_a_status_and_a_body_that_fit() {
    let denied = |code: i32, body: &str| {
        let denied =
            DeniedHttpResponse { status: Some(HttpStatus { code }), headers: Vec::new(), body: body.to_owned() };
        let verdict = grpc::verdict(&called(&response(7, HttpResponse::Denied(denied))), 9);
        let Some(Verdict::Denied(Refusal { status, headers, body })) = verdict else { panic!("{verdict:?}") };
        (status.as_u16(), body, headers.len())
    };
    assert_eq!(denied(401, "no"), (401, "no".into(), 1));
    assert_eq!(denied(0, ""), (403, "".into(), 0));
    for code in [100, 99, -1, 1_000, i32::MAX] {
        assert_eq!(denied(code, "").0, 403, "{code}");
    }
    assert_eq!(denied(401, "ten bytes."), (401, "".into(), 0), "too long");
    assert_eq!(denied(304, "no"), (304, "".into(), 0));
}

#[test]
fn over_http_200_alone_lets_a_request_pass() {
    let names = [HeaderName::from_static("x-user"), HeaderName::from_static("x-absent")];
    for (status, expected) in [
        (200, Some(true)),
        (201, Some(false)),
        (204, Some(false)),
        (302, Some(false)),
        (401, Some(false)),
        (499, Some(false)),
        (500, None),
        (503, None),
    ] {
        let answer = CallAnswer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: fields(&[("x-user", "a"), ("x-user", "b"), ("x-other", "c"), ("content-length", "2")]),
            body: Some("no".into()),
            trailers: HeaderMap::new(),
        };
        let verdict = http_service::verdict(&names, answer);
        assert_eq!(verdict.as_ref().map(|verdict| matches!(verdict, Verdict::Passes(_))), expected, "{status}");
        match verdict {
            Some(Verdict::Passes(changes)) => {
                let values: Vec<_> = changes.fields.iter().map(|edit| (edit.name.as_str(), &edit.value)).collect();
                assert_eq!(values, [("x-user", &"a".parse().unwrap()), ("x-user", &"b".parse().unwrap())]);
            }
            Some(Verdict::Denied(refusal)) => {
                assert_eq!(refusal.status, status);
                assert_eq!(refusal.body, if status == 204 { "" } else { "no" });
                assert!(!refusal.headers.contains_key("content-length"), "{status}");
            }
            None => {}
        }
    }
}
