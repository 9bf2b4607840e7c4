//! Which endpoints get requests while some of them are in trouble.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tidegate::model::policy::{Algorithm, Timeouts};

use super::bed::{Endpoints, GET, Gateway, OK, Options, run};

/// Requests that fail while one endpoint of two accepts and never answers, of 200 by ten clients.
async fn failures(algorithm: Algorithm) -> usize {
    let good = Endpoints::answering(OK).await;
    let silent = Endpoints::script(|mut served| async move {
        served.request().await;
        served.until_closed().await;
    })
    .await;
    let timeouts = Timeouts { backend_request: Some(Duration::from_millis(200)), ..Timeouts::default() };
    let options = Options { algorithm, timeouts, ..Options::to(&[good.addr, silent.addr]) };
    let gateway = Rc::new(Gateway::start(options).await);
    let failed = Rc::new(Cell::new(0));
    let clients = (0..10).map(|_| {
        let (gateway, failed) = (Rc::clone(&gateway), Rc::clone(&failed));
        tokio::task::spawn_local(async move {
            for _ in 0..20 {
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
fn least_request_leaves_an_endpoint_alone_that_never_answers() {
    run(async || {
        let (least, in_turn) = (failures(Algorithm::LeastRequest).await, failures(Algorithm::RoundRobin).await);
        assert!(least * 5 <= in_turn, "{least} requests failed with LeastRequest, {in_turn} with RoundRobin");
    });
}
