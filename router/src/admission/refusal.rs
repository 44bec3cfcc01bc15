//! What a client is told that is not let in.

use std::time::Duration;

use proto::ErrorCode;

use super::queue::{Reason, Shed};
use crate::error::ApiError;

impl Reason {
    /// As in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::QueueFull => "queue_full",
            Reason::OverShare => "over_share",
            Reason::Displaced => "displaced",
            Reason::OutOfReach => "deadline_out_of_reach",
            Reason::DeadlinePassed => "deadline_passed",
            Reason::WaitedTooLong => "waited_too_long",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Reason::QueueFull => "the queue is full",
            Reason::OverShare => "the queue is full, mostly of this tenant's requests",
            Reason::Displaced => "its place in the queue went to a request with a better claim",
            Reason::OutOfReach => "its turn would come after its time limit",
            Reason::DeadlinePassed => "its time limit passed in the queue",
            Reason::WaitedTooLong => "no turn came within the longest wait",
        }
    }
}

impl From<Shed> for ApiError {
    /// 503 while no worker takes anything, 504 once the client's own time limit
    /// has passed, else 429.
    fn from(shed: Shed) -> ApiError {
        let why = shed.reason.words();
        let (code, message) = if shed.no_capacity {
            let message = format!("no worker has capacity now, and {why}; try again later");
            (ErrorCode::NoWorker, message)
        } else if shed.reason == Reason::DeadlinePassed {
            let message = format!("{why}; allow more time, or try again later");
            (ErrorCode::DeadlineExceeded, message)
        } else {
            let message = format!("the cluster is overloaded: {why}; try again later");
            (ErrorCode::Overloaded, message)
        };
        ApiError {
            retry_after: Some(whole_seconds(shed.retry_after)),
            ..ApiError::new(code, message)
        }
    }
}

/// Rounded up: to come a little late is no loss.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::queue::Band;

    #[test]
    fn code_tells_overload_from_lost_capacity_and_from_the_clients_own_limit() {
        let check = |reason, no_capacity, code| {
            let error = ApiError::from(Shed {
                reason,
                band: Band::Normal,
                retry_after: Duration::from_millis(1200),
                no_capacity,
            });
            assert_eq!((error.code, error.retry_after), (code, Some(2)));
        };
        check(Reason::QueueFull, false, ErrorCode::Overloaded);
        check(Reason::OutOfReach, false, ErrorCode::Overloaded);
        check(Reason::DeadlinePassed, false, ErrorCode::DeadlineExceeded);
        check(Reason::QueueFull, true, ErrorCode::NoWorker);
    }
}
