//! The worker's metrics. Names appear nowhere else.
//!
//! What vLLM measures too is also there under vLLM's name (vllm/v1/metrics/
//! loggers.py), so that what scrapes a vLLM fleet reads this worker unchanged.

mod grammars;
mod tiers;

use std::time::Duration;

use engine::{KvShape, StepTime};
use kvcache_index::Tier;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use runtime::MetricsPage;

use crate::engine_thread::StageTimes;
use crate::event_feed::WorkerStatus;
use crate::tickets::Pulled;
pub use grammars::GrammarMetrics;
pub use tiers::TierMetrics;

/// Says on `page` what a KV block is; it stays so.
pub fn set_kv_block(page: &MetricsPage, kv: &KvShape) {
    let bytes = kv.block_bytes as f64;
    page.record(|| gauge!("kvasir_kv_block_bytes", "dtype" => kv.dtype).set(bytes));
}

/// Handles of all metrics, made once.
#[derive(Clone)]
pub struct Metrics {
    load: Load,
    steps: Steps,
    requests: Requests,
    transfers: Transfers,
    grammars: GrammarMetrics,
    device_hits: Counter,
    /// Of the tier in host memory; `None`: there is none.
    host: Option<TierMetrics>,
}

#[derive(Clone)]
struct Load {
    blocks_total: Gauge,
    blocks_free: Gauge,
    blocks_cached: Gauge,
    running: Gauge,
    waiting: Gauge,
    vllm_running: Gauge,
    vllm_waiting: Gauge,
    vllm_usage: Gauge,
}

#[derive(Clone)]
struct Steps {
    seconds: Histogram,
    step_prefill_tokens: Histogram,
    step_decode_tokens: Histogram,
    prefill_tokens: Counter,
    decode_tokens: Counter,
    preemptions: Counter,
    vllm_prompt_tokens: Counter,
    vllm_generation_tokens: Counter,
    vllm_preemptions: Counter,
}

#[derive(Clone)]
struct Requests {
    queue: Histogram,
    prefill: Histogram,
    transfer: Histogram,
    decode: Histogram,
    vllm_ttft: Histogram,
    vllm_queue: Histogram,
    vllm_prefill: Histogram,
    vllm_decode: Histogram,
    vllm_e2e: Histogram,
    vllm_stopped: Counter,
    vllm_length: Counter,
    vllm_prefix_queries: Counter,
    vllm_prefix_hits: Counter,
}

#[derive(Clone)]
struct Transfers {
    sent_blocks: Counter,
    sent_bytes: Counter,
    received_blocks: Counter,
    received_bytes: Counter,
    seconds: Histogram,
    failures: Counter,
}

impl Metrics {
    /// Of a worker of `model`, on `page`.
    pub fn new(page: &MetricsPage, model: &str, has_host_tier: bool) -> Metrics {
        page.record(|| {
            describe();
            Metrics {
                load: Load::new(model),
                steps: Steps::new(model),
                requests: Requests::new(model),
                transfers: Transfers::new(),
                grammars: GrammarMetrics::new(),
                device_hits: tiers::hits("device"),
                host: has_host_tier.then(|| TierMetrics::new(Tier::Host)),
            }
        })
    }

    pub fn set_load(&self, status: &WorkerStatus) {
        let load = &self.load;
        load.blocks_total.set(status.total_blocks as f64);
        load.blocks_free.set(status.free_blocks as f64);
        load.blocks_cached.set(status.cached_blocks as f64);
        load.running.set(status.running_sequences as f64);
        load.waiting.set(status.waiting_sequences as f64);
        load.vllm_running.set(status.running_sequences as f64);
        load.vllm_waiting.set(status.waiting_sequences as f64);
        let used = status.total_blocks.saturating_sub(status.free_blocks);
        load.vllm_usage
            .set(used as f64 / status.total_blocks.max(1) as f64);
    }

    pub fn count_step(&self, step: StepTime) {
        let steps = &self.steps;
        steps.seconds.record(step.time.as_secs_f64());
        steps.step_prefill_tokens.record(step.prefill_tokens as f64);
        steps.step_decode_tokens.record(step.decode_tokens as f64);
        steps.prefill_tokens.increment(step.prefill_tokens as u64);
        steps.decode_tokens.increment(step.decode_tokens as u64);
    }

