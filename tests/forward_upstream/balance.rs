//! Which endpoints get requests while some of them are in trouble.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tidegate::model::policy::{Algorithm, Timeouts};

use super::bed::{Endpoints, GET, Gateway, OK, Options, run_paused};

/// A gateway in front of an endpoint that answers and one that accepts and never does, until it is cured.
async fn beside_a_silent_one(algorithm: Algorithm) -> (Gateway, Rc<Cell<bool>>, [Endpoints; 2]) {
    let cured = Rc::new(Cell::new(false));
    let good = Endpoints::answering(OK).await;
    let is_cured = Rc::clone(&cured);
    let silent = Endpoints::script(move |mut served| {
        let is_cured = Rc::clone(&is_cured);
        async move {
            while served.request().await.is_some() {
                if !is_cured.get() {
                    return served.until_closed().await;
                }
                served.send(OK).await;
            }
        }
    })
    .await;
    let timeouts = Timeouts { backend_request: Some(Duration::from_millis(200)), ..Timeouts::default() };
    let options = Options { algorithm, timeouts, ..Options::to(&[good.addr, silent.addr]) };
    (Gateway::start(options).await, cured, [good, silent])
}

/// How many of `each` requests in a row fail, for each of some clients.
async fn failures(gateway: &Rc<Gateway>, clients: usize, each: usize) -> usize {
    let failed = Rc::new(Cell::new(0));
    let clients = (0..clients).map(|_| {
        let (gateway, failed) = (Rc::clone(gateway), Rc::clone(&failed));
        tokio::task::spawn_local(async move {
            for _ in 0..each {
                let answer = gateway.ask(GET).await;
                assert!(matches!(answer.status, 200 | 504), "{}", answer.head);
                failed.set(failed.get() + usize::from(answer.status == 504));
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    failed.get()
}

#[test]
fn an_endpoint_that_never_answers_is_left_alone() {
    run_paused(async || {
        for algorithm in [Algorithm::LeastRequest, Algorithm::PeakEwma] {
            // A client that sends one request after the other finds nothing in flight anywhere.
            for (clients, each, most) in [(1, 100, 4), (8, 100, 24)] {
                let (gateway, ..) = beside_a_silent_one(algorithm.clone()).await;
                let failed = failures(&Rc::new(gateway), clients, each).await;
                assert!(failed <= most, "{algorithm:?}: {failed} of {} requests of {clients} clients", clients * each);
            }
        }
        let (gateway, ..) = beside_a_silent_one(Algorithm::RoundRobin).await;
        assert_eq!(failures(&Rc::new(gateway), 1, 100).await, 50, "round robin counts nothing");
    });
}

#[test]
fn it_gets_its_share_again_once_it_answers() {
    run_paused(async || {
        let (gateway, cured, endpoints) = beside_a_silent_one(Algorithm::LeastRequest).await;
        let gateway = Rc::new(gateway);
        assert!(failures(&gateway, 4, 50).await > 0);
        cured.set(true);
        assert_eq!(failures(&gateway, 1, 200).await, 0, "enough to forget the failures");
        let before = endpoints.each_ref().map(Endpoints::count);
        assert_eq!(failures(&gateway, 1, 200).await, 0);
        let shares = [0, 1].map(|one| endpoints[one].count() - before[one]);
        assert!(shares.iter().all(|share| (60..=140).contains(share)), "{shares:?}");
    });
}

/// Where nobody answers, failures make no difference: each gets its requests.
#[test]
fn failures_of_all_endpoints_leave_no_one_out() {
    run_paused(async || {
        let timeouts = Timeouts { backend_request: Some(Duration::from_millis(200)), ..Timeouts::default() };
        let silent = async || {
            Endpoints::script(|mut served| async move {
                served.request().await;
                served.until_closed().await;
            })
            .await
        };
        let endpoints = [silent().await, silent().await, silent().await];
        let addresses = endpoints.each_ref().map(|endpoint| endpoint.addr);
        let options = Options { algorithm: Algorithm::LeastRequest, timeouts, ..Options::to(&addresses) };
        assert_eq!(failures(&Rc::new(Gateway::start(options).await), 1, 90).await, 90);
        let shares = endpoints.each_ref().map(Endpoints::count);
        assert!(shares.iter().all(|share| (15..=45).contains(share)), "{shares:?}");
    });
}
