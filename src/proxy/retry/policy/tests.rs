use std::io;

use super::*;
use crate::model::retry::{Budget, GrpcCodes, IDEMPOTENT};
use crate::proxy::retry::Progress;

const SECOND: Duration = Duration::from_secs(1);

fn retry() -> Retry {
    Retry {
        attempts: 2,
        on_connect_failure: true,
        on_reset: true,
        on_timeout: true,
        codes: [StatusCode::SERVICE_UNAVAILABLE].into(),
        grpc_codes: [14].into_iter().collect(),
        methods: IDEMPOTENT.into(),
        backoff: Duration::from_millis(100),
        max_backoff: SECOND,
        budget: Budget { percent: 20, interval: SECOND, min_per_second: 1 },
        max_body: 100,
    }
}

/// A `retry` block that asks for nothing.
fn nothing() -> Retry {
    Retry {
        on_connect_failure: false,
        on_reset: false,
        on_timeout: false,
        codes: [].into(),
        grpc_codes: GrpcCodes::default(),
        ..retry()
    }
}

fn failure(error: ProxyError, sent: Sent, is_sent: bool) -> Failure {
    Failure { error, progress: Progress { sent, is_sent, ..Progress::default() } }
}

fn reset() -> ProxyError {
    ProxyError::Reset("gone".into())
}

fn refused() -> ProxyError {
    ProxyError::Connect(io::ErrorKind::ConnectionRefused.into())
}

#[test]
fn failures_that_are_wanted() {
    use RetryTrigger::{Connect, Reset, Timeout};
    let only = |change: fn(&mut Retry)| {
        let mut block = nothing();
        change(&mut block);
        block
    };
    let connect = only(|block| block.on_connect_failure = true);
    let on_reset = only(|block| block.on_reset = true);
    let timeout = only(|block| block.on_timeout = true);
    let (get, post) = (Method::GET, Method::POST);
    let all = retry();
    let table = [
        ("refused, any method", &connect, &post, refused().into(), Some(Connect)),
        ("no answer to SYN", &connect, &post, ProxyError::ConnectTimeout.into(), Some(Connect)),
        ("reset before a byte was written", &connect, &post, failure(reset(), Sent::Nothing, false), Some(Connect)),
        ("refused stream", &connect, &post, failure(reset(), Sent::Refused, true), Some(Connect)),
        ("reset, not asked for", &connect, &get, failure(reset(), Sent::Some, true), None),
        ("reset", &on_reset, &get, failure(reset(), Sent::Some, true), Some(Reset)),
        ("reset in the middle of the request", &on_reset, &get, failure(reset(), Sent::Some, false), Some(Reset)),
        ("reset, not idempotent", &on_reset, &post, failure(reset(), Sent::Some, true), None),
        ("refused, not asked for", &on_reset, &get, refused().into(), None),
        ("no head in time", &timeout, &get, failure(ProxyError::ResponseHead, Sent::Some, true), Some(Timeout)),
        ("a try too long", &timeout, &get, failure(ProxyError::BackendRequest, Sent::Some, true), Some(Timeout)),
        ("the upload was slow", &timeout, &get, failure(ProxyError::BackendRequest, Sent::Some, false), None),
        (
            "a try too long, not idempotent",
            &timeout,
            &post,
            failure(ProxyError::BackendRequest, Sent::Some, true),
            None,
        ),
        ("the whole exchange", &timeout, &get, failure(ProxyError::Request, Sent::Some, true), None),
        ("malformed", &all, &get, failure(ProxyError::BadResponse("bad".into()), Sent::Some, true), None),
        ("a wrong handshake", &all, &get, failure(ProxyError::Handshake, Sent::Some, true), None),
    ];
    for (name, block, method, failure, expected) in table {
        let found = wish_after_failure(block, method, &failure).map(|wish| wish.trigger);
        assert_eq!(found, expected, "{name}");
    }
    let local = ProxyError::Connect(io::Error::from_raw_os_error(24));
    assert_eq!(wish_after_failure(&retry(), &get, &local.into()), None, "out of descriptors");
    let mut late = failure(reset(), Sent::Some, true);
    late.progress.received = true;
    assert_eq!(wish_after_failure(&retry(), &get, &late), None, "a byte of the response came");
}

