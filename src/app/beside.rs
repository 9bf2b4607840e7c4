//! What a sidecar does with an update before it is compiled: listeners follow from it, and only what concerns its pod is
//! left.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::listeners::{Listeners, lock};
use crate::kubernetes::with_causes;
use crate::sidecar::View;
use crate::source::Update;

/// How long it takes until a listener that could not be bound is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// The listeners of a sidecar, by version.
pub(super) struct Beside {
    view: View,
    listeners: Arc<Mutex<Listeners>>,
    began: Instant,
    /// Whether something could not be bound.
    unfinished: watch::Sender<bool>,
}

impl Beside {
    /// Serves what `view` has planned; tells whether there is something to be tried again.
    pub(super) fn new(view: View, listeners: Arc<Mutex<Listeners>>) -> (Self, watch::Receiver<bool>) {
        let (unfinished, is_unfinished) = watch::channel(false);
        (Self { view, listeners, began: Instant::now(), unfinished }, is_unfinished)
    }

    /// Binds and closes what an update asks for; the update, as far as it concerns the pod.
    pub(super) fn prepare(&mut self, update: &Update) -> Update {
        let step = self.view.step(&update.inputs.objects, self.began.elapsed());
        {
            let mut listeners = lock(&self.listeners);
            for (id, name) in step.close {
                tracing::info!(listener = %name, "closing: the Service has no such port any more");
                listeners.close(id, &name);
            }
            for (id, mode) in step.change {
                listeners.change(id, mode);
            }
            for (id, name, settings) in step.open {
                if let Err(error) = listeners.bind(id, name, settings) {
                    self.view.refused(id, with_causes(&error));
                }
            }
        }
        let is_unfinished = self.view.plan().is_unfinished();
        self.unfinished.send_if_modified(|before| std::mem::replace(before, is_unfinished) != is_unfinished);
        let (inputs, findings) = self.view.apply(&update.inputs);
        let diagnostics = update.diagnostics.iter().cloned().chain(findings).collect();
        Update { inputs: Arc::new(inputs), diagnostics }
    }

    /// Serves what was bound, now that there are routes for it.
    pub(super) fn published(&self) {
        lock(&self.listeners).serve();
    }
}

/// Hands updates on, and the last one again and again while something of it could not be done. The future does the work,
/// until the source or the receiver is gone.
pub(super) fn again(
    mut updates: watch::Receiver<Update>,
    mut unfinished: watch::Receiver<bool>,
) -> (watch::Receiver<Update>, impl Future<Output = ()> + Send) {
    let (sender, receiver) = watch::channel(updates.borrow_and_update().clone());
    let work = async move {
        loop {
            let waits = *unfinished.borrow_and_update();
            tokio::select! {
                changed = updates.changed() => if changed.is_err() { return },
                changed = unfinished.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = sender.closed() => return,
                () = tokio::time::sleep(AGAIN), if waits => {}
            }
            let update = updates.borrow_and_update().clone();
            if sender.send(update).is_err() {
                return;
            }
        }
    };
    (receiver, work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::inputs::Inputs;

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_done_is_tried_again_until_it_is() {
        let update = || Update { inputs: Arc::new(Inputs::default()), diagnostics: Arc::default() };
        let (source, updates) = watch::channel(update());
        let (unfinished, is_unfinished) = watch::channel(false);
        let (mut received, work) = again(updates, is_unfinished);
        let work = tokio::spawn(work);
        let long = Duration::from_secs(60);
        tokio::time::timeout(long, received.changed()).await.expect_err("nothing has changed");
        unfinished.send_replace(true);
        for _ in 0..3 {
            tokio::time::timeout(AGAIN * 2, received.changed()).await.expect("again").expect("it lives");
        }
        unfinished.send_replace(false);
        tokio::time::timeout(long, received.changed()).await.expect_err("all is done");
        source.send_replace(update());
        tokio::time::timeout(long, received.changed()).await.expect("a change").expect("it lives");
        drop(source);
        work.await.expect("it ends with the source");
    }
}
