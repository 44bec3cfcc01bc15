//! One start of a cluster: streams alone, and then the prompt beside them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::gaps::{Gap, Spread};
use super::stream::{Said, Streams};
use crate::text::Text;

/// What the model must be served as.
pub const MODEL: &str = "stalls";

pub const STREAMS: usize = 8;
const STREAM_PROMPT: usize = 64;
/// At most: they are hung up when all is measured.
const STREAM_TOKENS: usize = 3000;

/// Of each stream, before any are counted.
const SETTLED: usize = 16;
/// Of each stream, before the prompt comes.
const ALONE: usize = 200;

pub const PROMPT: usize = 4096;
/// Before all else, so that the worker knows how fast it is.
const WARM_UP_PROMPT: usize = 512;

const BLOCK: usize = 16;

const TOO_SHORT: &str = "a stream ended before the prompt was computed: raise STREAM_TOKENS";

pub struct Turn {
    pub alone: Spread,
    /// Of all gaps that overlap the prompt's computation.
    pub beside: Spread,
    /// Of the prompt.
    pub ttft: Duration,
}

/// Streams, and all their tokens.
struct Scene {
    streams: Streams,
    text: Text,
    /// By stream.
    arrivals: Vec<Vec<Instant>>,
    /// Prompt tokens, and those that were cached, of who told last.
    usage: Option<(u64, u64)>,
}

/// What the cluster needs so that all fits and nothing is evicted.
pub fn kv_blocks() -> usize {
    let stream = STREAM_PROMPT + STREAM_TOKENS;
    // Each may have a block that is not full.
    let partial = (STREAMS + 2) * BLOCK;
    (WARM_UP_PROMPT + SETTLED + STREAMS * stream + PROMPT + partial).div_ceil(BLOCK)
}

/// `seed` makes the prompts.
pub fn play(server: SocketAddr, seed: u64) -> Result<Turn> {
    let mut scene = Scene {
        streams: Streams::new(server, MODEL),
        text: Text::new(seed),
        arrivals: Vec::new(),
        usage: None,
    };
    let (warm_up, _) = scene.open(WARM_UP_PROMPT, SETTLED)?;
    scene.until_ended(warm_up)?;
    let (running, settled) = scene.alone()?;
    let (sent, computed) = scene.beside(&running)?;

    let gaps = || running.iter().flat_map(|stream| scene.gaps(*stream));
    let alone = Spread::of(gaps().filter(|gap| gap.is_within(settled, sent)));
    let beside = Spread::of(gaps().filter(|gap| gap.overlaps(sent, computed)));
    Ok(Turn {
        alone: alone.context("no gaps before the prompt")?,
        beside: beside.context("no gaps beside the prompt")?,
        ttft: computed - sent,
    })
}

impl Scene {
    /// Opens the streams; they, and from when on they ran alone.
    fn alone(&mut self) -> Result<(Vec<usize>, Instant)> {
        let mut running = Vec::with_capacity(STREAMS);
        for _ in 0..STREAMS {
            running.push(self.open(STREAM_PROMPT, STREAM_TOKENS)?.0);
        }
        self.until_each(&running, |it| it.len() >= SETTLED)?;
        let settled = Instant::now();
        let since = |it: &[Instant]| it.len() - it.partition_point(|at| *at < settled);
        self.until_each(&running, |it| since(it) > ALONE)?;
        Ok((running, settled))
    }

    /// Sends the prompt beside `running`; when it was sent and its first token came.
    fn beside(&mut self, running: &[usize]) -> Result<(Instant, Instant)> {
        let (prompt, sent) = self.open(PROMPT, 1)?;
        self.until_ended(prompt)?;
        let expected = Some((PROMPT as u64, 0));
        ensure!(
            self.usage == expected,
            "prompt tokens and those cached were {:?}, not {expected:?}",
            self.usage
        );
        let computed = *self.arrivals[prompt].first().context("no first token")?;
        // So that the gaps in which it ended are whole.
        self.until_each(running, |it| it.last().is_some_and(|at| *at > computed))?;
        Ok((sent, computed))
    }

    fn open(&mut self, prompt: usize, tokens: usize) -> Result<(usize, Instant)> {
        self.arrivals.push(Vec::new());
        self.streams.open(&self.text.tokens(prompt), tokens)
    }

    /// Reads until what came of each of `streams` is `enough`.
    fn until_each(&mut self, streams: &[usize], enough: impl Fn(&[Instant]) -> bool) -> Result<()> {
        while !streams.iter().all(|it| enough(&self.arrivals[*it])) {
            if self.step()?.is_some() {
                bail!("{TOO_SHORT}");
            }
        }
        Ok(())
    }

    fn until_ended(&mut self, stream: usize) -> Result<()> {
        loop {
            match self.step()? {
                None => {}
                Some(ended) if ended == stream => return Ok(()),
                Some(_) => bail!("{TOO_SHORT}"),
            }
        }
    }

    /// Reads on; the stream that ended by it, if one did.
    fn step(&mut self) -> Result<Option<usize>> {
        let event = self.streams.next()?;
        match event.said {
            // However many: they came together.
            Said::Tokens(_) => self.arrivals[event.stream].push(event.at),
            Said::Usage { prompt, cached } => self.usage = Some((prompt, cached)),
            Said::Done => return Ok(Some(event.stream)),
            Said::Failed(why) => bail!("stream {}: {why}", event.stream),
        }
        Ok(None)
    }

    fn gaps(&self, stream: usize) -> impl Iterator<Item = Gap> {
        let pairs = self.arrivals[stream].windows(2);
        pairs.map(|pair| Gap {
            from: pair[0],
            to: pair[1],
        })
    }
}