    /// Prompt tokens found cached on the device.
    pub fn count_device_hits(&self, tokens: usize) {
        self.device_hits.increment(tokens as u64);
    }

    pub fn grammars(&self) -> &GrammarMetrics {
        &self.grammars
    }

    /// Of the tier in host memory, if there is one.
    pub fn host_tier(&self) -> Option<&TierMetrics> {
        self.host.as_ref()
    }

    pub fn count_preemptions(&self, preemptions: usize) {
        self.steps.preemptions.increment(preemptions as u64);
        self.steps.vllm_preemptions.increment(preemptions as u64);
    }

    pub fn count_generated(&self, tokens: usize) {
        self.steps.vllm_generation_tokens.increment(tokens as u64);
    }

    /// A sequence was scheduled for the first time.
    pub fn count_prompt(&self, prompt_tokens: usize, cached_tokens: usize) {
        let requests = &self.requests;
        self.steps
            .vllm_prompt_tokens
            .increment(prompt_tokens as u64);
        requests.vllm_prefix_queries.increment(prompt_tokens as u64);
        requests.vllm_prefix_hits.increment(cached_tokens as u64);
    }

    /// A sequence's first token on this worker was drawn.
    pub fn record_first_token(&self, times: &StageTimes) {
        self.requests.vllm_ttft.record(times.total().as_secs_f64());
    }

    /// A sequence left, finished or not. Stages it was not in don't count.
    pub fn record_times(&self, times: &StageTimes) {
        let requests = &self.requests;
        let stages = [
            (&requests.queue, times.queued),
            (&requests.prefill, times.prefill),
            (&requests.transfer, times.transfer),
            (&requests.decode, times.decode),
        ];
        for (histogram, time) in stages {
            if time > Duration::ZERO {
                histogram.record(time.as_secs_f64());
            }
        }
    }

    /// A sequence ran to its end.
    pub fn record_finished(&self, times: &StageTimes, reason: engine::Finish) {
        let requests = &self.requests;
        requests.vllm_queue.record(times.queued.as_secs_f64());
        requests.vllm_prefill.record(times.prefill.as_secs_f64());
        requests.vllm_decode.record(times.decode.as_secs_f64());
        requests.vllm_e2e.record(times.total().as_secs_f64());
        match reason {
            engine::Finish::Stop => requests.vllm_stopped.increment(1),
            engine::Finish::Length => requests.vllm_length.increment(1),
        }
    }

    pub fn count_sent(&self, pulled: Pulled) {
        self.transfers.sent_blocks.increment(pulled.blocks as u64);
        self.transfers.sent_bytes.increment(pulled.bytes as u64);
    }

    pub fn count_received(&self, pulled: Pulled) {
        self.transfers
            .received_blocks
            .increment(pulled.blocks as u64);
        self.transfers.received_bytes.increment(pulled.bytes as u64);
    }

    /// A pull succeeded after `time`.
    pub fn record_transfer(&self, time: Duration) {
        self.transfers.seconds.record(time.as_secs_f64());
    }

    pub fn count_transfer_failure(&self) {
        self.transfers.failures.increment(1);
    }
}

impl Load {
    fn new(model: &str) -> Load {
        let vllm =
            |name: &'static str| gauge!(name, "model_name" => model.to_owned(), "engine" => "0");
        Load {
            blocks_total: gauge!("kvasir_kv_blocks_total"),
            blocks_free: gauge!("kvasir_kv_blocks_free"),
            blocks_cached: gauge!("kvasir_kv_blocks_cached"),
            running: gauge!("kvasir_running_sequences"),
            waiting: gauge!("kvasir_waiting_sequences"),
            vllm_running: vllm("vllm:num_requests_running"),
            vllm_waiting: vllm("vllm:num_requests_waiting"),
            vllm_usage: vllm("vllm:kv_cache_usage_perc"),
        }
    }
}

