use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;

use super::*;

const T: Timing = Timing::DEFAULT;

/// An API server with one Lease in memory, that can be cut off for single replicas.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    version: u64,
    /// Replicas whose calls are never answered.
    cut_off: Vec<usize>,
    writes: usize,
}

struct Connection {
    server: Server,
    number: usize,
}

impl Server {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no panic under the lock")
    }

    fn holder(&self) -> String {
        let spec = self.state().lease.clone().and_then(|lease| lease.spec).unwrap_or_default();
        spec.holder_identity.unwrap_or_default()
    }

    /// Changes the Lease as somebody with rights would.
    fn edit(&self, change: impl FnOnce(&mut Lease)) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version.to_string();
        let lease = state.lease.as_mut().expect("there is one");
        change(lease);
        lease.metadata.resource_version = Some(version);
    }
}

impl Connection {
    async fn reach(&self) -> Result<(), Failure> {
        if self.server.state().cut_off.contains(&self.number) {
            tokio::time::sleep(CALL).await;
            return Err(Failure::TimedOut(CALL));
        }
        // An answer takes a moment, in which another replica may be quicker.
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(())
    }

    fn write(&self, lease: &Lease) -> Lease {
        let mut state = self.server.state();
        state.version += 1;
        state.writes += 1;
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(state.version.to_string());
        state.lease = Some(lease.clone());
        lease
    }
}

impl Store for Connection {
    async fn read(&self) -> Result<Option<Lease>, Failure> {
        self.reach().await?;
        Ok(self.server.state().lease.clone())
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, Failure> {
        self.reach().await?;
        match self.server.state().lease.is_some() {
            true => Err(Failure::Conflict("exists".to_owned())),
            false => Ok(()),
        }?;
        Ok(self.write(lease))
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, Failure> {
        self.reach().await?;
        let Some(now) = self.server.state().lease.clone() else { return Err(Failure::NotFound("gone".to_owned())) };
        if now.metadata.resource_version != lease.metadata.resource_version {
            return Err(Failure::Conflict("changed".to_owned()));
        }
        Ok(self.write(lease))
    }

    fn name(&self) -> String {
        "ns/tidegate".to_owned()
    }
}

struct Replica {
    leadership: Leadership,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    told: Arc<AtomicUsize>,
}

fn replica(server: &Server, number: usize) -> Replica {
    let store = Connection { server: server.clone(), number };
    let told = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&told);
    let tell = Box::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let (election, leadership) = Election::new(store, format!("replica-{number}"), T, tell);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(election.run(stopped));
    Replica { leadership, stop: Some(stop), task, told }
}

/// Waits until a replica leads, and returns how long that took. At no moment may two lead.
async fn leader(replicas: &[&Replica]) -> (usize, Duration) {
    let begun = Instant::now();
    loop {
        let leaders: Vec<usize> =
            replicas.iter().enumerate().filter(|(_, one)| one.leadership.holds()).map(|(at, _)| at).collect();
        assert!(leaders.len() < 2, "{leaders:?} lead");
        if let [one] = leaders[..] {
            return (one, begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody leads");
    }
}

/// Runs the clock on, and looks all the time that no two lead.
async fn pass(replicas: &[&Replica], time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(replicas.iter().filter(|one| one.leadership.holds()).count() < 2);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_that_begin_at_once_one_leads_and_keeps_on() {
    let server = Server::default();
    let (one, two) = (replica(&server, 0), replica(&server, 1));
    let (first, took) = leader(&[&one, &two]).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    pass(&[&one, &two], Duration::from_secs(300)).await;
    assert_eq!(leader(&[&one, &two]).await.0, first);
    let told = [&one, &two].map(|replica| replica.told.load(Ordering::Relaxed));
    assert_eq!(told.iter().sum::<usize>(), 1, "{told:?}");
    let writes = server.state().writes;
    assert!((290..=340).contains(&writes), "one renewal a second: {writes}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_followed_within_twelve_seconds() {
    for _ in 0..20 {
        let server = Server::default();
        let (one, two) = (replica(&server, 0), replica(&server, 1));
        let (first, _) = leader(&[&one, &two]).await;
        pass(&[&one, &two], Duration::from_millis(fastrand::u64(0..3000))).await;
        let (dead, other) = if first == 0 { (one, two) } else { (two, one) };
        dead.task.abort();
        let (_, took) = leader(&[&other]).await;
        assert!(took > T.deadline && took < Duration::from_secs(12), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_is_followed_at_once() {
    let server = Server::default();
    let mut one = replica(&server, 0);
    leader(&[&one]).await;
    let two = replica(&server, 1);
    pass(&[&one, &two], Duration::from_secs(3)).await;
    drop(one.stop.take());
    one.task.await.expect("it ends");
    assert!(!one.leadership.holds());
    let (_, took) = leader(&[&two]).await;
    assert!(took < Duration::from_millis(1100), "{took:?}");
}

/// A leader that reaches nobody stops before another one may begin.
#[tokio::test(start_paused = true)]
async fn a_leader_without_an_api_server_steps_down_by_itself() {
    let server = Server::default();
    let one = replica(&server, 0);
    leader(&[&one]).await;
    let two = replica(&server, 1);
    pass(&[&one, &two], Duration::from_secs(5)).await;
    server.state().cut_off.push(0);
    let mut watching = one.leadership.clone();
    let begun = Instant::now();
    watching.changed(true).await;
    assert!(begun.elapsed() <= T.deadline, "{:?}", begun.elapsed());
    assert!(!one.leadership.holds() && !two.leadership.holds());
    leader(&[&two]).await;
    server.state().cut_off.clear();
    pass(&[&one, &two], Duration::from_secs(30)).await;
    assert!(two.leadership.holds(), "whoever comes back waits");
}

/// What the wall clocks of others say makes no difference, neither backwards nor forwards.
#[tokio::test(start_paused = true)]
async fn skewed_clocks_change_nothing() {
    for minutes in [-60, 60] {
        let server = Server::default();
        let one = replica(&server, 0);
        leader(&[&one]).await;
        let two = replica(&server, 1);
        for _ in 0..30 {
            pass(&[&one, &two], Duration::from_secs(1)).await;
            server.edit(|lease| {
                let spec = lease.spec.as_mut().expect("a spec");
                let skew = k8s_openapi::jiff::SignedDuration::from_mins(minutes);
                let renewed = spec.renew_time.as_mut().expect("it was renewed");
                renewed.0 = renewed.0.checked_add(skew).expect("in range");
            });
        }
        assert!(one.leadership.holds() && !two.leadership.holds());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_deleted_or_given_to_somebody_else_is_respected() {
    let server = Server::default();
    let one = replica(&server, 0);
    leader(&[&one]).await;
    server.state().lease = None;
    pass(&[&one], Duration::from_secs(3)).await;
    assert!(one.leadership.holds() && server.holder() == "replica-0", "it makes a new one");
    server.edit(|lease| lease.spec.as_mut().expect("a spec").holder_identity = Some("stranger".to_owned()));
    pass(&[&one], Duration::from_secs(3)).await;
    assert!(!one.leadership.holds() && server.holder() == "stranger");
    leader(&[&one]).await;
    assert_eq!(server.holder(), "replica-0", "the stranger renews nothing");
}
