use super::*;
use crate::record::{Chunk, Outcome, Record};

/// What the script would leave if nothing took any time.
fn played(plan: &AccuracyPlan) -> Vec<Record> {
    (0..plan.requests).map(|it| record(plan, it)).collect()
}

fn record(plan: &AccuracyPlan, number: u64) -> Record {
    let scheduled = Duration::from_secs_f64(number as f64 / plan.rate);
    let (outcome, tokens) = match plan.fault(number) {
        Some(Fault::Status(status)) => (Outcome::Status(status), 0),
        Some(Fault::Cut { after }) => (Outcome::CutStream, after),
        _ => (Outcome::Complete, plan.tokens),
    };
    let first = scheduled + plan.first_token + plan.wait(number);
    let chunk = |token| Chunk {
        at: first + plan.between_tokens * token,
        tokens: 1,
    };
    let chunks: Vec<_> = (0..tokens).map(chunk).collect();
    Record {
        number,
        scheduled,
        sent: scheduled,
        ended: chunks.last().map_or(first, |it| it.at),
        chunks,
        outcome,
        usage: None,
        expected_output: Some(plan.tokens),
        warm_up: false,
        tenant: None,
        priority: None,
        prefill_worker: None,
        decode_worker: None,
        turn: None,
    }
}

fn compared(plan: &AccuracyPlan, records: &[Record]) -> Accuracy {
    plan.compare(&sent(plan), &Figures::of(records, &Objectives::default()))
}

/// What a server sends that keeps to the script.
fn sent(plan: &AccuracyPlan) -> Vec<SentStream> {
    let arrived = Instant::now();
    let stream = |number| {
        let first = arrived + plan.first_token + plan.wait(number);
        let token = |it| first + plan.between_tokens * it;
        SentStream {
            arrived,
            tokens: (0..plan.ending(number).1).map(token).collect(),
        }
    };
    (0..plan.requests).map(stream).collect()
}

#[test]
fn every_figure_is_as_scripted() {
    let plan = AccuracyPlan {
        requests: 20_000,
        ..AccuracyPlan::default()
    };
    let accuracy = compared(&plan, &played(&plan));
    assert!(accuracy.is_within(), "\n{accuracy}");
    assert_eq!(accuracy.latencies.len(), 4 * 7);
    // The quantiles lie apart, so that none could stand for another.
    let of_ttft = accuracy.latencies.iter().take(7).skip(1);
    let scripted: Vec<_> = of_ttft.map(|it| it.scripted.round()).collect();
    assert_eq!(scripted, [150.0, 230.0, 240.0, 248.0, 250.0, 250.0]);
    assert_eq!(accuracy.endings["complete"], (19_600, 19_600));
    assert_eq!(accuracy.endings["status_503"], (200, 200));
    assert_eq!(accuracy.endings["cut_stream"], (200, 200));
}

#[test]
fn what_differs_is_found() {
    let plan = AccuracyPlan::default();
    let check = |change: fn(&mut Record), off: &[Metric]| {
        let mut records = played(&plan);
        records.iter_mut().for_each(change);
        let accuracy = compared(&plan, &records);
        let wrong = accuracy.latencies.iter().filter(|it| !it.is_within());
        let mut metrics: Vec<_> = wrong.map(|it| it.metric).collect();
        metrics.dedup();
        assert_eq!(metrics, off);
        assert!(!accuracy.is_within());
    };
    check(
        |it| it.scheduled = it.scheduled.saturating_sub(Duration::from_millis(25)),
        &[Metric::Ttft, Metric::E2e],
    );
    check(
        |it| {
            // One token of one request.
            if it.number == 7 {
                it.chunks[10].at += Duration::from_millis(6);
            }
        },
        &[Metric::Itl],
    );
    check(
        |it| {
            if it.number == 17 {
                it.outcome = Outcome::Disconnected;
            }
        },
        &[],
    );
}

#[test]
fn a_late_server_is_held_against_its_own_clock() {
    let plan = AccuracyPlan::default();
    let late = Duration::from_millis(6);
    let (mut sent, mut records) = (sent(&plan), played(&plan));
    // One token of one request.
    sent[7].tokens[10] += late;
    let figures = |records: &[Record]| Figures::of(records, &Objectives::default());
    let unseen = plan.compare(&sent, &figures(&records));
    assert!(!unseen.is_within(), "\n{unseen}");
    records[7].chunks[10].at += late;
    let seen = plan.compare(&sent, &figures(&records));
    assert!(seen.is_within(), "\n{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_run_counts_exactly() {
    let life = Lifecycle::new();
    let plan = AccuracyPlan {
        requests: 200,
        rate: 1000.0,
        tokens: 4,
        first_token: Duration::from_millis(5),
        spread: Duration::from_millis(10),
        between_tokens: Duration::from_millis(2),
        ..AccuracyPlan::default()
    };
    let accuracy = accuracy(&life, plan).await.unwrap();
    let expected = [("complete", 196), ("cut_stream", 2), ("status_503", 2)];
    let expected = expected.map(|(kind, count)| (kind.to_owned(), (count, count)));
    assert_eq!(accuracy.endings, BTreeMap::from(expected));
    // How exact its times are depends on what else the machine does; that none
    // is shorter than scripted does not.
    let ttft = accuracy
        .latencies
        .iter()
        .filter(|it| it.metric == Metric::Ttft);
    for it in ttft {
        assert!(it.reported > it.scripted - 0.1, "{it:?}");
    }
    life.stop();
}
