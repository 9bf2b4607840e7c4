use std::collections::VecDeque;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use proptest::prelude::*;

use super::*;
use crate::filter::layer::{BodyStage, BodyStream};
use crate::model::filter::{FilterList, MediaRange, StateKey};
use crate::model::ids::ObjectName;

/// What a body gives next.
#[derive(Clone, Debug)]
enum Step {
    Data(Vec<u8>),
    /// Nothing for now.
    Pending,
    Trailers(&'static str),
    Fails,
}

struct Steps(VecDeque<Step>);

impl Body for Steps {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.0.pop_front() {
            None => Poll::Ready(None),
            Some(Step::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data.into())))),
            Some(Step::Pending) => Poll::Pending,
            Some(Step::Trailers(name)) => {
                let trailers = [(HeaderName::from_static(name), HeaderValue::from_static("x"))];
                Poll::Ready(Some(Ok(Frame::trailers(trailers.into_iter().collect()))))
            }
            Some(Step::Fails) => Poll::Ready(Some(Err("broken".into()))),
        }
    }
}

/// What came out of a body: the data of each frame, the trailers, whether it failed.
#[derive(Debug, Default)]
struct Output {
    pieces: Vec<Vec<u8>>,
    waits: usize,
    trailers: Option<HeaderMap>,
    failed: bool,
}

fn run(mut body: BodyStream) -> Output {
    let mut cx = Context::from_waker(Waker::noop());
    let mut output = Output::default();
    loop {
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Pending => {
                output.waits += 1;
                assert!(output.waits < 100_000, "it never ends");
            }
            Poll::Ready(None) => return output,
            Poll::Ready(Some(Err(_))) => {
                output.failed = true;
                return output;
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => output.pieces.push(data.into()),
                Err(frame) => output.trailers = frame.into_trailers().ok(),
            },
        }
    }
}

fn decode(coding: ContentCoding, data: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        ContentCoding::Gzip => drop(flate2::read::GzDecoder::new(data).read_to_end(&mut plain).expect("gzip")),
        ContentCoding::Brotli => drop(brotli::Decompressor::new(data, 4096).read_to_end(&mut plain).expect("br")),
        ContentCoding::Zstd => {
            plain.reserve(1 << 22);
            zstd_safe::decompress(&mut plain, data).expect("zstd");
        }
    }
    plain
}

fn filter(codings: &[ContentCoding], min_bytes: u64) -> Compression {
    let state = StateKey {
        route: ObjectName { namespace: "n".into(), name: "r".into() },
        place: FilterList::Route,
        filter: "Compression",
        position: 0,
    };
    Compression { state: Arc::new(state), codings: codings.to_vec(), min_bytes, media_types: None }
}

fn stage_of(coding: ContentCoding, length: Option<u64>, compressors: &Arc<Compressors>) -> BodyStage {
    let accepted = Accepted { coding: Some(coding), weak_tags: false, worker: 0, compressors: Arc::clone(compressors) };
    let stage = stage(&accepted, coding, length).expect("memory");
    Box::new(move |inner| Box::pin(stage.around(inner)))
}

fn compress(coding: ContentCoding, steps: Vec<Step>) -> Output {
    let compressors = Arc::new(Compressors::new(1, 64 << 20));
    let output = run(stage_of(coding, None, &compressors)(Box::pin(Steps(steps.into()))));
    assert_eq!(compressors.used(), 0, "memory is given back");
    output
}

#[test]
fn each_event_comes_out_before_the_next_goes_in() {
    for &coding in ContentCoding::ALL {
        let events: Vec<Vec<u8>> = (0..5).map(|number| format!("data: {number}\n\n").into_bytes()).collect();
        let steps = events.iter().flat_map(|event| [Step::Data(event.clone()), Step::Pending]).collect();
        let output = compress(coding, steps);
        let mut come = Vec::new();
        for (number, event) in events.iter().enumerate() {
            come.extend_from_slice(&output.pieces[number]);
            let plain = decode_so_far(coding, &come);
            assert!(plain.ends_with(event), "{coding:?} {number}: {}", String::from_utf8_lossy(&plain));
        }
        assert_eq!(decode(coding, &output.pieces.concat()), events.concat());
    }
}

/// What a decoder gives for the begin of a body.
fn decode_so_far(coding: ContentCoding, data: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        ContentCoding::Gzip => drop(flate2::read::GzDecoder::new(data).read_to_end(&mut plain)),
        ContentCoding::Brotli => drop(brotli::Decompressor::new(data, 4096).read_to_end(&mut plain)),
        ContentCoding::Zstd => {
            plain.reserve(1 << 16);
            let mut context = zstd_safe::DCtx::create();
            let mut input = zstd_safe::InBuffer::around(data);
            context.decompress_stream(&mut zstd_safe::OutBuffer::around(&mut plain), &mut input).expect("zstd");
        }
    }
    plain
}

