//! The demo's chat: a WebSocket server (RFC 6455) as small as can be, with one room a path, and the page that talks to it.
//!
//! Only for the demo: text messages of one frame up to [`LIMIT`], ping and close. The gateway in front passes frames on
//! without looking at them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast;

use crate::http1::websocket::{accept, close_frame};

/// The page.
pub(super) const PAGE: &str = include_str!("chat.html");

/// Largest message, in bytes.
const LIMIT: usize = 16 << 10;

/// Messages that a slow member may lag behind before some are left out.
const BACKLOG: usize = 64;

/// The rooms of one backend by path.
#[derive(Clone, Debug, Default)]
pub(super) struct Rooms(Arc<Mutex<BTreeMap<String, broadcast::Sender<Arc<str>>>>>);

impl Rooms {
    fn enter(&self, path: &str) -> broadcast::Sender<Arc<str>> {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Rooms that everybody has left are forgotten.
        rooms.retain(|_, room| room.receiver_count() > 0);
        rooms.entry(path.to_owned()).or_insert_with(|| broadcast::channel(BACKLOG).0).clone()
    }
}

/// Accepts a handshake; the rest of the connection is a member of the room. `None` when it is no handshake.
pub(super) fn upgrade(request: &mut Request<Incoming>, rooms: &Rooms, pod: &str) -> Option<Response<Full<Bytes>>> {
    let asks = request.headers().get(header::UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket");
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).filter(|_| asks)?;
    let accepted = HeaderValue::from_bytes(&accept(key.as_bytes())).ok()?;
    let room = rooms.enter(request.uri().path());
    // Entered before the answer, so that the room is not forgotten meanwhile.
    let messages = room.subscribe();
    let (upgrading, pod) = (hyper::upgrade::on(request), pod.to_owned());
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            // A member that breaks off has left.
            let _ = member(TokioIo::new(upgraded), room, messages, &pod).await;
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    Some(response)
}

/// One member: what comes is told to the room, what the room says goes out.
async fn member<S>(
    stream: S,
    room: broadcast::Sender<Arc<str>>,
    mut messages: broadcast::Receiver<Arc<str>>,
    pod: &str,
) -> io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut read, mut write) = tokio::io::split(stream);
    write.write_all(&frame(TEXT, format!("welcome to {pod}").as_bytes())).await?;
    // Frames come whole through a channel: reading one must not be interrupted by something to write.
    let (frames, mut coming) = tokio::sync::mpsc::channel(8);
    let reading = async move {
        while let Ok(frame) = read_frame(&mut read).await {
            if frames.send(frame).await.is_err() {
                break;
            }
        }
    };
    let writing = async {
        loop {
            tokio::select! {
                came = coming.recv() => match came {
                    Some((TEXT, text)) => {
                        let text = String::from_utf8_lossy(&text);
                        // Nobody there but us is no failure.
                        let _ = room.send(format!("{pod}: {text}").into());
                    }
                    Some((PING, payload)) => write.write_all(&frame(PONG, &payload)).await?,
                    Some((CLOSE, payload)) => {
                        write.write_all(&frame(CLOSE, &payload)).await?;
                        return write.shutdown().await;
                    }
                    Some((PONG, _)) => {}
                    // 1003: a kind of data that this server does not take (RFC 6455 §7.4.1).
                    Some(_) => write.write_all(&close_frame(1003, None)).await?,
                    None => return Ok(()),
                },
                message = messages.recv() => match message {
                    Ok(text) => write.write_all(&frame(TEXT, text.as_bytes())).await?,
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
            }
        }
    };
    tokio::select! {
        // What was read is still answered.
        result = writing => result,
        () = async {
            reading.await;
            std::future::pending().await
        } => Ok(()),
    }
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A final, unmasked frame (RFC 6455 §5.2).
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..=125) => frame.push(length as u8),
        Ok(length) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

/// Reads one masked frame; its opcode and what it carries. Fragments, extensions and frames above [`LIMIT`] are errors.
async fn read_frame(read: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let mut begin = [0; 2];
    read.read_exact(&mut begin).await?;
    let length = match begin[1] & 0x7f {
        126 => u64::from(read.read_u16().await?),
        127 => read.read_u64().await?,
        length => u64::from(length),
    };
    let plain = begin[0] & 0xf0 == 0x80 && begin[1] & 0x80 != 0;
    let length = usize::try_from(length).ok().filter(|length| plain && *length <= LIMIT);
    let length = length.ok_or(io::ErrorKind::InvalidData)?;
    let mut mask = [0; 4];
    read.read_exact(&mut mask).await?;
    let mut payload = vec![0; length];
    read.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Ok((begin[0] & 0x0f, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(opcode: u8, text: &str) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(text.len()).expect("short"), 1, 2, 3, 4];
        frame.extend(text.bytes().zip([1, 2, 3, 4].into_iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    async fn expect(stream: &mut (impl tokio::io::AsyncRead + Unpin), bytes: &[u8]) {
        let mut read = vec![0; bytes.len()];
        stream.read_exact(&mut read).await.expect("as many bytes");
        assert_eq!(read, bytes);
    }

    #[tokio::test]
    async fn members_of_a_room_hear_each_other_and_leave_by_close() {
        let rooms = Rooms::default();
        let mut members = Vec::new();
        for room in ["/a", "/a", "/b"] {
            let (near, far) = tokio::io::duplex(1 << 10);
            let room = rooms.enter(room);
            let messages = room.subscribe();
            let task = tokio::spawn(async move { member(far, room, messages, "pod").await });
            members.push((near, task));
        }
        for (near, _) in &mut members {
            expect(near, &frame(TEXT, b"welcome to pod")).await;
        }
        members[0].0.write_all(&masked(TEXT, "hello")).await.expect("written");
        for (near, _) in &mut members[..2] {
            expect(near, &frame(TEXT, b"pod: hello")).await;
        }
        members[2].0.write_all(&masked(PING, "x")).await.expect("written");
        expect(&mut members[2].0, &frame(PONG, b"x")).await;
        let (mut near, task) = members.swap_remove(0);
        near.write_all(&masked(CLOSE, "\u{3}x")).await.expect("written");
        expect(&mut near, &frame(CLOSE, b"\x03x")).await;
        task.await.expect("no panic").expect("an orderly end");
    }

    #[test]
    fn lengths_are_those_of_the_standard() {
        assert_eq!(frame(TEXT, &[0; 125])[..2], [0x81, 125]);
        assert_eq!(frame(TEXT, &[0; 126])[..4], [0x81, 126, 0, 126]);
        assert_eq!(frame(TEXT, &[0; 65_536])[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