#[test]
fn answers_that_are_wanted_again() {
    let fields = |lines: &[(&'static str, &'static str)]| {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect::<HeaderMap>()
    };
    let wish = |method: Method, status: u16, lines: &[(&'static str, &'static str)]| {
        wish_after_answer(&retry(), &method, StatusCode::from_u16(status).unwrap(), &fields(lines))
    };
    let trigger =
        |method, status, lines: &[(&'static str, &'static str)]| wish(method, status, lines).map(|wish| wish.trigger);
    let grpc = ("content-type", "application/grpc+proto");
    assert_eq!(trigger(Method::GET, 503, &[]), Some(RetryTrigger::Code));
    assert_eq!(trigger(Method::GET, 500, &[]), None);
    assert_eq!(trigger(Method::POST, 503, &[]), None);
    assert_eq!(trigger(Method::POST, 200, &[grpc, ("grpc-status", "14")]), Some(RetryTrigger::Grpc));
    assert_eq!(trigger(Method::POST, 200, &[grpc, ("grpc-status", "13")]), None);
    assert_eq!(trigger(Method::POST, 200, &[grpc, ("grpc-status", "x")]), None);
    assert_eq!(trigger(Method::POST, 200, &[grpc]), None, "its status comes behind messages");
    assert_eq!(trigger(Method::POST, 200, &[("grpc-status", "14")]), None, "no gRPC");

    let after = |millis| Pushback::After(Duration::from_millis(millis));
    let said = |value| wish(Method::GET, 503, &[("retry-after", value)]).unwrap().pushback;
    assert_eq!(said("3"), after(3_000));
    assert_eq!(said("Fri, 31 Dec 1999 23:59:59 GMT"), Pushback::Never);
    let said = |value| {
        wish(Method::POST, 200, &[grpc, ("grpc-status", "14"), ("grpc-retry-pushback-ms", value)]).unwrap().pushback
    };
    assert_eq!(said("70"), after(70));
    assert_eq!((said("-1"), said("soon")), (Pushback::Never, Pushback::Never));
    assert_eq!(wish(Method::GET, 503, &[]).unwrap().pushback, Pushback::Unsaid);
}

fn facts() -> Facts {
    Facts { made: 0, is_repeatable: true, is_further_try: false, left: None }
}

fn wish(pushback: Pushback) -> Wish {
    Wish { trigger: RetryTrigger::Code, pushback }
}

#[test]
fn a_wish_is_granted_or_denied_with_its_reason() {
    let ask = |facts: Facts, pushback, budget: bool| {
        decide(&retry(), wish(pushback), facts, &mut fastrand::Rng::with_seed(1), || budget).map(|_| ())
    };
    let unsaid = Pushback::Unsaid;
    assert_eq!(ask(facts(), unsaid, true), Ok(()));
    assert_eq!(ask(Facts { made: 1, ..facts() }, unsaid, true), Ok(()));
    assert_eq!(ask(Facts { made: 2, ..facts() }, unsaid, true), Err(None), "no attempts left");
    assert_eq!(ask(facts(), unsaid, false), Err(Some(RetryDenial::Budget)));
    assert_eq!(ask(Facts { is_repeatable: false, ..facts() }, unsaid, true), Err(Some(RetryDenial::Body)));
    assert_eq!(ask(Facts { is_further_try: true, ..facts() }, unsaid, true), Err(Some(RetryDenial::Forwarded)));
    let left = |millis| Facts { left: Some(Duration::from_millis(millis)), ..facts() };
    assert_eq!(ask(left(0), unsaid, true), Err(Some(RetryDenial::Deadline)));
    assert_eq!(ask(left(100), unsaid, true), Ok(()), "longer than any first pause");
    assert_eq!(ask(left(900), Pushback::After(SECOND), true), Err(Some(RetryDenial::Deadline)));
    assert_eq!(ask(facts(), Pushback::After(SECOND * 2), true), Err(None), "longer than maxBackoff");
    assert_eq!(ask(facts(), Pushback::Never, true), Err(None));
    // The budget is not asked for what another reason denies.
    let asked = std::cell::Cell::new(false);
    let denied = Facts { is_repeatable: false, ..facts() };
    let _ = decide(&retry(), wish(unsaid), denied, &mut fastrand::Rng::new(), || asked.replace(true));
    assert!(!asked.get());
}

#[test]
fn pauses_double_up_to_the_longest_and_are_spread_from_zero_on() {
    let block = Retry { attempts: 10, ..retry() };
    let mut rng = fastrand::Rng::with_seed(7);
    for made in 0..10 {
        let longest = Duration::from_millis((100 << made).min(1_000));
        let facts = Facts { made, ..facts() };
        let mut pause = || decide(&block, wish(Pushback::Unsaid), facts, &mut rng, || true).unwrap();
        let pauses: Vec<Duration> = (0..2_000).map(|_| pause()).collect();
        assert!(pauses.iter().all(|pause| *pause <= longest), "{made}");
        let mean = pauses.iter().sum::<Duration>() / 2_000;
        // 2,000 draws: the mean is within 3 % of the half with more than four standard deviations.
        assert!(mean.abs_diff(longest / 2) < longest * 3 / 100, "{made}: {mean:?} of {longest:?}");
    }
    let asked = decide(&block, wish(Pushback::After(SECOND)), facts(), &mut rng, || true);
    assert_eq!(asked, Ok(SECOND));
}