#[test]
fn trailers_follow_the_last_byte_and_failures_cut() {
    for &coding in ContentCoding::ALL {
        let output = compress(coding, vec![Step::Data(b"body".to_vec()), Step::Trailers("x-checksum")]);
        assert_eq!(decode(coding, &output.pieces.concat()), b"body");
        assert!(output.trailers.is_some_and(|trailers| trailers.contains_key("x-checksum")));
        let output = compress(coding, vec![Step::Data(b"body".to_vec()), Step::Trailers("content-digest")]);
        assert!(output.trailers.is_none(), "a digest of other bytes");
        let output = compress(coding, vec![Step::Data(b"body".to_vec()), Step::Pending, Step::Fails]);
        assert!(output.failed && decode_so_far(coding, &output.pieces.concat()) == b"body");
        assert_eq!(decode(coding, &compress(coding, Vec::new()).pieces.concat()), b"", "no byte at all");
    }
}

#[test]
fn a_large_body_gives_others_a_turn() {
    let output = compress(ContentCoding::Gzip, vec![Step::Data(vec![b'a'; 1 << 20])]);
    let turns = output.pieces.len() + output.waits;
    assert!(turns >= 64, "{turns} turns for 1 MiB");
}

#[test]
fn without_memory_brotli_is_content_with_less_and_then_nothing_is_compressed() {
    let most = Effort::BrotliWhole(1 << 20).memory() + Effort::BrotliStream.memory();
    let compressors = Arc::new(Compressors::new(1, most));
    let first = stage_of(ContentCoding::Brotli, Some(1 << 20), &compressors);
    assert_eq!(compressors.used(), Effort::BrotliWhole(1 << 20).memory());
    let second = stage_of(ContentCoding::Brotli, Some(1 << 20), &compressors);
    assert_eq!(compressors.used(), most);
    let response = Case { compressors: Some(Arc::clone(&compressors)), ..Case::default() }.run();
    assert!(!response.0.contains_key(CONTENT_ENCODING) && response.0.contains_key("vary"));
    assert_eq!(compressors.counts().skipped, 1);
    drop((first, second));
    assert_eq!(compressors.used(), 0);
}

/// A request and a response.
struct Case {
    accepts: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    status: u16,
    length: Option<u64>,
    weak_tags: bool,
    compressors: Option<Arc<Compressors>>,
}

impl Default for Case {
    fn default() -> Self {
        let fields = vec![("content-type", "text/html"), ("etag", "\"a\""), ("content-length", "2000")];
        Self { accepts: "gzip", fields, status: 200, length: Some(2000), weak_tags: false, compressors: None }
    }
}

impl Case {
    fn run(self) -> (HeaderMap, Option<ContentCoding>) {
        let compression = filter(&[ContentCoding::Gzip], 1024);
        let mut headers: HeaderMap = self
            .fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let line = HeaderValue::from_static(self.accepts);
        let accepted = Accepted {
            coding: negotiation::best([&line], &compression.codings),
            weak_tags: self.weak_tags,
            worker: 0,
            compressors: self.compressors.unwrap_or_else(|| Arc::new(Compressors::new(1, 64 << 20))),
        };
        let (mut status, mut coding) = (StatusCode::from_u16(self.status).expect("a status"), None);
        let mut body = Vec::new();
        let view = &mut ResponseView {
            status: &mut status,
            headers: &mut headers,
            length: self.length,
            coding: &mut coding,
            body: &mut body,
        };
        response(&compression, Memory::Accepted(accepted), view);
        assert_eq!(body.len(), usize::from(coding.is_some()));
        (headers, coding)
    }

    fn with(name: &'static str, value: &'static str) -> Self {
        let mut case = Self::default();
        case.fields.push((name, value));
        case
    }
}

#[test]
fn a_compressed_response_says_so_and_nothing_that_is_no_longer_true() {
    let mut case = Case::default();
    for name in ["accept-ranges", "content-digest", "repr-digest", "digest", "content-md5"] {
        case.fields.push((name, "x"));
    }
    let (headers, coding) = case.run();
    assert_eq!(coding, Some(ContentCoding::Gzip));
    let fields: std::collections::BTreeMap<_, _> =
        headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
    let expected =
        [("content-encoding", "gzip"), ("content-type", "text/html"), ("etag", "W/\"a\""), ("vary", "accept-encoding")];
    assert_eq!(fields, expected.into_iter().collect());
    let (headers, _) = Case::with("vary", "Accept-Encoding, Origin").run();
    assert_eq!(headers.get_all("vary").iter().count(), 1);
    let weak = vec![("content-type", "text/html"), ("etag", "W/\"a\"")];
    assert_eq!(Case { fields: weak, ..Case::default() }.run().0["etag"], "W/\"a\"");
}

