//! `ConsistentHash`: a ring of virtual nodes over all endpoints of a tier (Karger et al., 1997), with bounded load
//! (Mirrokni, Thorup and Zadimoghaddam, 2016).
//!
//! Points depend on nothing but an endpoint's identity and its number of points, so that replicas agree, and so that an
//! endpoint that comes or goes moves only the keys next to its own points.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::model::ids::EndpointKey;

use super::endpoint_state::EndpointState;
use super::weights::gcd;

/// Points per endpoint and weight when `tableSize` is not set: shares of equal endpoints then differ by about 10 %.
const DEFAULT_POINTS: u64 = 100;

/// Most points per node when `tableSize` is not set: weights such as 999,983 and 1 must not cost memory without bound.
const MAX_DEFAULT_POINTS: u64 = 1_000;

/// Most points of a ring, the bound of `tableSize` in the API.
const MAX_POINTS: u64 = 5_000_011;

/// A node of the ring before its points are placed.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// The endpoint; `None` for a reference that cannot be resolved, which keeps its share of the keys.
    pub(super) endpoint: Option<Arc<EndpointState>>,
    /// Index of the backendRef in the rule.
    pub(super) backend_ref: u32,
    /// Weight of the backendRef.
    pub(super) weight: u32,
    /// Number of members that the weight is divided among; not 0.
    pub(super) among: usize,
}

/// Where a key leads.
#[derive(Debug)]
pub(super) struct Node {
    /// The endpoint; `None` as in [`Member`].
    pub(super) endpoint: Option<Arc<EndpointState>>,
    /// Index of the backendRef in the rule.
    pub(super) backend_ref: u32,
    /// Number of its points.
    points: u32,
}

/// A built ring; shared by all workers and all rules with the same backends and weights.
#[derive(Debug)]
pub(super) struct Ring {
    nodes: Box<[Node]>,
    /// Position on the ring and index of the node, sorted.
    points: Box<[(u32, u32)]>,
}

impl Ring {
    /// Places the points of the members: `table_size` together, or as many as the default makes of the weights; each
    /// member has at least one. An endpoint that two references lead to counts for the first, with both shares.
    pub(super) fn build(members: &[Member], table_size: Option<u32>) -> Self {
        let counts = distribute(members, table_size);
        let mut nodes: Vec<Node> = Vec::with_capacity(members.len());
        let mut known: BTreeMap<&EndpointKey, usize> = BTreeMap::new();
        for (member, count) in members.iter().zip(counts) {
            if let Some(endpoint) = &member.endpoint {
                if let Some(&index) = known.get(&endpoint.key) {
                    nodes[index].points += count;
                    continue;
                }
                known.insert(&endpoint.key, nodes.len());
            }
            nodes.push(Node { endpoint: member.endpoint.clone(), backend_ref: member.backend_ref, points: count });
        }
        let mut points = Vec::with_capacity(nodes.iter().map(|node| node.points as usize).sum());
        for (index, node) in (0..).zip(&nodes) {
            let identity = identity(node);
            points.extend(
                (0..node.points).map(|point| (position(xxh3_64_with_seed(&point.to_le_bytes(), identity)), index)),
            );
        }
        // Nodes stand in the order of the references and of the endpoints' keys, so that ties too fall alike everywhere.
        points.sort_unstable();
        Self { nodes: nodes.into(), points: points.into() }
    }

    /// Where the hash leads: the first node at or behind it, or the next one with an endpoint that is allowed; `None` when
    /// no endpoint is.
    ///
    /// A reference that cannot be resolved keeps its own keys and takes none of others'.
    pub(super) fn pick(&self, hash: u64, allowed: impl Fn(&Arc<EndpointState>) -> bool) -> Option<&Node> {
        self.pick_node(hash, |_, endpoint| allowed(endpoint))
    }

    /// Like [`Self::pick`], but goes on to the next node also when this one has more than `percent` of its fair share.
    pub(super) fn pick_bounded(
        &self,
        hash: u64,
        percent: u32,
        allowed: impl Fn(&Arc<EndpointState>) -> bool,
    ) -> Option<&Node> {
        let first = self.pick(hash, &allowed)?;
        // Every endpoint may have one request: for an idle one the sum over all endpoints need not be computed.
        if first.endpoint.as_ref().is_none_or(|endpoint| endpoint.in_flight() == 0) {
            return Some(first);
        }
        let total = self.in_flight() + 1;
        let within = |node: &Node, endpoint: &Arc<EndpointState>| {
            allowed(endpoint) && u128::from(endpoint.in_flight()) < self.bound(node, percent, total)
        };
        // Those that are allowed may all be at their bound when others are not allowed.
        self.pick_node(hash, within).or(Some(first))
    }

