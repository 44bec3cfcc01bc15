//! What a long prompt does to streams: their gaps while nothing else happens,
//! and those that overlap its computation.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::gaps::Spread;
use super::scene::{self, Turn};
use crate::bar::{self, Bar, median, short};
use crate::part::Binary;
use crate::{cargo, tools};

pub const USAGE: &str = "cargo xtask engine stalls --model FILE [--threads N] \
     [--target-step DURATION|auto|off]... [--rounds 3] [--binary FILE] [--realtime]";

/// The p99 of gaps beside the prompt, as a multiple of the p99 alone.
const AT_MOST: f64 = 2.0;

#[derive(Debug)]
struct Plan {
    binary: PathBuf,
    realtime: bool,
    model: String,
    /// Flags of the cluster.
    threads: Option<String>,
    target_steps: Vec<String>,
    rounds: usize,
}

pub fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut plan = Plan::read(arguments)?;
    if plan.binary.as_os_str().is_empty() {
        tools::compiler()?;
        cargo(&["build", "--release", "--package", "kvasir"])?;
        plan.binary = tools::target_dir().join("release/kvasir");
    }
    let mut turns: Vec<Vec<Turn>> = plan.target_steps.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.rounds {
        for (target_step, turns) in plan.target_steps.iter().zip(&mut turns) {
            let turn = plan.turn(target_step, round as u64)?;
            println!(
                "round {} of {}, --target-step {target_step}: {}",
                round + 1,
                plan.rounds,
                turn.shown()
            );
            turns.push(turn);
        }
    }
    let bars = plan.target_steps.iter().zip(&turns);
    let bars: Vec<Bar> = bars.map(|(step, turns)| held(step, turns)).collect();
    print!("\n{}", bar::table(&bars));
    let missed = bars.iter().filter(|it| !it.holds()).count();
    ensure!(missed == 0, "{missed} of {} bars do not hold", bars.len());
    Ok(())
}

impl Plan {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Plan> {
        let mut plan = Plan {
            binary: PathBuf::new(),
            realtime: false,
            model: String::new(),
            threads: None,
            target_steps: Vec::new(),
            rounds: 3,
        };
        while let Some(flag) = arguments.next() {
            let mut value = || {
                let value = arguments.next();
                value.with_context(|| format!("{flag} needs a value"))
            };
            match flag.as_str() {
                "--realtime" => plan.realtime = true,
                "--binary" => plan.binary = value()?.into(),
                "--model" => plan.model = value()?,
                "--threads" => plan.threads = Some(value()?),
                "--target-step" => plan.target_steps.push(value()?),
                "--rounds" => plan.rounds = value()?.parse().context("--rounds is no number")?,
                other => bail!("{other:?} is unknown; usage: {USAGE}"),
            }
        }
        ensure!(!plan.model.is_empty(), "no --model; usage: {USAGE}");
        ensure!(plan.rounds > 0, "--rounds must be at least 1");
        if plan.target_steps.is_empty() {
            plan.target_steps.push("auto".to_owned());
        }
        Ok(plan)
    }

    /// `round` makes the prompts.
    fn turn(&self, target_step: &str, round: u64) -> Result<Turn> {
        let binary = Binary {
            path: self.binary.clone(),
            realtime: self.realtime,
        };
        let blocks = scene::kv_blocks().to_string();
        let mut flags = vec!["up", "--port=0", "--workers=1", "--model", &self.model];
        flags.extend(["--served-model-name", scene::MODEL, "--kv-blocks", &blocks]);
        flags.extend(["--target-step", target_step]);
        flags.extend(self.threads.iter().flat_map(|it| ["--threads", it]));
        let cluster = binary.start(&flags)?;
        scene::play(cluster.address()?, round)
    }
}

impl Turn {
    fn ratio(&self) -> f64 {
        self.beside.p99 / self.alone.p99
    }

    fn shown(&self) -> String {
        format!(
            "gaps of {} alone, {} beside the prompt, {:.2} times at p99; the prompt's first token \
             after {:.2} s",
            spread(self.alone),
            spread(self.beside),
            self.ratio(),
            self.ttft.as_secs_f64()
        )
    }
}

fn spread(Spread { p50, p99, max }: Spread) -> String {
    format!("{}/{}/{} ms", short(p50), short(p99), short(max))
}

/// The median round, held against the bar.
fn held(target_step: &str, turns: &[Turn]) -> Bar {
    let all = |of: fn(&Turn) -> f64| turns.iter().map(of).collect::<Vec<_>>();
    let middle = |of: fn(&Turn) -> Spread| {
        let each = |of_spread: fn(Spread) -> f64| {
            median(turns.iter().map(|it| of_spread(of(it))).collect())
        };
        spread(Spread {
            p50: each(|it| it.p50),
            p99: each(|it| it.p99),
            max: each(|it| it.max),
        })
    };
    let ratios = all(Turn::ratio);
    let (low, high) = ratios
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(low, high), it| {
            (low.min(*it), high.max(*it))
        });
    Bar {
        what: format!(
            "p99 of the gaps of {} streams while a prompt of {} tokens is computed, \
             --target-step {target_step}",
            scene::STREAMS,
            scene::PROMPT
        ),
        measured: median(ratios),
        at_most: AT_MOST,
        unit: "times alone",
        note: format!(
            "{low:.2} to {high:.2} in {} rounds; p50/p99/max {} alone, {} beside it; its first \
             token after {:.2} s",
            turns.len(),
            middle(|it| it.alone),
            middle(|it| it.beside),
            median(all(|it| it.ttft.as_secs_f64()))
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(words: &str) -> Result<Plan> {
        Plan::read(words.split_whitespace().map(str::to_owned))
    }

    fn turn(alone: f64, beside: f64) -> Turn {
        let spread = |p99| Spread {
            p50: p99 / 2.0,
            p99,
            max: p99 * 2.0,
        };
        Turn {
            alone: spread(alone),
            beside: spread(beside),
            ttft: Duration::from_secs(3),
        }
    }

    #[test]
    fn target_steps_are_gathered_and_auto_is_the_one_by_default() {
        assert_eq!(read("--model m").unwrap().target_steps, ["auto"]);
        let plan = read("--target-step off --model m --threads 2 --target-step 50ms").unwrap();
        assert_eq!(plan.target_steps, ["off", "50ms"]);
        assert_eq!(plan.threads.as_deref(), Some("2"));
    }

    #[test]
    fn what_is_unknown_or_incomplete_is_refused() {
        for words in ["", "--model", "--model m --rounds 0", "--model m --batch 8"] {
            assert!(read(words).is_err(), "{words}");
        }
    }

    #[test]
    fn the_median_round_is_held_against_twice_the_gaps_alone() {
        let rounds = [turn(10.0, 15.0), turn(10.0, 19.0), turn(10.0, 90.0)];
        let bar = held("auto", &rounds);
        assert!(bar.holds());
        assert!((bar.measured - 1.9).abs() < 1e-9, "{}", bar.measured);
        assert!(
            bar.note.contains("1.50 to 9.00 in 3 rounds"),
            "{}",
            bar.note
        );
        assert!(
            bar.note.contains("9.50/19.0/38.0 ms beside"),
            "{}",
            bar.note
        );
        assert!(!held("auto", &[turn(10.0, 20.1)]).holds());
    }
}
