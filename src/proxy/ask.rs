//! Answers the questions of filters: what they must not do themselves, since it takes sockets, clocks or time.

use crate::filter::{Question, Told};

/// Finds the answer to a question. Dropping the future takes the question back.
pub(super) async fn answer(question: Question) -> Told {
    match question {
        #[cfg(test)]
        Question::Test(number) => {
            tokio::task::yield_now().await;
            Told::Test(number.is_multiple_of(2))
        }
    }
}
