//! The Prometheus page of one part.
//!
//! A process may hold several parts (`kvasir up`), each with a page of its own:
//! there is no global recorder. Metric handles belong to the page in whose
//! [`MetricsPage::record`] they were made, wherever they are used later.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

use crate::Lifecycle;

/// How often raw samples are folded into buckets if nobody reads the page.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// From one decode step of a small model to the longest generation.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5,
    5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 600.0,
];

/// From a word to the longest context.
const TOKENS: &[f64] = &[
    1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0,
    65536.0, 131072.0, 262144.0, 1048576.0,
];

/// All metrics of one part. Clones are the same page.
#[derive(Clone)]
pub struct MetricsPage {
    recorder: Arc<PrometheusRecorder>,
}

impl MetricsPage {
    /// An empty page. Histograms whose name ends in `_seconds` or `_tokens` get
    /// buckets for that unit.
    pub fn new() -> MetricsPage {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
            .and_then(|it| it.set_buckets_for_metric(Matcher::Suffix("_tokens".into()), TOKENS))
            .expect("only an empty list of buckets is refused")
            .build_recorder();
        MetricsPage {
            recorder: Arc::new(recorder),
        }
    }

    /// Runs `f`; descriptions and handles made in it belong to this page.
    pub fn record<T>(&self, f: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&*self.recorder, f)
    }

    /// The page in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        self.recorder.handle().render()
    }

    /// Folds the samples of histograms into their buckets from time to time, so
    /// that memory stays bounded while nobody scrapes. Ends with the drain.
    pub fn keep_up(&self, lifecycle: &Lifecycle) {
        let handle = self.recorder.handle();
        let draining = lifecycle.drain_started();
        lifecycle.spawn("metrics upkeep", async move {
            tokio::pin!(draining);
            let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
            loop {
                tokio::select! {
                    () = &mut draining => return,
                    _ = interval.tick() => handle.run_upkeep(),
                }
            }
        });
    }
}

impl Default for MetricsPage {
    fn default() -> MetricsPage {
        MetricsPage::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_belong_to_the_page_they_were_made_in() {
        let (first, second) = (MetricsPage::new(), MetricsPage::new());
        let one = first.record(|| metrics::counter!("kvasir_requests_total"));
        let two = second.record(|| metrics::counter!("kvasir_requests_total"));
        one.increment(3);
        two.increment(4);
        assert!(first.render().contains("kvasir_requests_total 3"));
        assert!(second.render().contains("kvasir_requests_total 4"));
    }

    #[test]
    fn buckets_fit_the_unit() {
        let page = MetricsPage::new();
        page.record(|| {
            metrics::histogram!("kvasir_ttft_seconds").record(0.03);
            metrics::histogram!("kvasir_prompt_tokens").record(100.0);
        });
        let text = page.render();
        assert!(
            text.contains("kvasir_ttft_seconds_bucket{le=\"0.02\"} 0"),
            "{text}"
        );
        assert!(
            text.contains("kvasir_ttft_seconds_bucket{le=\"0.035\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("kvasir_prompt_tokens_bucket{le=\"64\"} 0"),
            "{text}"
        );
        assert!(
            text.contains("kvasir_prompt_tokens_bucket{le=\"128\"} 1"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn upkeep_ends_with_the_drain() {
        let (page, life) = (MetricsPage::new(), Lifecycle::new());
        page.keep_up(&life);
        tokio::time::sleep(UPKEEP_INTERVAL * 3).await;
        assert_eq!(life.finish(Duration::from_secs(1)).await, Ok(()));
    }
}
