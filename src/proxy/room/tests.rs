use super::*;

fn room(connections: Option<usize>, connections_per_address: Option<usize>, workers: usize) -> Vec<Rc<WorkerRoom>> {
    let limits = Limits { connections, connections_per_address, ..Limits::default() };
    let room = Room::new(&limits, workers);
    (0..workers).map(|worker| WorkerRoom::new(&room, worker)).collect()
}

/// A connection that has been idle since `since` after the begin.
fn idle(room: &Rc<WorkerRoom>, since: u64) -> Place {
    let place = room.enter(None).expect("no limit for addresses");
    place.presence().idle(room.room.epoch + Duration::from_millis(since));
    place
}

fn asked(places: &[Place]) -> Vec<bool> {
    places.iter().map(|place| place.presence().is_asked()).collect()
}

#[test]
fn those_that_are_idle_longest_leave_first_whoever_serves_them() {
    let workers = room(None, None, 2);
    let places = [30, 10, 50, 20, 40].map(|since| idle(&workers[usize::from(since % 20 == 0)], since));
    places[1].presence().busy();
    assert_eq!(workers[0].room.ask(|_| 2), 2);
    assert_eq!(asked(&places), [true, false, false, true, false], "the oldest but the busy one");
    assert_eq!(workers[0].room.ask(|census| 2 - census.asked), 2, "two are going already");
    assert_eq!(asked(&places), [true, false, false, true, false]);
    assert_eq!(workers[1].room.ask(|_| 100), 4);
    assert_eq!(asked(&places), [true, false, true, true, true], "a busy one never");
}

#[test]
fn half_of_the_idle_leave_when_memory_is_short() {
    let workers = room(None, None, 2);
    let places: Vec<_> = (0..1_000).map(|since| idle(&workers[usize::from(since % 2 == 0)], 1 + since)).collect();
    places[0].presence().busy();
    let left = |places: &[Place]| asked(places).into_iter().filter(|asked| !asked).count();
    assert_eq!(workers[0].room.ask_for_memory(), 500);
    assert!(asked(&places)[1..=500].iter().all(|asked| *asked), "the oldest first");
    assert_eq!(left(&places), 500);
    let mut rounds = 0;
    while workers[0].room.ask_for_memory() > 0 {
        rounds += 1;
        assert!(rounds < 20, "{} are left", left(&places));
    }
    assert_eq!(left(&places), 1, "the busy one");
}

#[test]
fn a_request_that_came_first_keeps_the_place() {
    let workers = room(None, None, 1);
    let place = idle(&workers[0], 1);
    assert_eq!(workers[0].room.ask(|_| 1), 1);
    place.presence().busy();
    assert!(!place.presence().is_asked());
    assert_eq!(workers[0].room.ask(|_| 1), 0, "nobody else is there");
    place.presence().idle(Instant::now());
    assert_eq!(workers[0].room.ask(|_| 1), 1);
}

#[test]
fn places_are_used_again() {
    let workers = room(None, None, 1);
    let mut places: Vec<Place> = (0..200).map(|since| idle(&workers[0], since)).collect();
    assert_eq!(workers[0].connections(), 200);
    places.truncate(10);
    assert_eq!(workers[0].connections(), 10);
    places.extend((0..190).map(|since| idle(&workers[0], 1000 + since)));
    assert_eq!(workers[0].room.slots(0).expect("a worker").states.len(), 200_usize.div_ceil(CHUNK));
    assert_eq!(workers[0].room.ask(|census| census.idle), MOST_ASKED, "so many at once at the most");
    assert!(places[..10].iter().all(|place| place.presence().is_asked()), "the oldest among them");
}

