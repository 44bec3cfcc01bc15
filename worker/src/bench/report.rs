//! Figures of all rounds, as JSON and as a table.

use std::collections::BTreeMap;
use std::fmt;

use models::{Limits, Operation};
use serde::Serialize;

use super::measure::Sample;
use super::{Phase, Round};

/// What was measured, and on what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub model: String,
    pub machine: Machine,
    pub loading: Loading,
    pub memory: Memory,
    pub limits: MeasuredLimits,
    /// By phase, as `decode_8` and `prefill_512`.
    pub phases: Vec<Figures>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cpus: usize,
    pub isa: String,
    pub threads: usize,
}

/// How long the model took to be ready, its files being there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Loading {
    pub seconds: f64,
    /// Of these, to bring weights into the form that the processor multiplies.
    pub packing_seconds: f64,
}

/// In bytes; peaks are of the whole process with the files it maps, and missing
/// where the system does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    pub weights: u64,
    pub kv: u64,
    pub peak_loading: Option<u64>,
    /// While phases ran.
    pub peak_running: Option<u64>,
}

/// What is measured, before it runs.
pub(super) struct Subject {
    pub(super) model: String,
    pub(super) machine: Machine,
    pub(super) loading: Loading,
    pub(super) memory: Memory,
}

/// Medians of the rounds; per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MeasuredLimits {
    pub read_bytes_one_thread: f64,
    pub read_bytes: f64,
    /// Multiplications, each with an addition, of the instruction set.
    pub f32: f64,
    pub bf16: f64,
    pub bytes: f64,
}

/// A phase: medians of the rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    pub phase: String,
    pub tokens_per_second: f64,
    /// Each round's.
    pub rounds: Vec<f64>,
    /// Bytes of weights that are read, per second.
    pub weight_bytes_per_second: f64,
    /// Those, of the bytes that can be read.
    pub read_share: f64,
    /// Time that the multiplications with weights take at the limit, of the
    /// time that all took.
    pub multiply_share: f64,
    /// Shares of the time, which together are 1.
    pub operations: BTreeMap<&'static str, f64>,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Decode(batch) => write!(f, "decode_{batch}"),
            Phase::Prefill(len) => write!(f, "prefill_{len}"),
        }
    }
}

impl Machine {
    /// This one, as Linux describes it.
    pub(super) fn this(isa: String, threads: usize) -> Machine {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find(|line| line.starts_with("model name"));
        let processor = model.and_then(|line| Some(line.split_once(':')?.1.trim()));
        Machine {
            processor: processor.unwrap_or("unknown processor").to_owned(),
            cpus: crate::model::all_cpus(),
            isa,
            threads,
        }
    }
}

impl Report {
    pub(super) fn new(subject: Subject, phases: &[Phase], rounds: &[Round]) -> Report {
        let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
        let phases = phases.iter().enumerate().map(|(index, phase)| {
            let samples: Vec<_> = rounds
                .iter()
                .map(|round| (&round.samples[index], &round.all))
                .collect();
            Figures::new(phase.to_string(), &samples)
        });
        Report {
            model: subject.model,
            machine: subject.machine,
            loading: subject.loading,
            memory: subject.memory,
            limits: MeasuredLimits {
                read_bytes_one_thread: of(|round| round.alone.read_bytes),
                read_bytes: of(|round| round.all.read_bytes),
                f32: of(|round| round.all.f32),
                bf16: of(|round| round.all.bf16),
                bytes: of(|round| round.all.bytes),
            },
            phases: phases.collect(),
        }
    }
}

impl Figures {
    fn new(phase: String, samples: &[(&Sample, &Limits)]) -> Figures {
        let of = |value: fn(&Sample, &Limits) -> f64| {
            median(samples.iter().map(|(sample, limits)| value(sample, limits)))
        };
        let speed = |sample: &Sample, _: &Limits| sample.tokens as f64 / sample.seconds;
        Figures {
            phase,
            tokens_per_second: of(speed),
            rounds: samples
                .iter()
                .map(|(it, limits)| speed(it, limits))
                .collect(),
            weight_bytes_per_second: of(|it, _| it.usage.weight_bytes as f64 / it.seconds),
            read_share: of(|it, limits| {
                it.usage.weight_bytes as f64 / it.seconds / limits.read_bytes
            }),
            multiply_share: of(|it, limits| {
                let usage = &it.usage;
                let least = usage.f32 as f64 / limits.f32
                    + usage.bf16 as f64 / limits.bf16
                    + usage.bytes as f64 / limits.bytes;
                least / it.seconds
            }),
            operations: shares(samples.iter().map(|(sample, _)| *sample)),
        }
    }
}