    fn pick_node(&self, hash: u64, permits: impl Fn(&Node, &Arc<EndpointState>) -> bool) -> Option<&Node> {
        let start = self.points.partition_point(|&(at, _)| at < position(hash));
        let (before, after) = self.points.split_at(start);
        let mut nodes = after.iter().chain(before).map(|&(_, node)| &self.nodes[node as usize]);
        let first = nodes.next()?;
        let permits = |node: &Node| node.endpoint.as_ref().is_some_and(|endpoint| permits(node, endpoint));
        if first.endpoint.is_none() || permits(first) {
            return Some(first);
        }
        // A walk over all points is long: it begins only when it has an end.
        if !self.nodes.iter().any(permits) {
            return None;
        }
        nodes.find(|node| permits(node))
    }

    /// Requests in flight over all endpoints.
    fn in_flight(&self) -> u64 {
        let endpoints = self.nodes.iter().filter_map(|node| node.endpoint.as_ref());
        endpoints.map(|endpoint| u64::from(endpoint.in_flight())).sum()
    }

    /// Most requests of a node when there are `total`: ⌈percent / 100 × total × its share of the points⌉.
    fn bound(&self, node: &Node, percent: u32, total: u64) -> u128 {
        let share = u128::from(total) * u128::from(percent) * u128::from(node.points);
        share.div_ceil(100 * self.points.len().max(1) as u128)
    }

    /// Number of points.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.points.len()
    }

    /// The nodes, in the order of references and endpoint keys.
    #[cfg(test)]
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

/// The ring has 2^32 positions; the upper half of a hash is one.
fn position(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Seed of a node's points: the pod with its port, or the address; for an unresolved reference its index.
fn identity(node: &Node) -> u64 {
    match &node.endpoint {
        Some(endpoint) => match &endpoint.key.uid {
            // The port belongs to it: two backends may lead to two ports of one pod.
            Some(uid) => xxh3_64_with_seed(uid.as_bytes(), u64::from(endpoint.key.addr.port())),
            None => xxh3_64(endpoint.key.addr.to_string().as_bytes()),
        },
        None => xxh3_64_with_seed(b"unresolved", u64::from(node.backend_ref)),
    }
}

/// Number of points of each member: in proportion to weight ÷ members of its backend, at least 1.
fn distribute(members: &[Member], table_size: Option<u32>) -> Vec<u32> {
    let divisor = u64::from(members.iter().map(|member| member.weight).fold(0, gcd).max(1));
    let total = table_size.map_or_else(
        || {
            let wanted = members.iter().map(|member| DEFAULT_POINTS * u64::from(member.weight) / divisor).sum::<u64>();
            wanted.min(MAX_DEFAULT_POINTS * members.len() as u64).min(MAX_POINTS)
        },
        u64::from,
    );
    // Each reference once: the first of its members stands for it.
    let mut last = None;
    let mut weights = 0;
    for member in members {
        if last != Some(member.backend_ref) {
            weights += u64::from(member.weight);
            last = Some(member.backend_ref);
        }
    }
    // total × weight stays below 5,000,011 × 1,000,000, and the divisor below 10^9 × members.
    let mut counts = Vec::with_capacity(members.len());
    let mut rests = Vec::with_capacity(members.len());
    for (index, member) in members.iter().enumerate() {
        let share = total * u64::from(member.weight);
        let whole = (weights * member.among as u64).max(1);
        counts.push(u32::try_from(share / whole).unwrap_or(u32::MAX));
        rests.push((Reverse(((share % whole) as f64 / whole as f64 * 1e9) as u64), index));
    }
    // What rounding left over goes to the largest rests, so that the points are as many as asked for.
    let placed: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    let left = usize::try_from(total.saturating_sub(placed)).unwrap_or(usize::MAX);
    rests.sort_unstable();
    for &(_, index) in rests.iter().take(left) {
        counts[index] += 1;
    }
    counts.iter().map(|&count| count.max(1)).collect()
}
