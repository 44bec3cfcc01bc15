//! Metrics of what texts must obey.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

/// Handles of all grammars.
#[derive(Clone)]
pub struct GrammarMetrics {
    compile: Histogram,
    compiled: Counter,
    kept: Counter,
    refused: Counter,
    violations: Counter,
}

impl GrammarMetrics {
    pub(super) fn new() -> GrammarMetrics {
        describe();
        let asked = |outcome: &'static str| counter!("kvasir_grammars_total", "outcome" => outcome);
        GrammarMetrics {
            compile: histogram!("kvasir_grammar_compile_seconds"),
            compiled: asked("compiled"),
            kept: asked("kept"),
            refused: asked("refused"),
            violations: counter!("kvasir_constraint_violations_total"),
        }
    }

    /// The compiler was done after `time`, with a grammar or a refusal.
    pub fn record_compile(&self, time: Duration, is_compiled: bool) {
        self.compile.record(time.as_secs_f64());
        if is_compiled {
            self.compiled.increment(1);
        }
    }

    /// A grammar was compiled before.
    pub fn count_kept(&self) {
        self.kept.increment(1);
    }

    pub fn count_refused(&self) {
        self.refused.increment(1);
    }

    /// A sequence could not go on, as its constraint left it no way.
    pub fn count_violation(&self) {
        self.violations.increment(1);
    }
}

fn describe() {
    metrics::describe_counter!(
        "kvasir_grammars_total",
        "Constraints of requests: compiled, kept from an earlier request, or refused."
    );
    metrics::describe_histogram!(
        "kvasir_grammar_compile_seconds",
        "Time to compile a constraint's grammar, refused ones too."
    );
    metrics::describe_counter!(
        "kvasir_constraint_violations_total",
        "Sequences that ended with an error, as their constraint left no token to go on with."
    );
}
