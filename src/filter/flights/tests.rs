use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::task::Wake;

use super::*;
use crate::model::filter::{FilterList, StateKey};
use crate::model::ids::ObjectName;

const ROOM: usize = 1_000;

struct Bed {
    flights: Flights,
    room: Arc<FlightRoom>,
    terms: Arc<Coalesce>,
    now: Instant,
}

impl Bed {
    fn new() -> Self {
        let room = Arc::new(FlightRoom::new(ROOM));
        let route = ObjectName::new("ns", "r");
        let terms = Coalesce {
            state: Arc::new(StateKey { route, place: FilterList::Route, filter: "Coalesce", position: 0 }),
            get: true,
            head: true,
            vary: Vec::new(),
            max_waiters: 3,
            max_body: 100,
        };
        let flights = Flights::new(&RandomState::new(), Arc::clone(&room));
        Self { flights, room, terms: Arc::new(terms), now: Instant::now() }
    }

    fn board(&self, name: &str) -> Option<Boarded> {
        self.flights.board(key(name), &self.terms, self.now)
    }

    /// Begins a flight.
    fn begin(&self, name: &str) -> (Seat, Pilot) {
        let boarded = self.board(name).expect("a flight");
        (boarded.seat, boarded.pilot.expect("the first of its key"))
    }

    /// Joins one.
    fn join(&self, name: &str) -> Seat {
        let boarded = self.board(name).expect("a flight");
        assert!(boarded.pilot.is_none(), "it is on its way");
        boarded.seat
    }
}

fn key(name: &str) -> FlightKey {
    FlightKey { place: b"/place"[..].into(), rest: name.as_bytes().into() }
}

fn head(length: Option<u64>) -> FlightHead {
    FlightHead { length, ..FlightHead::default() }
}

/// Whether the task was woken since it was asked last.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Woken {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn landed(seat: Seat) -> Landed {
    now_or_never(seat.landed()).expect("it is decided")
}

