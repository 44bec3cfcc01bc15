//! The streams that need no engine: model files and subscriptions.

use async_stream::stream;
use bytes::Bytes;
use futures::Stream;
use proto::worker::ModelFilePart;

use crate::event_feed::{Subscription, Update};

/// Bytes of a file in one message, below gRPC's limit of 4 MiB.
const PART_BYTES: usize = 1024 * 1024;

/// Files in parts; an empty file has one empty part.
pub(super) fn file_parts(files: &[(String, Bytes)]) -> Vec<ModelFilePart> {
    let mut parts = Vec::new();
    for (name, content) in files {
        let mut rest = content.clone();
        loop {
            parts.push(ModelFilePart {
                name: name.clone(),
                data: rest.split_to(rest.len().min(PART_BYTES)),
            });
            if rest.is_empty() {
                break;
            }
        }
    }
    parts
}

/// Updates until the drain, and as the last one a status that says so.
pub(super) fn until_drained(
    mut subscription: Subscription,
    draining: impl Future<Output = ()>,
) -> impl Stream<Item = Update> {
    stream! {
        let mut draining = Box::pin(draining);
        loop {
            let update = tokio::select! {
                biased;
                () = &mut draining => break,
                update = subscription.next() => update,
            };
            yield update;
        }
        if let Some(update) = subscription.farewell() {
            yield update;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::StreamExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::event_feed::{EventFeed, WorkerStatus};

    #[test]
    fn parts_make_up_the_files() {
        let large = Bytes::from(vec![7; PART_BYTES + 1]);
        let files = [("a".to_owned(), large), ("b".to_owned(), Bytes::new())];
        let parts = file_parts(&files);
        let sizes: Vec<_> = parts
            .iter()
            .map(|it| (it.name.as_str(), it.data.len()))
            .collect();
        assert_eq!(sizes, [("a", PART_BYTES), ("a", 1), ("b", 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_update_says_that_the_worker_drains() {
        let feed = Arc::new(EventFeed::new(5, WorkerStatus::default()));
        let (drain_tx, drain_rx) = oneshot::channel::<()>();
        let draining = async move {
            let _ = drain_rx.await;
        };
        let mut updates = Box::pin(until_drained(feed.subscribe((0, 0), None), draining));
        assert!(matches!(
            updates.next().await,
            Some(Update::Snapshot { .. })
        ));
        drain_tx.send(()).unwrap();
        let rest: Vec<_> = updates.collect().await;
        let [Update::Status { status, .. }] = rest.as_slice() else {
            panic!("{rest:?}");
        };
        assert!(status.draining);
    }
}
