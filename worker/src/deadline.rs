//! The caller's deadline, `grpc-timeout`, to the end of a stream: what runs for
//! the call is dropped then, and so aborted.

use std::time::Duration;

use async_stream::try_stream;
use futures::{Stream, StreamExt};
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataMap;

use crate::failure::Failure;

/// When a call has to be done. `None`: its caller waits for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Of a call that arrives now.
    pub fn of(metadata: &MetadataMap) -> Deadline {
        let text = metadata.get("grpc-timeout");
        let timeout = text.and_then(|text| timeout(text.to_str().ok()?));
        Deadline(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// Time that is left for a call made on behalf of this one.
    pub fn left(self) -> Option<Duration> {
        let deadline = self.0?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// The call's first answer, if it comes in time.
    pub async fn within<T>(
        self,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match self.0 {
            Some(deadline) => timeout_at(deadline, answer)
                .await
                .unwrap_or_else(|_| Err(Failure::deadline_exceeded())),
            None => answer.await,
        }
    }

    /// `items` as far as they come in time; then they are dropped.
    pub fn bound<T>(
        self,
        items: impl Stream<Item = Result<T, Failure>>,
    ) -> impl Stream<Item = Result<T, Failure>> {
        try_stream! {
            let mut items = Box::pin(items);
            loop {
                let next = async { Ok(items.next().await) };
                match self.within(next).await {
                    Ok(Some(item)) => yield item?,
                    Ok(None) => break,
                    Err(late) => {
                        // Before the caller reads of it.
                        drop(items);
                        Err(late)?;
                        break;
                    }
                }
            }
        }
    }
}

/// At most 8 digits and a unit, as the specification of gRPC over HTTP/2 has it.
fn timeout(text: &str) -> Option<Duration> {
    let at = text.len().checked_sub(1)?;
    let (digits, unit) = (text.get(..at)?, text.get(at..)?);
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let number: u64 = (is_number && digits.len() <= 8).then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proto::ErrorCode;

    use super::*;

    #[test]
    fn reads_what_the_specification_allows() {
        let read = [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("9n", Some(Duration::from_nanos(9))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("+5S", None),
            ("5\u{e9}", None),
        ];
        for (text, expected) in read {
            assert_eq!(timeout(text), expected, "{text}");
        }
    }

    fn in_seconds(seconds: u64) -> Deadline {
        let mut request = tonic::Request::new(());
        request.set_timeout(Duration::from_secs(seconds));
        Deadline::of(request.metadata())
    }

    #[tokio::test(start_paused = true)]
    async fn stream_ends_at_the_deadline_and_what_it_owns_is_gone_before_the_error() {
        let owned = std::sync::Arc::new(());
        let held = owned.clone();
        let items = futures::stream::iter([Ok(1), Ok(2)]).chain(futures::stream::pending());
        let items = items.inspect(move |_: &Result<i32, Failure>| {
            let _ = &held;
        });
        let begun = Instant::now();
        let mut bound = Box::pin(in_seconds(5).bound(items));
        assert_eq!(bound.next().await, Some(Ok(1)));
        assert_eq!(bound.next().await, Some(Ok(2)));
        let late = bound.next().await.unwrap().unwrap_err();
        assert_eq!(late.code, ErrorCode::DeadlineExceeded);
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        assert_eq!(std::sync::Arc::strong_count(&owned), 1);
        assert_eq!(bound.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_deadline_nothing_ends() {
        let never = Deadline::of(&MetadataMap::new());
        assert_eq!(never.left(), None);
        let answer = never.within(std::future::pending::<Result<(), Failure>>());
        let day = Duration::from_secs(86_400);
        assert!(tokio::time::timeout(day, answer).await.is_err());
    }
}