/// Of the time of all samples together.
fn shares<'a>(samples: impl Iterator<Item = &'a Sample>) -> BTreeMap<&'static str, f64> {
    let mut seconds: BTreeMap<&'static str, f64> = BTreeMap::new();
    let mut all = 0.0;
    for sample in samples {
        let mut rest = sample.seconds - sample.sampling;
        for (&operation, time) in &sample.usage.times {
            *seconds.entry(operation.name()).or_default() += time.as_secs_f64();
            rest -= time.as_secs_f64();
        }
        *seconds.entry(SAMPLING).or_default() += sample.sampling;
        *seconds.entry(REST).or_default() += rest;
        all += sample.seconds;
    }
    seconds.values_mut().for_each(|value| *value /= all);
    seconds
}

const SAMPLING: &str = "sampling";
const REST: &str = "the rest";

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// Tables in Markdown.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (machine, limits) = (&self.machine, &self.limits);
        let rounds = self.phases.first().map_or(0, |phase| phase.rounds.len());
        writeln!(
            f,
            "{} on {} ({} CPUs): {} threads, {}, medians of {rounds} rounds.",
            self.model, machine.processor, machine.cpus, machine.threads, machine.isa
        )?;
        writeln!(
            f,
            "Limits: reads {:.1} GB/s ({:.1} on one thread), 10^9 multiplications/s: f32 {:.0}, \
             bf16 {:.0}, bytes {:.0}.",
            limits.read_bytes / 1e9,
            limits.read_bytes_one_thread / 1e9,
            limits.f32 / 1e9,
            limits.bf16 / 1e9,
            limits.bytes / 1e9
        )?;
        writeln!(f, "{}\n{}\n", self.loading, self.memory)?;
        self.row(f, "", |phase| phase.phase.replace('_', " "))?;
        self.row(f, "---", |_| "---:".to_owned())?;
        self.row(f, "tokens/s", |phase| {
            format!("{:.1}", phase.tokens_per_second)
        })?;
        self.row(f, "lowest to highest", |phase| {
            let lowest = phase.rounds.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = phase.rounds.iter().copied().fold(0.0, f64::max);
            format!("{lowest:.1} to {highest:.1}")
        })?;
        self.row(f, "weights read, GB/s", |phase| {
            format!("{:.1}", phase.weight_bytes_per_second / 1e9)
        })?;
        self.row(f, "of read bandwidth", |phase| percent(phase.read_share))?;
        self.row(f, "of multipliers", |phase| percent(phase.multiply_share))?;
        for name in self.operations() {
            self.row(f, name, |phase| {
                percent(phase.operations.get(name).copied().unwrap_or(0.0))
            })?;
        }
        Ok(())
    }
}

impl fmt::Display for Loading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, packing) = (self.seconds, self.packing_seconds);
        write!(
            f,
            "Ready after {all:.2} s, of which {packing:.2} s packing weights."
        )
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let (weights, kv) = (megabytes(self.weights), megabytes(self.kv));
        write!(f, "Memory: weights {weights:.0} MB, KV {kv:.0} MB")?;
        let peaks = [
            ("loading", self.peak_loading),
            ("running", self.peak_running),
        ];
        for (when, peak) in peaks {
            if let Some(peak) = peak.map(megabytes) {
                let more = peak - weights - kv;
                write!(f, "; at most {peak:.0} MB {when}, {more:+.0} MB")?;
            }
        }
        f.write_str(".")
    }
}

impl Report {
    fn row(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &str,
        cell: impl Fn(&Figures) -> String,
    ) -> fmt::Result {
        let cells: Vec<_> = self.phases.iter().map(cell).collect();
        writeln!(f, "| {name} | {} |", cells.join(" | "))
    }

    /// In the order of a step.
    fn operations(&self) -> Vec<&'static str> {
        let there = |name: &&str| {
            let mut phases = self.phases.iter();
            phases.any(|phase| phase.operations.contains_key(name))
        };
        let names = Operation::ALL.iter().map(|operation| operation.name());
        names.chain([SAMPLING, REST]).filter(there).collect()
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}
