//! The router's metrics: handles made once, names nowhere else.

use std::time::{Duration, Instant};

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use crate::admission::queue::{Band, Queue, Reason};

/// All handles, made inside a [`runtime::MetricsPage`]'s `record`.
#[derive(Clone)]
pub struct Metrics {
    /// Requests that hold a permit.
    pub permits: Gauge,
    /// Requests that may run at once, as configured and as workers reported.
    pub admission_limit: Gauge,
    pub queued_tokens: Gauge,
    queued_requests: [Gauge; Band::COUNT],
    admitted_requests: [Counter; Band::COUNT],
    admission_wait: [Histogram; Band::COUNT],
    shed_requests: [Counter; Reason::ALL.len()],
    /// Sequences that hold a booking.
    pub bookings: Gauge,
    pub planned_split: Counter,
    pub planned_undivided: Counter,
    pub replans: Counter,
    pub migrations: Counter,
    pub refused_retries: Counter,
    pub hedges: Counter,
    pub breakers_opened: Counter,
    pub ejected_for_failures: Counter,
    pub ejected_for_slowness: Counter,
    pub sequences_finished: Counter,
    pub sequences_failed: Counter,
    pub sequences_cancelled: Counter,
    pub prompt_tokens: Counter,
    pub cached_tokens: Counter,
    pub generated_tokens: Counter,
    pub time_to_first_token: Histogram,
    pub inter_token_latency: Histogram,
    pub sequence_duration: Histogram,
    pub tokenize_duration: Histogram,
    pub plan_duration: Histogram,
    pub connected_workers: Gauge,
    /// Sequences that all workers together report.
    pub reported_sequences: Gauge,
    /// Workers as membership says, connected or not.
    pub members: Gauge,
    /// 1 while the source of membership answers.
    pub membership_up: Gauge,
    pub index_blocks: Gauge,
    pub index_bytes: Gauge,
    pub event_gaps: Counter,
    pub snapshots: Counter,
}

impl Metrics {
    pub fn new() -> Metrics {
        describe();
        let sequences =
            |outcome: &'static str| counter!("kvasir_router_sequences_total", "outcome" => outcome);
        let ejections =
            |reason: &'static str| counter!("kvasir_router_ejections_total", "reason" => reason);
        let plans = |kind: &'static str| counter!("kvasir_router_plans_total", "kind" => kind);
        Metrics {
            permits: gauge!("kvasir_router_permits"),
            admission_limit: gauge!("kvasir_router_admission_limit"),
            queued_tokens: gauge!("kvasir_router_queued_tokens"),
            queued_requests: Band::ALL
                .map(|band| gauge!("kvasir_router_queued_requests", "band" => band.as_str())),
            admitted_requests: Band::ALL.map(
                |band| counter!("kvasir_router_admitted_requests_total", "band" => band.as_str()),
            ),
            admission_wait: Band::ALL.map(
                |band| histogram!("kvasir_router_admission_wait_seconds", "band" => band.as_str()),
            ),
            shed_requests: Reason::ALL
                .map(|why| counter!("kvasir_router_shed_requests_total", "reason" => why.as_str())),
            bookings: gauge!("kvasir_router_bookings"),
            planned_split: plans("split"),
            planned_undivided: plans("undivided"),
            replans: counter!("kvasir_router_replans_total"),
            migrations: counter!("kvasir_router_migrations_total"),
            refused_retries: counter!("kvasir_router_refused_retries_total"),
            hedges: counter!("kvasir_router_hedges_total"),
            breakers_opened: counter!("kvasir_router_breakers_opened_total"),
            ejected_for_failures: ejections("failures"),
            ejected_for_slowness: ejections("slowness"),
            sequences_finished: sequences("finished"),
            sequences_failed: sequences("failed"),
            sequences_cancelled: sequences("cancelled"),
            prompt_tokens: counter!("kvasir_router_prompt_tokens_total"),
            cached_tokens: counter!("kvasir_router_cached_tokens_total"),
            generated_tokens: counter!("kvasir_router_generated_tokens_total"),
            time_to_first_token: histogram!("kvasir_router_time_to_first_token_seconds"),
            inter_token_latency: histogram!("kvasir_router_inter_token_latency_seconds"),
            sequence_duration: histogram!("kvasir_router_sequence_duration_seconds"),
            tokenize_duration: histogram!("kvasir_router_tokenize_duration_seconds"),
            plan_duration: histogram!("kvasir_router_plan_duration_seconds"),
            connected_workers: gauge!("kvasir_router_connected_workers"),
            reported_sequences: gauge!("kvasir_router_reported_sequences"),
            members: gauge!("kvasir_router_members"),
            membership_up: gauge!("kvasir_router_membership_up"),
            index_blocks: gauge!("kvasir_router_index_blocks"),
            index_bytes: gauge!("kvasir_router_index_bytes"),
            event_gaps: counter!("kvasir_router_event_gaps_total"),
            snapshots: counter!("kvasir_router_snapshots_total"),
        }
    }

    pub fn admitted(&self, band: Band) -> &Counter {
        &self.admitted_requests[band.index()]
    }

    pub fn admission_wait(&self, band: Band) -> &Histogram {
        &self.admission_wait[band.index()]
    }