#[tokio::test]
async fn whoever_waits_gets_the_place_of_the_one_that_leaves() {
    let workers = room(Some(2), None, 2);
    let mut first = idle(&workers[0], 1);
    let mut second = idle(&workers[1], 2);
    workers[0].admit(&mut first, || panic!("there is room")).await;
    workers[1].admit(&mut second, || panic!("there is room")).await;
    let mut third = workers[1].enter(None).expect("no limit for addresses");
    let leaving = async {
        while !first.presence().is_asked() {
            tokio::task::yield_now().await;
        }
        first.leave();
    };
    tokio::join!(workers[1].admit(&mut third, || panic!("the first one leaves")), leaving);
    assert!(third.served && second.served && !first.served);
    assert!(!second.presence().is_asked());
    drop(first);
    assert_eq!(workers[0].room.served.load(Ordering::Relaxed), 2, "counted once");
    drop((second, third));
    assert_eq!(workers[0].room.served.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_client_waits_while_nobody_is_idle() {
    let workers = room(Some(1), None, 1);
    let mut busy = workers[0].enter(None).expect("no limit for addresses");
    workers[0].admit(&mut busy, || panic!("there is room")).await;
    let mut waiting = workers[0].enter(None).expect("no limit for addresses");
    let mut pauses = 0;
    let admitted = tokio::time::timeout(Duration::from_secs(5), workers[0].admit(&mut waiting, || pauses += 1)).await;
    assert!(admitted.is_err());
    assert_eq!(pauses, 1, "told once");
    drop(busy);
    workers[0].admit(&mut waiting, || panic!("there is room")).await;
}

#[test]
fn an_address_has_as_many_places_as_it_may() {
    let workers = room(None, Some(2), 2);
    let [one, other] = ["192.0.2.1", "2001:db8::1"].map(|text| Some(text.parse().expect("an address")));
    let first = workers[0].enter(one).expect("room");
    let second = workers[1].enter(one).expect("room");
    assert_eq!(workers[0].enter(one).expect_err("two are there"), TooManyOfAddress);
    let _others = [workers[0].enter(other), workers[0].enter(other)].map(|place| place.expect("another address"));
    second.presence().idle(Instant::now());
    let third = workers[0].enter(one).expect("the second makes room");
    assert!(second.presence().is_asked() && !first.presence().is_asked());
    assert_eq!(workers[0].enter(one).expect_err("none is idle any more"), TooManyOfAddress);
    drop((first, second));
    let fourth = workers[1].enter(one).expect("room");
    drop((third, fourth));
    assert_eq!(lock(&workers[0].room.addresses).len(), 1, "nothing is kept for an address without connections");
}

#[test]
fn connections_that_do_not_leave_do_not_add_up() {
    let workers = room(None, Some(3), 1);
    let address = Some("192.0.2.1".parse().expect("an address"));
    let mut places = Vec::new();
    // Each one that is asked says that it has just become idle again.
    let refused = (0..20).find(|_| {
        let place = workers[0].enter(address);
        places.iter().for_each(|place: &Place| place.presence().idle(Instant::now()));
        place.map(|place| places.push(place)).is_err()
    });
    assert_eq!(refused, Some(6));
}

#[test]
fn file_descriptors_are_judged_by_number() {
    let limit = FileLimit::new(Some(1000));
    assert_eq!([935, 936, 999].map(|number| limit.over(number)), [0, 1, 64]);
    let small = FileLimit::new(Some(100));
    assert_eq!([74, 75, 99].map(|number| small.over(number)), [0, 1, 25], "a quarter of few");
    assert_eq!(FileLimit::new(None).over(u64::from(u32::MAX)), 0);
}

#[test]
fn nobody_is_asked_for_files_while_there_are_enough() {
    let workers = room(None, None, 1);
    let places = [1, 2, 3].map(|since| idle(&workers[0], since));
    assert_eq!(workers[0].ask_for_files(FilesOver(0)), FilesComing::Enough);
    assert_eq!(asked(&places), [false; 3]);
    assert_eq!(workers[0].ask_for_files(FilesOver(1)), FilesComing::Enough);
    assert_eq!(asked(&places), [true, false, false]);
    assert_eq!(workers[0].ask_for_files(workers[0].no_files()), FilesComing::Soon);
    assert_eq!(asked(&places), [true; 3]);
    drop(places);
    assert_eq!(workers[0].ask_for_files(FilesOver(1)), FilesComing::None);
}
