//! Spans of one call and of the stages it goes through.

use tracing::{Span, info_span};

use crate::engine_thread::Stage;

/// The call's span, and within it one span for the stage it is in. A stage's
/// span lasts until the next stage or the end of the call.
pub struct StageSpans {
    call: Span,
    stage: Stage,
    span: Span,
}

impl StageSpans {
    /// The call begins in the queue.
    pub fn start(call: Span) -> StageSpans {
        StageSpans {
            stage: Stage::Queue,
            span: span_of(Stage::Queue, &call),
            call,
        }
    }

    /// Goes on to `stage`, unless it is there already.
    pub fn enter(&mut self, stage: Stage) {
        if stage == self.stage {
            return;
        }
        self.stage = stage;
        self.span = span_of(stage, &self.call);
    }

    /// The span of the stage it is in.
    pub fn stage(&self) -> &Span {
        &self.span
    }
}

fn span_of(stage: Stage, call: &Span) -> Span {
    match stage {
        Stage::Queue => info_span!(parent: call, "queue"),
        Stage::Prefill => info_span!(parent: call, "prefill"),
        Stage::Transfer => info_span!(parent: call, "transfer"),
        Stage::Decode => info_span!(parent: call, "decode"),
    }
}