    pub fn shed(&self, reason: Reason) -> &Counter {
        &self.shed_requests[reason as usize]
    }

    pub fn show_queue<W>(&self, queue: &Queue<W>, now: Duration) {
        for band in Band::ALL {
            self.queued_requests[band.index()].set(queue.waiting_in(band) as f64);
        }
        self.queued_tokens.set(queue.waiting_tokens() as f64);
        self.admission_limit.set(queue.limit(now) as f64);
    }

    pub fn measure_tokenize(&self) -> Measured {
        measure(&self.tokenize_duration)
    }

    pub fn measure_plan(&self) -> Measured {
        measure(&self.plan_duration)
    }

    /// Handles that record nothing.
    pub fn unrecorded() -> Metrics {
        metrics::with_local_recorder(&metrics::NoopRecorder, Metrics::new)
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Records the time until it is dropped.
pub struct Measured {
    histogram: Histogram,
    started: Instant,
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.histogram.record(self.started.elapsed());
    }
}

/// A finished HTTP request.
pub fn count_request(path: String, status: http::StatusCode) -> Counter {
    counter!("kvasir_router_requests_total", "path" => path, "status" => status.as_str().to_owned())
}

fn measure(histogram: &Histogram) -> Measured {
    Measured {
        histogram: histogram.clone(),
        started: Instant::now(),
    }
}

fn describe() {
    describe_gauge!("kvasir_router_permits", "Requests that hold a permit");
    describe_gauge!(
        "kvasir_router_admission_limit",
        "Requests that may hold a permit: what is configured, or less if workers say so"
    );
    describe_gauge!(
        "kvasir_router_queued_requests",
        "Requests that wait for a permit, by priority band"
    );
    describe_gauge!(
        "kvasir_router_queued_tokens",
        "Tokens expected of the requests that wait; generated ones count double"
    );
    describe_counter!(
        "kvasir_router_admitted_requests_total",
        "Requests that got a permit, by priority band"
    );
    describe_histogram!(
        "kvasir_router_admission_wait_seconds",
        "From arrival to permit, by priority band"
    );
    describe_counter!(
        "kvasir_router_shed_requests_total",
        "Requests turned away by admission, by reason"
    );
    describe_gauge!("kvasir_router_bookings", "Sequences that hold a booking");
    describe_counter!("kvasir_router_plans_total", "Plans made, by kind");
    describe_counter!(
        "kvasir_router_replans_total",
        "Plans made again after a worker failed"
    );
    describe_counter!(
        "kvasir_router_migrations_total",
        "Sequences that went on elsewhere after their first token"
    );
    describe_counter!(
        "kvasir_router_refused_retries_total",
        "Retries that had to wait, or were not made, for want of budget"
    );
    describe_counter!(
        "kvasir_router_hedges_total",
        "Sequences started on another worker too, being late"
    );
    describe_counter!(
        "kvasir_router_breakers_opened_total",
        "Workers shunned for failures in a row"
    );
    describe_counter!(
        "kvasir_router_ejections_total",
        "Workers shunned for being worse than the others, by reason"
    );
    describe_counter!(
        "kvasir_router_sequences_total",
        "Sequences, by how they ended"
    );
    describe_counter!(
        "kvasir_router_prompt_tokens_total",
        "Prompt tokens of sequences"
    );
    describe_counter!(
        "kvasir_router_cached_tokens_total",
        "Prompt tokens whose KV was reused"
    );
    describe_counter!("kvasir_router_generated_tokens_total", "Tokens generated");
    describe_histogram!(
        "kvasir_router_time_to_first_token_seconds",
        "From plan to first token"
    );
    describe_histogram!(
        "kvasir_router_inter_token_latency_seconds",
        "Between messages with tokens"
    );
    describe_histogram!(
        "kvasir_router_sequence_duration_seconds",
        "From plan to end"
    );
    describe_histogram!(
        "kvasir_router_tokenize_duration_seconds",
        "Rendering and tokenising a request"
    );
    describe_histogram!(
        "kvasir_router_plan_duration_seconds",
        "Planning and booking a sequence"
    );
    describe_gauge!(
        "kvasir_router_connected_workers",
        "Workers whose events flow"
    );
    describe_gauge!(
        "kvasir_router_reported_sequences",
        "Sequences running or waiting, as all workers together report"
    );
    describe_gauge!(
        "kvasir_router_members",
        "Workers of the cluster by list or etcd, connected or not"
    );
    describe_gauge!(
        "kvasir_router_membership_up",
        "Whether the source of the list of workers answers; if not, the last list serves"
    );
    describe_gauge!(
        "kvasir_router_index_blocks",
        "Different blocks in the prefix index"
    );
    describe_gauge!(
        "kvasir_router_index_bytes",
        "Memory of the prefix index; at --index-memory it forgets what was longest not used"
    );
    describe_counter!(
        "kvasir_router_event_gaps_total",
        "Gaps found in workers' KV events"
    );
    describe_counter!(
        "kvasir_router_snapshots_total",
        "Snapshots of workers' blocks received"
    );
    describe_counter!(
        "kvasir_router_requests_total",
        "HTTP requests, by path and status"
    );
}
