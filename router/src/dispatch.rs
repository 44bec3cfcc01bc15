//! Runs planned sequences on their workers and survives their failures.
//!
//! One loop: attempt, and when a worker fails plan again without it, from the
//! prompt and the tokens generated so far. Before the first token that is a
//! retry, after it a migration; the client sees neither. The stream owns permit
//! and booking: end, error and hang-up release them the same way, by drop.

mod attempt;
mod progress;
mod retries;
mod times;

use std::sync::Arc;

use futures::StreamExt;
use tracing::Instrument;

use crate::admission::Permit;
use crate::cluster::{Booking, Cluster, Excluded};
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::sequence::{Event, Events, Sequence};
use attempt::Attempt;
use progress::Progress;
use retries::Retries;
use times::Times;

/// A sequence with its first booking.
#[derive(Debug)]
pub struct Planned {
    pub sequence: Sequence,
    pub booking: Booking,
}

/// Chooses and books workers for every sequence, or for none.
pub fn plan(cluster: &Arc<Cluster>, sequences: &[Sequence]) -> Result<Vec<Planned>, ApiError> {
    let _span = tracing::info_span!("plan", sequences = sequences.len()).entered();
    let book = |sequence: &Sequence| {
        Ok(Planned {
            booking: cluster.book(sequence, &[], &Excluded::new())?,
            sequence: sequence.clone(),
        })
    };
    sequences.iter().map(book).collect()
}

/// Starts planned sequences; all of them hold `permit`.
pub fn run(
    cluster: &Arc<Cluster>,
    metrics: &Arc<Metrics>,
    planned: Vec<Planned>,
    permit: Permit,
) -> Vec<Events> {
    let permit = Arc::new(permit);
    planned
        .into_iter()
        .map(|planned| {
            let times = Times::start(metrics.clone(), planned.sequence.prompt.len());
            stream(cluster.clone(), planned, permit.clone(), times).boxed()
        })
        .collect()
}

fn stream(
    cluster: Arc<Cluster>,
    planned: Planned,
    permit: Arc<Permit>,
    mut times: Times,
) -> impl futures::Stream<Item = Result<Event, ApiError>> {
    let span = tracing::info_span!(
        "sequence",
        request_id = %planned.sequence.request_id,
        choice = planned.sequence.choice
    );
    async_stream::try_stream! {
        let _permit = permit;
        let mut booking = planned.booking;
        let mut progress = Progress::new(planned.sequence);
        let mut retries = Retries::default();
        if let Some(event) = progress.opening() {
            yield event;
        }
        loop {
            let mut attempt = Attempt::new(&booking);
            let failure = loop {
                match attempt.next(&mut progress).instrument(span.clone()).await {
                    Ok(Some(event)) => {
                        times.saw(&event);
                        retries.saw(&event);
                        let last = matches!(event, Event::Finished(_));
                        yield event;
                        if last {
                            return;
                        }
                    }
                    Ok(None) => {}
                    Err(failure) => break failure,
                }
            };
            drop(attempt);
            if let Some(end) = progress.ended() {
                times.saw(&end);
                yield end;
                return;
            }
            times.replanned(progress.has_begun());
            let again = retries.after(failure, &cluster).and_then(|()| {
                let (sequence, generated) = (progress.sequence(), progress.generated());
                let booked = cluster.book(sequence, generated, &retries.excluded());
                booked.map_err(|none| retries.explain(none))
            });
            match again {
                Ok(next) => booking = next,
                Err(error) => {
                    times.failed();
                    Err(error)?;
                }
            }
        }
    }
}
