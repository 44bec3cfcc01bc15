//! How a step's target time is written.

use std::str::FromStr;

use engine::TargetStep;
use runtime::config::{HumanDuration, ValueError};

/// `auto`, `off` or a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target(pub TargetStep);

impl FromStr for Target {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Target, ValueError> {
        Ok(Target(match text {
            "auto" => TargetStep::Auto,
            "off" => TargetStep::Off,
            time => TargetStep::Time(time.parse::<HumanDuration>()?.0),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_target_is_auto_off_or_a_time() {
        let parsed = |text: &str| text.parse::<Target>().map(|it| it.0);
        assert_eq!(parsed("auto"), Ok(TargetStep::Auto));
        assert_eq!(parsed("off"), Ok(TargetStep::Off));
        let time = TargetStep::Time(Duration::from_millis(50));
        assert_eq!(parsed("50ms"), Ok(time));
        assert_eq!(parsed("fast"), Err(ValueError::Duration));
    }
}
