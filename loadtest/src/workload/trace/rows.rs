//! The formats of recorded traces, a row at a time.

use serde::Deserialize;

use super::super::error::WorkloadError;
use super::super::lines::Lines;
use super::TraceConfig;

/// Who recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TraceKind {
    /// Told by the first line
    Auto,
    /// JSON lines: timestamp (ms), input_length, output_length, hash_ids
    Mooncake,
    /// CSV of 2023 or 2024: TIMESTAMP, ContextTokens, GeneratedTokens
    Azure,
    /// CSV: Timestamp (s), Model, Request tokens, Response tokens, ...
    #[value(name = "burstgpt")]
    BurstGpt,
}

/// A row as it is in the file.
#[derive(Debug, PartialEq)]
pub(super) struct Recorded {
    /// From some beginning of time.
    pub at_nanos: i64,
    pub input: u32,
    pub output: u32,
    pub hash_ids: Vec<u64>,
}

pub(super) enum RowParser {
    Mooncake {
        /// Parsed already, to tell the kind.
        first: Option<Recorded>,
        block: u32,
    },
    Table {
        columns: Columns,
        time: fn(&str) -> Option<i64>,
        expected: &'static str,
    },
}

/// Where the columns of a CSV file are.
pub(super) struct Columns {
    at: usize,
    input: usize,
    output: usize,
}

const MOONCAKE: &str = "an object with timestamp (ms), input_length, output_length and hash_ids, \
                        one id for each block of --trace-block tokens";
const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens, as in \
                     2023-11-16 18:15:46.6805900,374,44";
const BURST_GPT: &str = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type, \
                         as in 5,ChatGPT,472,18,490,Conversation log";
const EMPTY: &str = "; expected is a Mooncake, Azure or BurstGPT trace";
const ANY: &str = "a line of a Mooncake trace, or the header of an Azure or BurstGPT trace";

impl RowParser {
    /// Reads the first line.
    pub fn new(lines: &mut Lines, config: &TraceConfig) -> Result<RowParser, WorkloadError> {
        let Some(line) = lines.next()?.map(str::to_owned) else {
            return Err(lines.empty(EMPTY));
        };
        let Some(kind) = trace_kind(config.trace_kind, &line) else {
            return Err(lines.bad("the format is not known".to_owned(), ANY));
        };
        let block = config.trace_block;
        let (names, time, expected): (_, fn(&str) -> Option<i64>, _) = match kind {
            TraceKind::Auto | TraceKind::Mooncake => {
                let first = mooncake(&line, block).map_err(|it| lines.bad(it, MOONCAKE))?;
                let first = Some(first);
                return Ok(RowParser::Mooncake { first, block });
            }
            TraceKind::Azure => (
                ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
                date_and_time,
                AZURE,
            ),
            TraceKind::BurstGpt => (
                ["Timestamp", "Request tokens", "Response tokens"],
                seconds,
                BURST_GPT,
            ),
        };
        let columns = Columns::find(&line, names).map_err(|it| lines.bad(it, expected))?;
        Ok(RowParser::Table {
            columns,
            time,
            expected,
        })
    }

    pub fn next(&mut self, lines: &mut Lines) -> Result<Option<Recorded>, WorkloadError> {
        if let RowParser::Mooncake { first, .. } = self
            && let Some(row) = first.take()
        {
            return Ok(Some(row));
        }
        let Some(line) = lines.next()? else {
            return Ok(None);
        };
        let (row, expected) = match self {
            RowParser::Mooncake { block, .. } => (mooncake(line, *block), MOONCAKE),
            RowParser::Table {
                columns,
                time,
                expected,
            } => (columns.row(line, *time), *expected),
        };
        row.map(Some).map_err(|reason| lines.bad(reason, expected))
    }
}

/// The kind that is asked for, or that the first line tells.
fn trace_kind(asked: TraceKind, line: &str) -> Option<TraceKind> {
    match asked {
        TraceKind::Auto if line.starts_with('{') => Some(TraceKind::Mooncake),
        TraceKind::Auto if line.contains("ContextTokens") => Some(TraceKind::Azure),
        TraceKind::Auto if line.contains("Request tokens") => Some(TraceKind::BurstGpt),
        TraceKind::Auto => None,
        kind => Some(kind),
    }
}

