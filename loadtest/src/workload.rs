//! Workloads: what is sent, from flags to planned requests.
//!
//! Lengths that are drawn, prefixes that are shared, conversations that grow, a
//! file of prompts, or a recorded trace. Deterministic by seed; prompts are made
//! when they are asked for, of an exact number of tokens where that can be
//! known, and a workload says what of it is not exact.

mod distribution;
mod error;
mod file;
mod labels;
mod lines;
mod prompt;
mod seed;
mod synthetic;
pub mod trace;

use std::ops::Range;
use std::str::FromStr;

use clap::Args;
use runtime::config::Check;
use tokenizers::Tokenizer;

use crate::planned::Workload;
pub use distribution::{DistributionError, Length, Time};
pub use error::WorkloadError;
pub use file::FileConfig;
pub use labels::{LabelConfig, Priorities, Tenants};
pub use prompt::{Format, PromptMaker, Segment};
pub use synthetic::SyntheticConfig;
pub use trace::TraceConfig;

/// What is sent.
#[derive(Clone, Debug, Args)]
#[group(skip)]
#[command(next_help_heading = "Prompts")]
pub struct WorkloadConfig {
    /// The model's tokenizer.json, or the folder it is in: makes texts of an
    /// exact number of tokens
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<String>,

    /// What prompts are sent as
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "auto")]
    pub prompt_format: Format,

    /// Token ids to draw prompts from, the last not included; they must be no
    /// special tokens. Otherwise all that --tokenizer has but special ones, or
    /// without it 300..1000, which is plain text in almost every vocabulary
    #[arg(long, value_name = "FROM..TO")]
    pub token_ids: Option<IdRange>,

    /// Whether answers run to their full length
    #[arg(long, value_name = "WHAT", value_enum, default_value = "auto")]
    pub eos: Eos,

    #[command(flatten)]
    pub synthetic: SyntheticConfig,

    #[command(flatten)]
    pub file: FileConfig,

    #[command(flatten)]
    pub trace: TraceConfig,

    #[command(flatten)]
    pub labels: LabelConfig,
}

/// Token ids, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdRange(Range<u32>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Eos {
    /// Ignored, but not with --prompts
    Auto,
    /// Ask for exactly so many tokens (ignore_eos and min_tokens, which vLLM,
    /// SGLang and Kvasir know); another number is counted as wrong
    Ignore,
    /// The model may end an answer sooner
    Allow,
}

const DEFAULT_IDS: Range<u32> = 300..1000;

/// Reads what the workload needs and checks that its prompts can be made.
pub fn build(config: &WorkloadConfig, seed: u64) -> Result<Box<dyn Workload>, WorkloadError> {
    let inner = without_labels(config, seed)?;
    if config.labels.is_empty() {
        return Ok(inner);
    }
    let labels = config.labels.clone();
    Ok(Box::new(labels::Labelled {
        inner,
        labels,
        seed,
    }))
}

fn without_labels(config: &WorkloadConfig, seed: u64) -> Result<Box<dyn Workload>, WorkloadError> {
    let maker = config.maker()?;
    let exact = config.has_exact_output();
    if let Some(path) = &config.trace.trace {
        let trace = trace::Trace::read(path, &config.trace)?;
        let replay = trace::Replay::new(trace, maker, &config.trace)
            .with_seed(seed)
            .with_exact_output(exact);
        return Ok(Box::new(replay));
    }
    let synthetic = &config.synthetic;
    if let Some(path) = &config.file.prompts {
        let defaults = file::Defaults {
            output_tokens: synthetic.output_tokens.clone(),
            turns: synthetic.turns.clone(),
            think_time: synthetic.think_time.clone(),
            exact,
            is_repeated: config.file.repeat_prompts,
            seed,
        };
        return Ok(Box::new(file::FilePrompts::read(path, maker, defaults)?));
    }
    let workload = synthetic::Synthetic::new(synthetic, maker, exact, seed);
    Ok(Box::new(workload))
}

impl WorkloadConfig {
    /// Whether requests have recorded times.
    pub fn is_recorded(&self) -> bool {
        self.trace.trace.is_some()
    }

