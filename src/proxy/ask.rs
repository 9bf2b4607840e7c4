//! Answers the questions of filters: what they must not do themselves, since it takes sockets, clocks or time.

use tokio::time::Instant;

use super::decision::{Early, Matched};
use super::error::ProxyError;
use super::exchange::Exchange;
use crate::filter::{Question, Queued, Told};

impl Exchange {
    /// Answers what filters ask until none does any more, within the deadline of the request; costs nothing where none
    /// asks.
    pub(super) async fn settle(&mut self, matched: &Matched, mut asked: Option<Question>) -> Result<(), Early> {
        while let Some(question) = asked.take() {
            let began = Instant::now();
            let answer = Box::pin(answer(question));
            let told = match self.decision.deadlines.request {
                Some(at) => tokio::time::timeout_at(at, answer).await.map_err(|_| ProxyError::Request),
                None => Ok(answer.await),
            };
            if let Some(entry) = &mut self.account.entry {
                *entry.waited.get_or_insert_default() += began.elapsed();
            }
            let told = told?;
            // The try has not begun yet.
            self.begin_try(matched, Instant::now());
            asked = self.decision.resume(matched, told)?;
        }
        Ok(())
    }
}

/// Finds the answer to a question. Dropping the future takes the question back.
async fn answer(question: Question) -> Told {
    match question {
        Question::Permit(queued) => {
            let Queued { place, timeout } = *queued;
            Told::Permit(tokio::time::timeout(timeout, place).await.ok())
        }
        #[cfg(test)]
        Question::Test(number) => tests::answer(number).await,
    }
}

#[cfg(test)]
mod tests;
