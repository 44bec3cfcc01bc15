//! A router's explanation as tables.

use std::fmt;

use serde::Deserialize;

/// What a router answers; milliseconds.
#[derive(Debug, Deserialize)]
pub(super) struct Explanation {
    decode: String,
    prefill: Option<String>,
    reason: String,
    considered: Vec<Worker>,
    /// The chosen one first.
    options: Vec<PlanOption>,
}

#[derive(Debug, Deserialize)]
struct Worker {
    worker: String,
    role: String,
    cached_tokens: u64,
    queued_tokens: u64,
    sequences: u64,
    free_blocks: u64,
}

#[derive(Debug, Deserialize)]
struct PlanOption {
    decode: String,
    prefill: Option<String>,
    cost_ms: f64,
    queue_ms: f64,
    prefill_ms: f64,
    transfer_ms: f64,
    memory_ms: f64,
    others_ms: f64,
    decode_ms: f64,
    stream_ms: f64,
    role_ms: f64,
    objectives_ms: f64,
}

const OPTIONS: [&str; 12] = [
    "decode",
    "prefill",
    "cost ms",
    "queue",
    "prefill",
    "transfer",
    "memory",
    "others",
    "decode",
    "stream",
    "role",
    "objectives",
];
const WORKERS: [&str; 6] = [
    "worker",
    "role",
    "cached tokens",
    "queued tokens",
    "sequences",
    "free blocks",
];

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.prefill {
            Some(prefill) => writeln!(
                f,
                "{prefill} would compute the prompt, {} decode",
                self.decode
            )?,
            None => writeln!(f, "{} would take it whole", self.decode)?,
        }
        writeln!(f, "{}\n", self.reason)?;
        let options = self.options.iter().map(PlanOption::row);
        write_table(f, OPTIONS, &options.collect::<Vec<_>>())?;
        writeln!(f)?;
        let workers = self.considered.iter().map(Worker::row);
        write_table(f, WORKERS, &workers.collect::<Vec<_>>())
    }
}

impl PlanOption {
    fn row(&self) -> [String; 12] {
        let ms = |value: f64| format!("{value:.3}");
        [
            self.decode.clone(),
            self.prefill.clone().unwrap_or_else(|| "-".to_owned()),
            ms(self.cost_ms),
            ms(self.queue_ms),
            ms(self.prefill_ms),
            ms(self.transfer_ms),
            ms(self.memory_ms),
            ms(self.others_ms),
            ms(self.decode_ms),
            ms(self.stream_ms),
            ms(self.role_ms),
            ms(self.objectives_ms),
        ]
    }
}

impl Worker {
    fn row(&self) -> [String; 6] {
        [
            self.worker.clone(),
            self.role.clone(),
            self.cached_tokens.to_string(),
            self.queued_tokens.to_string(),
            self.sequences.to_string(),
            self.free_blocks.to_string(),
        ]
    }
}

/// Columns as wide as they need to be: words to the left, numbers to the right.
fn write_table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    head: [&str; N],
    rows: &[[String; N]],
) -> fmt::Result {
    let head = head.map(str::to_owned);
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows
            .iter()
            .chain([&head])
            .map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    });
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            line += &match column {
                0 | 1 => format!("{cell:<width$}  "),
                _ => format!("{cell:>width$}  "),
            };
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_the_choice_and_what_it_was_among() {
        let option = |decode: &str, cost: f64| {
            json!({
                "decode": decode, "prefill": null, "cost_ms": cost, "queue_ms": 0.0,
                "prefill_ms": cost, "transfer_ms": 0.0, "memory_ms": 0.0, "others_ms": 0.0,
                "decode_ms": 0.0, "stream_ms": 0.0, "role_ms": 0.0, "objectives_ms": 0.0,
            })
        };
        let worker = |name: &str, cached: u64| {
            json!({
                "worker": name, "role": "both", "cached_tokens": cached, "queued_tokens": 0,
                "sequences": 3, "free_blocks": 900,
            })
        };
        let answer = json!({
            "decode": "b", "prefill": null, "reason": "chosen by policy cost", "prompt_tokens": 90,
            "considered": [worker("a", 0), worker("b", 64)],
            "options": [option("b", 1.5), option("a", 12.25)],
        });
        let explanation: Explanation = serde_json::from_value(answer).unwrap();
        let expected = "\
b would take it whole
chosen by policy cost

decode  prefill  cost ms  queue  prefill  transfer  memory  others  decode  stream   role  objectives
b       -          1.500  0.000    1.500     0.000   0.000   0.000   0.000   0.000  0.000       0.000
a       -         12.250  0.000   12.250     0.000   0.000   0.000   0.000   0.000  0.000       0.000

worker  role  cached tokens  queued tokens  sequences  free blocks
a       both              0              0          3          900
b       both             64              0          3          900
";
        assert_eq!(explanation.to_string(), expected);
    }
}
