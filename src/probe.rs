//! `tidegate probe`: asks addresses over HTTP/1.1 and says whether they answer as they should.
//!
//! For people and for jobs that have no other client at hand, such as the test pod of the chart, whose image holds nothing
//! but this program. Each try has a connection of its own, so that a load balancer chooses anew.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// A body is not read beyond so many bytes.
const MAX_BODY: usize = 1024 * 1024;

/// The most characters of a body that are shown.
const SHOWN: usize = 120;

/// Whom to ask, and what is expected.
#[derive(Clone, Debug)]
pub struct Options {
    /// Asked one after the other.
    pub targets: Vec<Target>,
    /// Each answer must have one of these; never empty.
    pub statuses: Vec<Statuses>,
    /// Sent instead of the target's own host.
    pub host: Option<HeaderValue>,
    /// Further fields of each request.
    pub fields: Vec<Field>,
    /// Each body must contain this.
    pub contains: Option<String>,
    /// So many tries in a row must succeed, at least one.
    pub times: u32,
    /// A target that does not answer as expected is tried again for so long.
    pub wait: Duration,
    /// What one try may take.
    pub timeout: Duration,
}

/// An `http` URL with a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
}

/// One status, or all of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statuses {
    /// Exactly this one.
    One(StatusCode),
    /// All that begin with this digit.
    Class(u16),
}

/// A field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    name: HeaderName,
    value: HeaderValue,
}

/// Why a try did not succeed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("no answer: {0}")]
    Answer(#[source] hyper::Error),
    #[error("the body is broken: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no whole answer within {0:?}")]
    Late(Duration),
    #[error("found status {found}, expected {expected}; the body begins {body:?}")]
    Status { found: StatusCode, expected: String, body: String },
    #[error("found a body that begins {found:?}, expected one that contains {expected:?}{}", place(*.is_whole))]
    Contents { found: String, expected: String, is_whole: bool },
}

/// Where the body was searched, if that was not everywhere.
fn place(is_whole: bool) -> &'static str {
    if is_whole { "" } else { " in its first MiB, where it was searched" }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("found {text:?}, expected a URL such as http://10.0.0.1:8080/path");
        let uri: Uri = text.parse().map_err(|_| refused())?;
        if uri.scheme_str().is_some_and(|scheme| scheme == "https") {
            return Err(format!("found {text:?}, expected http: https is not supported yet"));
        }
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) || has_user {
            return Err(refused());
        }
        Ok(Self { uri })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            [class @ b'2'..=b'5', b'x' | b'X', b'x' | b'X'] => Some(Self::Class(u16::from(class - b'0'))),
            [b'2'..=b'5', _, _] => text.parse().ok().map(Self::One),
            _ => None,
        }
        .ok_or_else(|| format!("found {text:?}, expected a status from 200 to 599, or a class such as 2xx"))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(status) => write!(f, "{}", status.as_str()),
            Self::Class(class) => write!(f, "{class}xx"),
        }
    }
}

impl Statuses {
    fn contains(self, status: StatusCode) -> bool {
        match self {
            Self::One(one) => one == status,
            Self::Class(class) => status.as_u16() / 100 == class,
        }
    }
}

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let field = text.split_once(':').and_then(|(name, value)| {
            Some(Self { name: name.parse().ok()?, value: HeaderValue::from_str(value.trim()).ok()? })
        });
        field.ok_or_else(|| format!("found {text:?}, expected a field such as \"accept: text/html\""))
    }
}

/// Asks every target and writes one line for each: successes to `out`, failures to `err`, where also the first failure of
/// each kind is told while it is tried again. Whether all answered as expected.
///
/// # Errors
/// When `out` or `err` cannot be written to.
pub async fn run(options: &Options, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<bool> {
    let mut all = true;
    for target in &options.targets {
        all &= ask(target, options, out, err).await?;
    }
    Ok(all)
}

async fn ask(target: &Target, options: &Options, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<bool> {
    let began = Instant::now();
    let mut tries = 0_u32;
    let mut in_a_row = 0;
    let mut told = String::new();
    loop {
        tries = tries.saturating_add(1);
        let try_began = Instant::now();
        let limited = tokio::time::timeout(options.timeout, exchange(target, options)).await;
        match limited.unwrap_or(Err(Failure::Late(options.timeout))) {
            Ok(status) => {
                in_a_row += 1;
                if in_a_row >= options.times {
                    let times = if in_a_row > 1 { format!(", {in_a_row} times in a row") } else { String::new() };
                    writeln!(out, "ok {target}: {status} in {:?}{times}", try_began.elapsed())?;
                    return Ok(true);
                }
            }
            Err(failure) => {
                in_a_row = 0;
                let failure = failure.to_string();
                if began.elapsed() + PAUSE > options.wait {
                    let tries = if tries > 1 { format!(" ({tries} tries)") } else { String::new() };
                    writeln!(err, "failed {target}: {failure}{tries}")?;
                    return Ok(false);
                }
                if told != failure {
                    writeln!(err, "trying {target} again: {failure}")?;
                    told = failure;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One request with a connection of its own; the status, if all is as expected.
async fn exchange(target: &Target, options: &Options) -> Result<StatusCode, Failure> {
    let authority = target.uri.authority().expect("a target has a host");
    // Brackets belong to the URL, and not to the address.
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((name, authority.port_u16().unwrap_or(80))).await.map_err(Failure::Connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Failure::Answer)?;
    let host = options.host.clone().unwrap_or_else(|| {
        HeaderValue::from_str(authority.as_str()).expect("an authority has no byte that a field may not have")
    });
    let path = target.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("tidegate-probe/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("a path that was part of a URL");
    for field in &options.fields {
        request.headers_mut().append(field.name.clone(), field.value.clone());
    }
    let answer = async {
        let response = sender.send_request(request).await.map_err(Failure::Answer)?;
        let status = response.status();
        let (mut body, mut read) = (response.into_body(), Vec::new());
        // No more than that is looked at.
        while read.len() < MAX_BODY
            && let Some(frame) = body.frame().await
        {
            let frame = frame.map_err(|error| Failure::Body(error.into()))?;
            frame.data_ref().into_iter().for_each(|data| read.extend_from_slice(data));
        }
        let is_whole = read.len() < MAX_BODY || body.is_end_stream();
        Ok((status, read, is_whole))
    };
    // The connection moves the bytes, and ends with the answer or after it.
    let (status, body, is_whole) = tokio::select! {
        biased;
        answer = answer => answer?,
        Err(error) = connection => return Err(Failure::Answer(error)),
    };
    let body = String::from_utf8_lossy(&body);
    let begin = || body.chars().take(SHOWN).collect::<String>();
    if !options.statuses.iter().any(|expected| expected.contains(status)) {
        let expected: Vec<_> = options.statuses.iter().map(Statuses::to_string).collect();
        return Err(Failure::Status { found: status, expected: expected.join(" or "), body: begin() });
    }
    match &options.contains {
        Some(expected) if !body.contains(expected.as_str()) => {
            Err(Failure::Contents { found: begin(), expected: expected.clone(), is_whole })
        }
        Some(_) | None => Ok(status),
    }
}

#[cfg(test)]
mod tests;