    /// Whether prompts are sent as token ids.
    pub fn is_of_tokens(&self) -> bool {
        self.format() == Format::Tokens
    }

    fn has_exact_output(&self) -> bool {
        match self.eos {
            Eos::Auto => self.file.prompts.is_none(),
            Eos::Ignore => true,
            Eos::Allow => false,
        }
    }

    /// `Auto` resolved.
    fn format(&self) -> Format {
        match self.prompt_format {
            Format::Auto if self.file.prompts.is_some() => Format::Text,
            Format::Auto if self.synthetic.is_conversation() => Format::Chat,
            Format::Auto if self.tokenizer.is_some() => Format::Text,
            Format::Auto => Format::Tokens,
            format => format,
        }
    }

    fn maker(&self) -> Result<PromptMaker, WorkloadError> {
        let path = self.tokenizer.as_deref();
        let tokenizer = path.map(prompt::load_tokenizer).transpose()?;
        let format = self.format();
        let vocabulary = match (format, tokenizer) {
            (Format::Tokens, tokenizer) => prompt::Vocabulary::Ids(self.ids(tokenizer.as_ref())?),
            (_, None) => prompt::Vocabulary::Words,
            (_, Some(tokenizer)) => {
                let words = prompt::EncodedWords::new(tokenizer);
                let words = words.map_err(|reason| WorkloadError::Tokenizer {
                    path: path.unwrap_or_default().to_owned(),
                    reason,
                })?;
                prompt::Vocabulary::Encoded(words)
            }
        };
        Ok(PromptMaker::new(vocabulary, format == Format::Chat))
    }

    fn ids(&self, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>, WorkloadError> {
        let asked = self.token_ids.as_ref().map(|it| it.0.clone());
        let Some(tokenizer) = tokenizer else {
            return Ok(asked.unwrap_or(DEFAULT_IDS).collect());
        };
        let mut ids = prompt::plain_ids(tokenizer);
        ids.retain(|id| asked.as_ref().is_none_or(|asked| asked.contains(id)));
        if ids.is_empty() {
            return Err(WorkloadError::Invalid(
                "--token-ids has no id that is in --tokenizer and not special".to_owned(),
            ));
        }
        Ok(ids)
    }
}

impl Check for WorkloadConfig {
    fn check(&self, mistakes: &mut Vec<String>) {
        self.synthetic.check(mistakes);
        self.trace.check(mistakes);
        let is_file = self.file.prompts.is_some();
        let is_conversation = self.synthetic.is_conversation();
        let is_plain = matches!(self.prompt_format, Format::Text | Format::Tokens);
        let rules = [
            (
                is_file && self.is_recorded(),
                "--prompts and --trace exclude each other",
            ),
            (
                is_conversation && self.is_recorded(),
                "--turns has no meaning with --trace",
            ),
            (
                self.synthetic.prefix_groups > 0 && (is_file || self.is_recorded()),
                "--prefix-groups has no meaning with --prompts or --trace",
            ),
            (
                is_conversation && is_plain,
                "--turns above 1 needs --prompt-format chat, as answers become part of prompts",
            ),
            (
                is_file && self.prompt_format == Format::Tokens,
                "--prompt-format tokens has no meaning with --prompts, which has texts; put \
                 token ids into the file",
            ),
            (
                self.token_ids.is_some() && self.format() != Format::Tokens,
                "--token-ids needs --prompt-format tokens",
            ),
            (
                self.file.repeat_prompts && !is_file,
                "--repeat-prompts needs --prompts",
            ),
        ];
        let broken = rules.into_iter().filter(|(is_broken, _)| *is_broken);
        mistakes.extend(broken.map(|(_, mistake)| mistake.to_owned()));
    }
}

impl FromStr for IdRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<IdRange, &'static str> {
        let ids = text.split_once("..").and_then(|(from, to)| {
            let range = from.trim().parse().ok()?..to.trim().parse().ok()?;
            (!range.is_empty()).then_some(IdRange(range))
        });
        ids.ok_or("allowed is FROM..TO, such as 1000..30000, with FROM below TO")
    }
}

#[cfg(test)]
mod tests;
