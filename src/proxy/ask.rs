//! Answers the questions of filters: what they must not do themselves, since it takes sockets, clocks or time.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use tokio::time::Instant;

use super::decision::{Early, Matched};
use super::error::ProxyError;
use super::exchange::Exchange;
use crate::filter::{Boarded, KEYS_PATIENCE, Question, Queued, Told};

impl Exchange {
    /// Answers what filters ask until none does any more, within the deadline of the request; `None` where none asks. Boxed,
    /// as is all that only few requests need.
    #[inline]
    pub(super) fn settling<'a>(
        &'a mut self,
        matched: &'a Matched,
        asked: Option<Question>,
    ) -> Option<Pin<Box<impl Future<Output = Result<(), Early>> + 'a>>> {
        asked.map(|question| Box::pin(self.settle(matched, question)))
    }

    async fn settle(&mut self, matched: &Matched, question: Question) -> Result<(), Early> {
        let worker = Rc::clone(&self.account.worker);
        let mut asked = Some(question);
        while let Some(question) = asked.take() {
            let (began, waits) = (Instant::now(), !matches!(question, Question::Flight(_)));
            let is_queued = matches!(question, Question::Permit(_));
            let until = self.decision.deadlines.request;
            let answer = Box::pin(self.answer(matched, question));
            let told = match until {
                Some(at) => tokio::time::timeout_at(at, answer).await.unwrap_or(Err(ProxyError::Request)),
                None => answer.await,
            };
            // A call that is shared is no wait, whoever makes it.
            if let Some(entry) = self.account.entry.as_mut().filter(|_| waits) {
                *entry.waited.get_or_insert_default() += began.elapsed();
            }
            if is_queued && matches!(told, Err(ProxyError::Request)) {
                // The limit notes that there was no place in time. What the client gets is the deadline's to say.
                drop(self.decision.resume(matched, Told::Permit(None), worker.filter_means()));
            }
            let told = told?;
            // The try has not begun yet.
            self.begin_try(matched, Instant::now());
            asked = self.decision.resume(matched, told, worker.filter_means())?;
        }
        Ok(())
    }

    /// Finds the answer to a question. Dropping the future takes the question back.
    async fn answer(&mut self, matched: &Matched, question: Question) -> Result<Told, ProxyError> {
        match question {
            Question::Permit(queued) => {
                let Queued { place, timeout } = *queued;
                Ok(Told::Permit(tokio::time::timeout(timeout, place).await.ok()))
            }
            Question::Password(check) => Ok(Told::Password(self.account.worker.passwords().verify(*check).await)),
            Question::Body(most) => self.read_body(most).await.map(Told::Body),
            Question::Call(call) => Ok(Told::Called(self.call(matched, *call).await.map(Box::new))),
            Question::Keys(wanted) => {
                // Whatever came of it: the filter looks at the keys that are there now.
                let _ = tokio::time::timeout(KEYS_PATIENCE, wanted.ready()).await;
                Ok(Told::Keys)
            }
            Question::Flight(boarded) => {
                let Boarded { seat, pilot } = *boarded;
                if let Some(pilot) = pilot {
                    self.begin_flight(matched, pilot);
                }
                // Whoever makes the call, each request has the copies that are asked for outside of it.
                let copies = self.decision.take_copies_so_far();
                if !copies.is_empty() {
                    self.send_copies(matched, copies);
                }
                Ok(Told::Landed(seat.landed().await))
            }
            #[cfg(test)]
            Question::Test(number) => Ok(tests::answer(number).await),
        }
    }

    /// Reads the client's body, of at most so many bytes, for a filter; it stays for the backend.
    async fn read_body(&mut self, most: usize) -> Result<Bytes, ProxyError> {
        self.note_layers();
        let Some(body) = &mut self.body else { return Ok(Bytes::new()) };
        let read = body.read_whole(most, self.account.worker.replay_room()).await;
        self.account.bytes_in = body.bytes_read();
        // It has come without the backend's consent.
        self.decision.head.expect_continue = false;
        let whole = read.map_err(ProxyError::request_body)?;
        // Limits further in know it now, whether or not the client has announced it.
        self.decision.content_length = Some(whole.len() as u64);
        Ok(whole)
    }
}

#[cfg(test)]
mod tests;
