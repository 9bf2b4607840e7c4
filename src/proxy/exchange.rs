//! One request from its head to its response, as data: what its phases and attempts work on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};

use super::account::Account;
use super::body::Content;
use super::client_body::ClientBody;
use super::decision::Decision;
use super::downstream::UpgradeSlot;
use super::headers::RequestId;
use crate::balance::Picked;
use crate::http1::client::Upload;
use crate::model::policy::Upgrades;
use crate::sockets::Reservation;

/// A request on its way to a response.
pub(super) struct Exchange {
    pub(super) account: Account,
    /// The request's head and what was decided about it.
    pub(super) decision: Decision,
    /// Of the client's side.
    pub(super) version: Version,
    pub(super) request_id: RequestId,
    /// For a WebSocket handshake that the rule allows.
    pub(super) handshake: Option<Box<Handshake>>,
    /// The client's body, until an attempt has it.
    pub(super) body: Option<ClientBody>,
    /// What a failed attempt over HTTP/1 was sending, for the next one.
    pub(super) upload: Option<Box<Upload<ClientBody>>>,
    /// The answer as far as it is there; an attempt that succeeds makes it, or else whoever answers for the gateway.
    pub(super) reply: Reply,
    /// The answer that goes out when the tries that were to replace it bring none.
    pub(super) held: Option<Box<HeldAnswer>>,
    /// When the present try began, as endpoints count the time.
    pub(super) try_since_epoch: Duration,
    /// The next attempt must not use the connection that an earlier one failed on.
    pub(super) fresh: bool,
}

/// A response before it is put together: what an attempt brought, or one of tidegate's own.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) content: Content,
    /// An endpoint's reason phrase, only for a status that has no registered one.
    pub(super) reason: Option<Box<Bytes>>,
}

impl Default for Reply {
    /// What goes out if nobody makes an answer.
    fn default() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            fields: HeaderMap::new(),
            content: Content::Empty,
            reason: None,
        }
    }
}

/// An answer that waits for what becomes of the tries that are to replace it.
#[derive(Debug)]
pub(super) struct HeldAnswer {
    /// Who gave it.
    pub(super) picked: Picked,
    /// The answer. What is not here yet of its body stays on its connection.
    pub(super) reply: Reply,
}

/// A WebSocket handshake on its way to an endpoint.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) slot: UpgradeSlot,
    /// Its place among the rule's sockets, until it opens.
    pub(super) place: Reservation,
    /// The `sec-websocket-accept` that must come back.
    pub(super) accept: [u8; 28],
    pub(super) upgrades: Upgrades,
    pub(super) route: Arc<str>,
    pub(super) rule: Arc<str>,
}