fn mooncake(line: &str, block: u32) -> Result<Recorded, String> {
    #[derive(Deserialize)]
    struct Line {
        timestamp: f64,
        input_length: u32,
        output_length: u32,
        #[serde(default)]
        hash_ids: Vec<u64>,
    }
    let line: Line = serde_json::from_str(line).map_err(|error| {
        let text = error.to_string();
        // The line within the line is always 1.
        text.replace(" at line 1 column ", " at column ")
    })?;
    if !line.timestamp.is_finite() || line.timestamp < 0.0 {
        return Err("timestamp is below 0".to_owned());
    }
    let (blocks, needed) = (
        line.hash_ids.len(),
        line.input_length.div_ceil(block) as usize,
    );
    if blocks != 0 && blocks != needed {
        return Err(format!(
            "there are {blocks} hash_ids, but {} tokens are {needed} blocks of {block} \
             (--trace-block)",
            line.input_length
        ));
    }
    Ok(Recorded {
        at_nanos: (line.timestamp * 1e6) as i64,
        input: line.input_length,
        output: line.output_length,
        hash_ids: line.hash_ids,
    })
}

impl Columns {
    fn find(header: &str, [at, input, output]: [&str; 3]) -> Result<Columns, String> {
        let names: Vec<&str> = header.split(',').map(str::trim).collect();
        let find = |name: &str| {
            let found = names.iter().position(|it| it.eq_ignore_ascii_case(name));
            found.ok_or_else(|| format!("the header has no column {name}"))
        };
        Ok(Columns {
            at: find(at)?,
            input: find(input)?,
            output: find(output)?,
        })
    }

    fn row(&self, line: &str, time: fn(&str) -> Option<i64>) -> Result<Recorded, String> {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let cell = |at: usize| {
            let missing = || format!("there are only {} columns", cells.len());
            cells.get(at).copied().ok_or_else(missing)
        };
        let tokens = |at: usize| {
            let text = cell(at)?;
            let whole = text.strip_suffix(".0").unwrap_or(text).parse();
            whole.map_err(|_| format!("{text:?} is no number of tokens"))
        };
        let at = cell(self.at)?;
        Ok(Recorded {
            at_nanos: time(at).ok_or_else(|| format!("{at:?} is no time"))?,
            input: tokens(self.input)?,
            output: tokens(self.output)?,
            hash_ids: Vec::new(),
        })
    }
}

fn seconds(text: &str) -> Option<i64> {
    let seconds: f64 = text.parse().ok()?;
    (seconds.is_finite() && seconds >= 0.0).then_some((seconds * 1e9) as i64)
}

/// Nanoseconds since 1970 of `2023-11-16 18:15:46.6805900`, perhaps with `T`
/// between and `Z` or an offset such as `+00:00` after it.
fn date_and_time(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-').map(|it| it.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    if !(1970..=2200).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let end = rest.find(['+', '-', 'Z']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(end);
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut whole = whole.splitn(3, ':').map(|it| it.parse::<u32>().ok());
    let (hour, minute, second) = (whole.next()??, whole.next()??, whole.next()??);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400
        + i64::from(hour * 3600 + minute * 60 + second)
        - offset_seconds(zone)?;
    Some(seconds * 1_000_000_000 + nanos(fraction)?)
}

/// Of the digits after the point; those beyond nanoseconds are left out.
fn nanos(fraction: &str) -> Option<i64> {
    if !fraction.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    Some(digits.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
}

fn offset_seconds(zone: &str) -> Option<i64> {
    let sign = match zone.chars().next() {
        None | Some('Z') => return Some(0),
        Some('-') => -1,
        Some(_) => 1,
    };
    let (hours, minutes) = zone[1..].split_once(':').unwrap_or((&zone[1..], "0"));
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then(|| sign * i64::from(hours * 3600 + minutes * 60))
}

/// Howard Hinnant's `days_from_civil`, for years after 0.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let year_of_era = year % 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    year / 400 * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests;
