//! Loses, swaps and delays a worker's events. Status messages, heartbeats among
//! them, come through: what they tell of is how a loss shows.

use futures::{Stream, StreamExt};
use proto::worker as pb;
use proto::worker::worker_event::Event;
use tonic::Status;

use super::Meddling;

type Item = Result<pb::WorkerEvent, Status>;

/// The events that arrive.
pub(super) fn meddle(
    events: impl Stream<Item = Item> + Send + 'static,
    meddling: impl Fn() -> Meddling + Send + Clone + 'static,
) -> impl Stream<Item = Item> + Send {
    let now = meddling.clone();
    let (mut count, mut held) = (0u32, None);
    let events = events.flat_map(move |event| {
        let meddling = now();
        let mut arrived = Vec::with_capacity(2);
        if is_status(&event) {
            arrived.extend(held.take());
            arrived.push(event);
        } else {
            count = count.wrapping_add(1);
            if every(meddling.lose, count) {
                // Gone.
            } else if every(meddling.swap, count) && held.is_none() {
                held = Some(event);
            } else {
                arrived.push(event);
                arrived.extend(held.take());
            }
        }
        futures::stream::iter(arrived)
    });
    events.then(move |event| {
        let delay = meddling().delay;
        async move {
            tokio::time::sleep(delay).await;
            event
        }
    })
}

fn every(n: u32, count: u32) -> bool {
    n > 0 && count.is_multiple_of(n)
}

fn is_status(event: &Item) -> bool {
    let event = event.as_ref().ok().and_then(|it| it.event.as_ref());
    matches!(event, Some(Event::Status(_)) | None)
}
