//! How workers and what befalls them are written on the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use router::plan::Role;
use runtime::config::HumanDuration;

use crate::simulate::{Fault, Profiles, WorkerSpec};

/// `N[:PROFILE[:ROLE]]`
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WorkersFlag {
    count: usize,
    profile: String,
    role: Role,
}

/// `WORKER@TIME[+TIME]`
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FaultFlag {
    pub(super) worker: usize,
    at: Duration,
    back: Option<Duration>,
}

/// `WORKERS@TIME`
#[derive(Clone, Debug, PartialEq)]
pub(super) struct JoinFlag {
    pub(super) workers: WorkersFlag,
    pub(super) at: Duration,
}

/// `80%`, or 0.8
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LoadFlag(pub(super) f64);

impl FromStr for LoadFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<LoadFlag, String> {
        let share = match text.trim().strip_suffix('%') {
            Some(percent) => percent.parse().map(|it: f64| it / 100.0),
            None => text.trim().parse(),
        };
        match share {
            Ok(share) if share > 0.0 && share <= 10.0 => Ok(LoadFlag(share)),
            _ => Err("give shares above 0 such as 50% or 0.5, separated by commas".to_owned()),
        }
    }
}

impl WorkersFlag {
    pub(super) fn specs(
        &self,
        profiles: &Profiles,
    ) -> Result<impl Iterator<Item = WorkerSpec> + use<>, String> {
        let spec = WorkerSpec {
            profile: profiles.get(&self.profile)?,
            role: self.role,
        };
        Ok(std::iter::repeat_n(spec, self.count))
    }
}

impl FaultFlag {
    pub(super) fn fail(&self) -> Fault {
        Fault::Fail {
            at: self.at,
            worker: self.worker,
            back: self.back,
        }
    }

    pub(super) fn leave(&self) -> Fault {
        Fault::Leave {
            at: self.at,
            worker: self.worker,
        }
    }
}

impl FromStr for WorkersFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<WorkersFlag, String> {
        let mut parts = text.trim().split(':');
        let count: Option<usize> = parts.next().and_then(|it| it.parse().ok());
        let profile = parts.next().unwrap_or("h100").to_owned();
        let role = match parts.next() {
            None | Some("both") => Some(Role::Both),
            Some("prefill") => Some(Role::Prefill),
            Some("decode") => Some(Role::Decode),
            Some(_) => None,
        };
        match (count, role, parts.next()) {
            (Some(count), Some(role), None) if count > 0 => Ok(WorkersFlag {
                count,
                profile,
                role,
            }),
            _ => Err(
                "write it as N, N:PROFILE or N:PROFILE:ROLE, such as 8:h100:prefill; roles: \
                      prefill, decode, both"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for WorkersFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count, self.profile)?;
        match self.role {
            Role::Both => Ok(()),
            role => write!(f, " ({})", role.as_str()),
        }
    }
}

impl FromStr for FaultFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<FaultFlag, String> {
        let parsed = text.split_once('@').and_then(|(worker, times)| {
            let (at, back) = match times.split_once('+') {
                Some((at, back)) => (at, Some(time(back)?)),
                None => (times, None),
            };
            Some(FaultFlag {
                worker: worker.parse().ok()?,
                at: time(at)?,
                back,
            })
        });
        parsed.ok_or_else(|| "write it as WORKER@TIME, such as 3@60s or 3@60s+30s".to_owned())
    }
}

impl FromStr for JoinFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<JoinFlag, String> {
        let (workers, at) = text
            .rsplit_once('@')
            .and_then(|(workers, at)| Some((workers, time(at)?)))
            .ok_or("write it as WORKERS@TIME, such as 2:h100@60s")?;
        Ok(JoinFlag {
            workers: workers.parse()?,
            at,
        })
    }
}

fn time(text: &str) -> Option<Duration> {
    text.parse().ok().map(|it: HumanDuration| it.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_documented() {
        let workers: WorkersFlag = "4:l40s:decode".parse().expect("valid");
        assert_eq!(workers.to_string(), "4 l40s (decode)");
        assert_eq!(
            "8".parse::<WorkersFlag>().expect("valid").to_string(),
            "8 h100"
        );
        for wrong in ["", "0", "x:h100", "1:h100:chief", "1:h100:both:more"] {
            assert!(wrong.parse::<WorkersFlag>().is_err(), "{wrong}");
        }
        let fault: FaultFlag = "3@60s+30s".parse().expect("valid");
        let expected = Fault::Fail {
            at: Duration::from_secs(60),
            worker: 3,
            back: Some(Duration::from_secs(30)),
        };
        assert_eq!(fault.fail(), expected);
        for wrong in ["3", "3@", "@1s", "3@1s+"] {
            assert!(wrong.parse::<FaultFlag>().is_err(), "{wrong}");
        }
        let join: JoinFlag = "2:h100@5s".parse().expect("valid");
        assert_eq!(join.at, Duration::from_secs(5));
        assert!("2:h100".parse::<JoinFlag>().is_err());
    }
}
