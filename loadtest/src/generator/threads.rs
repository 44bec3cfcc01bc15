//! The threads of a run and what ties them together.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::feed::{Feed, Source};
use super::lane::{Lane, LaneResult, Rules};
use super::pacer::Pacer;
use super::tally::Tally;
use super::{Pace, RunPlan};
use crate::client::{Client, Encoder, Endpoint};
use crate::planned::Workload;

/// Requests planned ahead for a lane: at 2,000 a second and two lanes an eighth
/// of a second of planning may be late before a request is.
const LOOK_AHEAD: usize = 128;

/// Answers on the way to the workload. A conversation that finds it full waits.
const HEARD: usize = 1024;

/// One file descriptor and a stack each; more than cores only adds switching.
const MOST_LANES: usize = 64;

pub(super) struct Threads {
    pub(super) lanes: Vec<oneshot::Receiver<LaneResult>>,
    /// What is to be said of the requests; comes when all lanes have ended.
    pub(super) caveats: Option<oneshot::Receiver<Vec<String>>>,
    pub(super) tallies: Vec<Arc<Tally>>,
    /// Nothing new is sent.
    pub(super) closing: CancellationToken,
    /// What is under way ends.
    pub(super) ending: CancellationToken,
}

impl Threads {
    pub(super) fn start(
        plan: RunPlan,
        endpoint: Arc<Endpoint>,
        workload: Box<dyn Workload>,
        start: Instant,
    ) -> io::Result<Threads> {
        let (slots, closed) = match plan.pace {
            Pace::Closed { concurrency } => (concurrency.min(plan.connections), true),
            _ => (plan.connections, false),
        };
        let cores = thread::available_parallelism().map_or(1, |it| it.get());
        let count = cores.min(slots).min(MOST_LANES);
        let pacer = Pacer::start()?;
        let (heard_tx, heard_rx) = mpsc::channel(HEARD);
        let mut threads = Threads {
            lanes: Vec::new(),
            caveats: None,
            tallies: Vec::new(),
            closing: CancellationToken::new(),
            ending: CancellationToken::new(),
        };
        let mut launch_txs = Vec::new();
        for number in 0..count {
            // Shares differ by one at most, and add up.
            let slots = slots / count + usize::from(number < slots % count);
            // What a lane has, no other sends: no more than it will need soon.
            let look_ahead = if closed {
                slots.min(LOOK_AHEAD)
            } else {
                LOOK_AHEAD
            };
            let (launch_tx, launch_rx) = mpsc::channel(look_ahead);
            launch_txs.push(launch_tx);
            let tally = Arc::new(Tally::default());
            threads.tallies.push(tally.clone());
            let rules = Rules {
                start,
                end: plan.limits.duration.map(|it| start + it),
                closed,
                slots,
                time_limit: plan.time_limit,
                warm_up: plan.warm_up,
            };
            let (pacer, endpoint) = (pacer.clone(), endpoint.clone());
            let heard_tx = heard_tx.clone();
            let (closing, ending) = (threads.closing.child_token(), threads.ending.child_token());
            let lane = spawn(&format!("loadtest-lane-{number}"), move || {
                let client = Client::new(endpoint);
                let lane = Lane::new(rules, client, pacer, tally);
                lane.run(launch_rx, heard_tx, closing, ending)
            })?;
            threads.lanes.push(lane);
        }
        drop(heard_tx);
        let encoder = Encoder::new(&plan.target);
        let closing = threads.closing.clone();
        let caveats = spawn("loadtest-feed", move || async move {
            let source = Source {
                workload,
                encoder,
                budget: plan.limits.requests.unwrap_or(u64::MAX),
            };
            let feed = Feed::new(source, plan.pace, plan.limits.duration);
            feed.run(launch_txs, heard_rx, closing).await
        })?;
        threads.caveats = Some(caveats);
        Ok(threads)
    }
}

/// A run that nobody awaits any more sends no more.
impl Drop for Threads {
    fn drop(&mut self) {
        self.closing.cancel();
        self.ending.cancel();
    }
}

/// Starts a thread with an event loop of its own; its result comes when it ends.
fn spawn<F, W>(name: &str, work: F) -> io::Result<oneshot::Receiver<W::Output>>
where
    F: FnOnce() -> W + Send + 'static,
    W: Future,
    W::Output: Send + 'static,
{
    let event_loop = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (result_tx, result_rx) = oneshot::channel();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let result = event_loop.block_on(work());
            // Nobody waits any more when the run itself was dropped.
            let _ = result_tx.send(result);
        })?;
    Ok(result_rx)
}