impl Steps {
    fn new(model: &str) -> Steps {
        let vllm =
            |name: &'static str| counter!(name, "model_name" => model.to_owned(), "engine" => "0");
        Steps {
            seconds: histogram!("kvasir_engine_step_seconds"),
            step_prefill_tokens: histogram!("kvasir_engine_step_tokens", "kind" => "prefill"),
            step_decode_tokens: histogram!("kvasir_engine_step_tokens", "kind" => "decode"),
            prefill_tokens: counter!("kvasir_prefill_tokens_total"),
            decode_tokens: counter!("kvasir_decode_tokens_total"),
            preemptions: counter!("kvasir_preemptions_total"),
            vllm_prompt_tokens: vllm("vllm:prompt_tokens_total"),
            vllm_generation_tokens: vllm("vllm:generation_tokens_total"),
            vllm_preemptions: vllm("vllm:num_preemptions_total"),
        }
    }
}

impl Requests {
    fn new(model: &str) -> Requests {
        let stage =
            |stage: &'static str| histogram!("kvasir_worker_stage_seconds", "stage" => stage);
        let vllm = |name: &'static str| histogram!(name, "model_name" => model.to_owned(), "engine" => "0");
        let count =
            |name: &'static str| counter!(name, "model_name" => model.to_owned(), "engine" => "0");
        let success = |reason: &'static str| counter!("vllm:request_success_total", "model_name" => model.to_owned(), "engine" => "0", "finished_reason" => reason);
        Requests {
            queue: stage("queue"),
            prefill: stage("prefill"),
            transfer: stage("transfer"),
            decode: stage("decode"),
            vllm_ttft: vllm("vllm:time_to_first_token_seconds"),
            vllm_queue: vllm("vllm:request_queue_time_seconds"),
            vllm_prefill: vllm("vllm:request_prefill_time_seconds"),
            vllm_decode: vllm("vllm:request_decode_time_seconds"),
            vllm_e2e: vllm("vllm:e2e_request_latency_seconds"),
            vllm_stopped: success("stop"),
            vllm_length: success("length"),
            vllm_prefix_queries: count("vllm:prefix_cache_queries_total"),
            vllm_prefix_hits: count("vllm:prefix_cache_hits_total"),
        }
    }
}

impl Transfers {
    fn new() -> Transfers {
        let blocks = |direction: &'static str| counter!("kvasir_transfer_blocks_total", "direction" => direction);
        let bytes = |direction: &'static str| counter!("kvasir_transfer_bytes_total", "direction" => direction);
        Transfers {
            sent_blocks: blocks("sent"),
            sent_bytes: bytes("sent"),
            received_blocks: blocks("received"),
            received_bytes: bytes("received"),
            seconds: histogram!("kvasir_transfer_seconds"),
            failures: counter!("kvasir_transfer_failures_total"),
        }
    }
}

fn describe() {
    metrics::describe_gauge!("kvasir_kv_blocks_total", "KV blocks of this worker.");
    metrics::describe_gauge!(
        "kvasir_kv_block_bytes",
        "Bytes of a KV block, and how keys and values are kept."
    );
    metrics::describe_gauge!(
        "kvasir_kv_blocks_free",
        "KV blocks no sequence holds, cached ones among them."
    );
    metrics::describe_gauge!(
        "kvasir_kv_blocks_cached",
        "KV blocks whose content can be reused."
    );
    metrics::describe_gauge!("kvasir_running_sequences", "Sequences that hold KV blocks.");
    metrics::describe_gauge!("kvasir_waiting_sequences", "Sequences in the queue.");
    metrics::describe_histogram!("kvasir_engine_step_seconds", "Time of one engine step.");
    metrics::describe_histogram!(
        "kvasir_engine_step_tokens",
        "Tokens in one engine step, of prompts and of sequences that decode."
    );
    metrics::describe_counter!("kvasir_prefill_tokens_total", "Prompt tokens computed.");
    metrics::describe_counter!("kvasir_decode_tokens_total", "Decode tokens computed.");
    metrics::describe_counter!(
        "kvasir_preemptions_total",
        "Sequences put back into the queue for want of KV blocks."
    );
    metrics::describe_histogram!(
        "kvasir_worker_stage_seconds",
        "Time of a sequence in each stage on this worker."
    );
    metrics::describe_counter!("kvasir_transfer_blocks_total", "KV blocks moved.");
    metrics::describe_counter!("kvasir_transfer_bytes_total", "KV bytes moved.");
    metrics::describe_histogram!(
        "kvasir_transfer_seconds",
        "Time from the first request for KV blocks to the last block, on the receiving worker."
    );
    metrics::describe_counter!(
        "kvasir_transfer_failures_total",
        "Pulls that failed; the prompt was computed instead."
    );
}
