//! The series of Services: requests by status class, counted by each worker in cells of its own, and endpoints by state.
//!
//! They have an eighth of the limit of series: one half for requests, one for endpoints. What finds no room stands
//! together under `_overflow`; the requests stay there when their Service goes, so that no counter falls.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cells::Cell;
use super::page::Page;
use super::series::{CODES, OVERFLOW, PerWorker};

/// Request counters of one Service on one worker.
#[derive(Debug)]
#[repr(align(64))]
struct ServiceCells([Cell; CODES.len()]);

/// The series of one Service, kept across publications while a rule refers to it.
#[derive(Debug)]
pub struct ServiceSeries {
    workers: usize,
    cells: PerWorker<ServiceCells>,
}

impl ServiceSeries {
    fn new(workers: usize) -> Self {
        Self { workers, cells: PerWorker::default() }
    }

    /// Counts an answered request.
    ///
    /// Only the thread of `worker` may call it with that index; allocates with the first request of a Service there.
    pub fn record(&self, worker: usize, status: u16) {
        let new = || ServiceCells(std::array::from_fn(|_| Cell::default()));
        if let Some(cells) = self.cells.of(worker, self.workers, new) {
            cells.0[usize::from(status / 100).clamp(1, CODES.len()) - 1].inc();
        }
    }

    fn counts(&self) -> [u64; CODES.len()] {
        let mut total = [0; CODES.len()];
        for cells in self.cells.iter() {
            for (sum, cell) in total.iter_mut().zip(&cells.0) {
                *sum += cell.get();
            }
        }
        total
    }
}

/// A Service that rules refer to.
#[derive(Debug)]
struct Entry {
    series: Arc<ServiceSeries>,
    /// Which codes have a series of their own, and which stand under `_overflow`, decided when they appear: a counter
    /// never moves from one to the other.
    own: [Option<bool>; CODES.len()],
}

impl Entry {
    fn new(workers: usize) -> Self {
        Self { series: Arc::new(ServiceSeries::new(workers)), own: Default::default() }
    }

    /// Adds the requests that stand under `_overflow`.
    fn add_overflow(&self, overflow: &mut [u64; CODES.len()]) {
        if !self.own.contains(&Some(false)) {
            return;
        }
        for ((sum, count), own) in overflow.iter_mut().zip(self.series.counts()).zip(self.own) {
            *sum += if own == Some(false) { count } else { 0 };
        }
    }
}

/// The series of Services.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// All that rules refer to, by label.
    active: BTreeMap<Arc<str>, Entry>,
    /// The requests of those that are gone, as far as they stood under `_overflow`.
    gone: [u64; CODES.len()],
}

impl Services {
    /// Takes over the active Services, and returns their series in the same order; what stays keeps its counts.
    pub(super) fn set(&mut self, labels: impl Iterator<Item = Arc<str>>, workers: usize) -> Vec<Arc<ServiceSeries>> {
        let mut before = std::mem::take(&mut self.active);
        let series = labels
            .map(|label| {
                let entry = self.active.entry(label);
                let label = Arc::clone(entry.key());
                let kept = || before.remove(&label).unwrap_or_else(|| Entry::new(workers));
                Arc::clone(&entry.or_insert_with(kept).series)
            })
            .collect();
        before.values().for_each(|entry| entry.add_overflow(&mut self.gone));
        series
    }

    /// Forgets the Services that are gone, and returns the series of new ones in the same order.
    pub(super) fn update(
        &mut self,
        gone: impl Iterator<Item = Arc<str>>,
        new: impl Iterator<Item = Arc<str>>,
        workers: usize,
    ) -> Vec<Arc<ServiceSeries>> {
        let gone = gone.filter_map(|label| self.active.remove(&label));
        gone.for_each(|entry| entry.add_overflow(&mut self.gone));
        new.map(|label| Arc::clone(&self.active.entry(label).or_insert_with(|| Entry::new(workers)).series)).collect()
    }

    /// Adds the requests, at most `most` series, and the overflow.
    pub(super) fn render(&mut self, most: usize, page: &mut Page) {
        let own = |entry: &Entry| entry.own.iter().filter(|own| **own == Some(true)).count();
        let mut left = most.saturating_sub(CODES.len() + self.active.values().map(own).sum::<usize>());
        let mut overflow = self.gone;
        for (label, entry) in &mut self.active {
            for (code, count) in entry.series.counts().into_iter().enumerate().filter(|(_, count)| *count > 0) {
                let is_own = *entry.own[code].get_or_insert_with(|| {
                    let is_own = left > 0;
                    left = left.saturating_sub(1);
                    is_own
                });
                if is_own {
                    page.add("tidegate_service_requests_total", &[label, CODES[code]], count as f64);
                }
            }
            entry.add_overflow(&mut overflow);
        }
        for (code, count) in overflow.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            page.add("tidegate_service_requests_total", &[OVERFLOW, CODES[code]], count as f64);
        }
    }
}

/// What the endpoints of a Service are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointsState {
    /// New requests go to it.
    Ready,
    /// It terminates and still serves: it gets requests while nothing is ready.
    Serving,
    /// It gets no requests.
    NotReady,
    /// It vanished without a word and stays for a moment.
    Held,
}

impl EndpointsState {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Ready, Self::Serving, Self::NotReady, Self::Held];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Serving => "serving",
            Self::NotReady => "not_ready",
            Self::Held => "held",
        }
    }
}

/// The endpoints of one Service: its label, and how many there are of each of [`EndpointsState::ALL`].
pub type ServiceEndpoints = (Arc<str>, [usize; EndpointsState::ALL.len()]);

/// Adds endpoints, at most `most` series. Of every Service it shows how many are ready, and of the other states those that
/// there are.
pub(super) fn render_endpoints(services: &[ServiceEndpoints], most: usize, page: &mut Page) {
    let lines =
        |counts: &[usize; EndpointsState::ALL.len()]| 1 + counts[1..].iter().filter(|count| **count > 0).count();
    add_gauges(services, most, lines, |label, counts| {
        for &state in EndpointsState::ALL {
            let count = counts[state as usize];
            if count > 0 || state == EndpointsState::Ready {
                page.add("tidegate_service_endpoints", &[label, state.as_str()], count as f64);
            }
        }
    });
}

/// Adds gauges of endpoints by state, of which the first are well: those of each Service, at most `most` lines, and those
/// together that have no room. Services without an endpoint that is well have room first, then those with one that is not,
/// so that alerts see them however many there are.
pub(super) fn add_gauges<const N: usize>(
    services: &[(Arc<str>, [usize; N])],
    most: usize,
    lines: impl Fn(&[usize; N]) -> usize,
    mut add: impl FnMut(&str, &[usize; N]),
) {
    let needed: usize = services.iter().map(|(_, counts)| lines(counts)).sum();
    let mut left = if needed <= most { most } else { most.saturating_sub(N) };
    let mut order: Vec<usize> = (0..services.len()).collect();
    order.sort_by_key(|&at| match &services[at].1[..] {
        [0, ..] => 0,
        [_, others @ ..] if others.iter().any(|count| *count > 0) => 1,
        _ => 2,
    });
    let mut own = vec![false; services.len()];
    for at in order {
        let lines = lines(&services[at].1);
        if lines <= left {
            left -= lines;
            own[at] = true;
        }
    }
    let mut overflow: Option<[usize; N]> = None;
    for ((label, counts), own) in services.iter().zip(own) {
        if own {
            add(label, counts);
        } else {
            let overflow = overflow.get_or_insert([0; N]);
            overflow.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    if let Some(counts) = overflow {
        add(OVERFLOW, &counts);
    }
}