fn answer(seat: Seat) -> FlightAnswer {
    match landed(seat) {
        Landed::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// What can be read of a body now, and whether its end came.
fn read(body: &mut FlightBody) -> (String, bool) {
    let (cx, mut text) = (Context::from_waker(Waker::noop()), String::new());
    loop {
        match body.poll_frame(&cx) {
            Poll::Pending => return (text, false),
            Poll::Ready(None) => return (text, true),
            Poll::Ready(Some(Ok((frame, is_last)))) => {
                match frame.into_data() {
                    Ok(data) => text += std::str::from_utf8(&data).unwrap(),
                    Err(frame) => text += &format!("{:?}", frame.into_trailers().unwrap()),
                }
                if is_last {
                    return (text, true);
                }
            }
            Poll::Ready(Some(Err(reason))) => return (text + reason.as_str(), true),
        }
    }
}

#[test]
fn all_who_came_before_the_head_have_the_answer_and_nobody_who_came_later() {
    let bed = Bed::new();
    let (first, pilot) = bed.begin("a");
    let second = bed.join("a");
    let (_other, _of_other) = bed.begin("b");
    assert_eq!(pilot.close(), 2);
    let (_later, _of_later) = bed.begin("a");
    pilot.share(head(Some(4)));
    let mut bodies = [answer(first), answer(second)].map(|answer| answer.body);
    assert_eq!(bodies.each_ref().map(FlightBody::is_first), [true, false]);
    pilot.push("ab".into());
    for body in &mut bodies {
        assert_eq!((read(body), body.remaining()), (("ab".to_owned(), false), Some(2)));
    }
    pilot.push("cd".into());
    pilot.finish(None);
    assert!(bodies.iter_mut().all(|body| read(body) == ("cd".to_owned(), true)));
}

#[test]
fn the_one_who_has_waited_longest_has_what_cannot_be_shared() {
    let bed = Bed::new();
    let (first, pilot) = bed.begin("a");
    let (second, third) = (bed.join("a"), bed.join("a"));
    drop(first);
    assert_eq!(pilot.close(), 2);
    pilot.push("early ".into());
    pilot.give(head(None));
    let mut body = answer(second).body;
    assert!(matches!(landed(third), Landed::Alone));
    assert_eq!(read(&mut body), ("early ".to_owned(), false));
    pilot.push("late".into());
    pilot.finish(Some(HeaderMap::new()));
    assert_eq!(read(&mut body), ("late{}".to_owned(), true));
}

/// What waits for a slow reader is bounded.
#[test]
fn the_call_waits_for_a_single_reader() {
    let bed = Bed::new();
    let (first, pilot) = bed.begin("a");
    let _ = pilot.close();
    pilot.give(head(None));
    let mut body = answer(first).body;
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    assert!(pilot.poll_room(&Context::from_waker(&waker)).is_ready());
    pilot.push(vec![b'x'; WINDOW].into());
    assert!(pilot.poll_room(&Context::from_waker(&waker)).is_pending());
    assert_eq!(read(&mut body).0.len(), WINDOW);
    assert!(woken.take() && pilot.poll_room(&Context::from_waker(&waker)).is_ready());
}

#[test]
fn the_last_one_who_leaves_ends_the_call_and_nobody_joins_it_then() {
    let bed = Bed::new();
    let (first, pilot) = bed.begin("a");
    let second = bed.join("a");
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let cx = Context::from_waker(&waker);
    assert!(pilot.poll_abandoned(&cx).is_pending());
    drop(first);
    assert!(!woken.take() && pilot.poll_abandoned(&cx).is_pending());
    drop(second);
    assert!(woken.take());
    let (_fresh, _of_fresh) = bed.begin("a");
    assert!(pilot.poll_abandoned(&cx).is_ready());
    drop(pilot);
    // It gave free its own key, not that of its successor.
    bed.join("a");
}

#[test]
fn a_call_whose_answer_is_complete_is_not_given_up() {
    let bed = Bed::new();
    let (first, pilot) = bed.begin("a");
    let cx = Context::from_waker(Waker::noop());
    let _ = pilot.close();
    pilot.share(head(Some(2)));
    let mut body = answer(first).body;
    pilot.push("a".into());
    assert_eq!(read(&mut body), ("a".to_owned(), false));
    pilot.push("b".into());
    drop(body);
    assert!(pilot.poll_abandoned(&cx).is_pending(), "its connection can be used again");
}

#[test]
fn a_call_that_is_lost_or_panics_leaves_nobody_waiting() {
    let bed = Bed::new();
    for (panics, name) in [(false, "a"), (true, "b")] {
        let (first, pilot) = bed.begin(name);
        let second = bed.join(name);
        if panics {
            pilot.panicked();
        }
        drop(pilot);
        for seat in [first, second] {
            let landed = landed(seat);
            assert_eq!((matches!(landed, Landed::Alone), matches!(landed, Landed::Panicked)), (!panics, panics));
        }
    }
    let (first, pilot) = bed.begin("a");
    let _ = pilot.close();
    pilot.share(head(Some(9)));
    pilot.push("part".into());
    drop(pilot);
    assert_eq!(read(&mut answer(first).body), ("partreset".to_owned(), true));
    assert_eq!(bed.flights.open(), 0);
}

#[test]
fn a_change_of_the_place_forgets_its_flights_and_once_more_when_it_is_done() {
    let bed = Bed::new();
    let (before, pilot) = bed.begin("a");
    bed.flights.forget(b"/elsewhere");
    drop(bed.join("a"));
    bed.flights.forget(b"/place");
    let forget = bed.flights.forget_later(b"/place"[..].into());
    let (_while, _of_while) = bed.begin("a");
    drop(bed.join("a"));
    drop(forget);
    let (_after, _of_after) = bed.begin("a");
    // Who waits has the answer all the same.
    let _ = pilot.close();
    pilot.share(head(Some(0)));
    assert_eq!(answer(before).head.length, Some(0));
}

#[test]
fn requests_of_a_key_go_alone_for_a_second() {
    let mut bed = Bed::new();
    let (_first, pilot) = bed.begin("a");
    let _ = pilot.close();
    pilot.go_alone(bed.now);
    pilot.give(head(None));
    assert!(bed.board("a").is_none() && bed.board("b").is_some());
    bed.now += ALONE;
    bed.begin("a");
}

#[test]
fn what_is_remembered_to_go_alone_is_bounded() {
    let bed = Bed::new();
    let mut shard = Shard { places: HashMap::default(), alone: FxHashMap::default() };
    (0..10 * MOST_ALONE as u64).for_each(|hash| shard.remember_alone(hash, bed.now));
    assert_eq!(shard.alone.len(), MOST_ALONE);
    assert!(shard.goes_alone(0, bed.now));
    shard.remember_alone(u64::MAX, bed.now + ALONE);
    assert_eq!(shard.alone.len(), 1, "all others are over");
    assert!(!shard.goes_alone(u64::MAX, bed.now + 2 * ALONE) && shard.alone.is_empty());
}

#[test]
fn as_many_wait_as_may_and_as_there_is_memory_for() {
    let bed = Bed::new();
    let (first, pilot) = bed.begin("a");
    let seats: Vec<_> = (0..3).map(|_| bed.join("a")).collect();
    assert!(bed.board("a").is_none());
    drop(first);
    let _again = bed.join("a");
    assert!(bed.board(&"k".repeat(ROOM)).is_none(), "a key is memory, too");
    let left = ROOM - bed.room.used();
    assert!(pilot.reserve(left) && !pilot.reserve(1) && bed.board("b").is_none());
    drop((seats, pilot, _again));
    assert_eq!((bed.room.used(), bed.flights.open()), (0, 0));
}

/// Seats are taken and left in threads of their own, at every moment of a flight: each has an answer or goes alone, and
/// nothing stays behind.
#[test]
fn threads_that_come_and_go_leave_nothing_behind() {
    let bed = Bed::new();
    let (answers, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (bed, answers, calls) = (&bed, &answers, &calls);
            scope.spawn(move || {
                for number in 0..2_000 {
                    let Some(Boarded { seat, pilot }) = bed.board(["a", "b"][number % 2]) else { continue };
                    if let Some(pilot) = pilot {
                        calls.fetch_add(1, Ordering::Relaxed);
                        let _ = pilot.close();
                        pilot.share(head(Some(1)));
                        pilot.push("x".into());
                        pilot.finish(None);
                    } else if (number + thread) % 3 == 0 {
                        drop(seat);
                        continue;
                    }
                    // The pilot is a thread that runs: it lands.
                    let landed = loop {
                        let mut landing = pin!(async { poll_fn(|cx| seat.flight.poll_landed(seat.number, cx)).await });
                        if let Some(landed) = now_or_never(landing.as_mut()) {
                            break landed;
                        }
                        std::thread::yield_now();
                    };
                    answers.fetch_add(usize::from(landed.is_some()), Ordering::Relaxed);
                }
            });
        }
    });
    assert!(calls.into_inner() > 0 && answers.into_inner() > 0);
    assert_eq!((bed.room.used(), bed.flights.open()), (0, 0));
}