#[test]
fn what_must_not_be_compressed_stays_as_it_is() {
    let html = || vec![("content-type", "text/html"), ("etag", "\"a\"")];
    for (what, case, varies) in [
        ("accepts nothing", Case { accepts: "", ..Case::default() }, true),
        ("too small", Case { length: Some(1023), ..Case::default() }, true),
        ("an answer to HEAD", Case { length: Some(0), ..Case::default() }, true),
        ("compressed already", Case::with("content-encoding", "br"), false),
        ("compressed by nobody knows what", Case::with("content-encoding", "identity"), false),
        ("a range", Case::with("content-range", "bytes 0-1/2"), false),
        ("no-transform", Case::with("cache-control", "public, No-Transform"), false),
        ("an image", Case { fields: vec![("content-type", "image/png"), ("etag", "\"a\"")], ..Case::default() }, false),
        ("no type", Case { fields: vec![("etag", "\"a\"")], ..Case::default() }, false),
        ("204", Case { status: 204, fields: html(), ..Case::default() }, false),
        ("206", Case { status: 206, fields: html(), ..Case::default() }, false),
        ("304", Case { status: 304, fields: html(), ..Case::default() }, false),
        ("404", Case { status: 404, fields: html(), ..Case::default() }, false),
        ("302", Case { status: 302, fields: html(), ..Case::default() }, false),
    ] {
        let before: HeaderMap = case
            .fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let (mut headers, coding) = case.run();
        assert_eq!(coding, None, "{what}");
        assert_eq!(headers.remove("vary").is_some(), varies, "{what}");
        assert_eq!(headers, before, "{what}");
    }
    let unknown = Case { length: None, ..Case::default() };
    assert!(unknown.run().1.is_some(), "a stream of unknown length is worth it");
}

#[test]
fn a_304_has_the_tag_that_the_client_asked_with() {
    for fields in [vec![("etag", "\"a\"")], vec![("etag", "\"a\""), ("content-type", "text/html")]] {
        let (headers, _) = Case { status: 304, fields, weak_tags: true, ..Case::default() }.run();
        assert_eq!(
            (&headers["etag"], &headers["vary"]),
            (&"W/\"a\"".parse().unwrap(), &"accept-encoding".parse().unwrap())
        );
    }
    let image = vec![("etag", "\"a\""), ("content-type", "image/png")];
    assert_eq!(Case { status: 304, fields: image, weak_tags: true, ..Case::default() }.run().0["etag"], "\"a\"");
}

#[test]
fn a_list_of_a_user_counts_instead_of_the_default() {
    let mut compression = filter(&[ContentCoding::Gzip], 0);
    compression.media_types = Some(vec![MediaRange::parse("text/event-stream").expect("a range")]);
    assert!(compression.covers("text/event-stream") && !compression.covers("text/html"));
}

/// Memory that the process allocates for a compressor, as the bound on all of them counts it.
#[test]
fn a_compressor_takes_no_more_memory_than_is_counted() {
    let text: Vec<u8> = (0_u32..400_000)
        .flat_map(|number| (number.wrapping_mul(2_654_435_761) >> 7).to_string().into_bytes())
        .collect();
    let length = Some(text.len() as u64);
    for effort in [
        Effort::Gzip,
        Effort::BrotliStream,
        Effort::BrotliWhole(2000),
        Effort::BrotliWhole(10_000),
        Effort::BrotliWhole(30_000),
        Effort::BrotliWhole(100_000),
        Effort::BrotliWhole(300_000),
        Effort::BrotliWhole(text.len() as u64),
        Effort::Zstd(None),
        Effort::Zstd(length),
    ] {
        let measured = allocation_counter::measure(|| {
            let mut encoder = Encoder::new(effort).expect("memory");
            let length = if let Effort::BrotliWhole(length) = effort { length as usize } else { text.len() };
            for piece in text[..length].chunks(16 << 10) {
                encoder.write(piece).expect("written");
                drop(encoder.take());
            }
            drop(encoder.finish().expect("finished"));
        });
        let most = match effort {
            // Its memory is that of the C library.
            Effort::Zstd(_) => continue,
            effort => effort.memory() as u64,
        };
        println!("{effort:?}: {} of {most}", measured.bytes_max);
        assert!(measured.bytes_max <= most, "{effort:?}: {} of {most}", measured.bytes_max);
    }
}

proptest! {
    #[test]
    fn every_body_in_any_pieces_comes_back(
        steps in prop::collection::vec(
            prop_oneof![
                Just(Step::Pending),
                prop::collection::vec(any::<u8>(), 0..3000).prop_map(Step::Data),
                (any::<u8>(), 0_usize..70_000).prop_map(|(byte, count)| Step::Data(vec![byte; count])),
            ],
            0..12,
        ),
        known in any::<bool>(),
    ) {
        let data = |step: &Step| if let Step::Data(data) = step { data.clone() } else { Vec::new() };
        let plain = steps.iter().map(data).collect::<Vec<_>>().concat();
        let compressors = Arc::new(Compressors::new(1, 64 << 20));
        for &coding in ContentCoding::ALL {
            let length = known.then_some(plain.len() as u64);
            let output = run(stage_of(coding, length, &compressors)(Box::pin(Steps(steps.clone().into()))));
            let compressed = output.pieces.concat();
            prop_assert_eq!(&decode(coding, &compressed), &plain);
            let counts = compressors.counts().bytes;
            let (_, before, after) = counts[coding as usize];
            prop_assert_eq!((before, after), (plain.len() as u64, compressed.len() as u64));
        }
    }
}
