use std::time::Duration;

use super::*;
use crate::{EngineBatch, Overlaps, PrefixIndex, WorkerSlot};

const WORKER: WorkerSlot = WorkerSlot(0);

fn stored(parent: Option<u64>, hashes: &[u64], first_token: u32) -> EngineStored {
    EngineStored {
        hashes: hashes.iter().copied().map(EngineHash).collect(),
        parent: parent.map(EngineHash),
        tokens: (first_token..first_token + 4 * hashes.len() as u32).collect(),
        block_size: 4,
        ..EngineStored::default()
    }
}

fn removed(hashes: &[u64], group: Option<u32>) -> EngineEvent {
    EngineEvent::Removed {
        hashes: hashes.iter().copied().map(EngineHash).collect(),
        tier: Tier::Device,
        group,
    }
}

struct Fixture {
    blocks: EngineBlocks,
    index: PrefixIndex,
    unplaced: usize,
}

impl Fixture {
    fn new(capacity: usize) -> Fixture {
        Fixture {
            blocks: EngineBlocks::new("m", capacity),
            index: PrefixIndex::default(),
            unplaced: 0,
        }
    }

    fn tell(&mut self, event: &EngineEvent) {
        let placed = self.blocks.place(event);
        self.unplaced += placed.unplaced;
        for event in &placed.events {
            self.index.apply(WORKER, event);
        }
    }

    fn tell_stored(&mut self, stored: EngineStored) {
        self.tell(&EngineEvent::Stored(stored));
    }

    /// Blocks held of a prompt of tokens 0, 1, ...
    fn held(&self, scope: &HashScope, tokens: u32) -> u32 {
        held(&self.index, scope, &(0..tokens).collect::<Vec<_>>(), 4)
    }
}

fn held(index: &PrefixIndex, scope: &HashScope, tokens: &[u32], block_size: usize) -> u32 {
    let blocks = scope.full_blocks(tokens, block_size);
    let hashes: Vec<u64> = blocks.into_iter().map(BlockHash::short).collect();
    let found: Overlaps = index.overlaps(&hashes, Duration::ZERO);
    found.of(WORKER).map_or(0, |overlap| overlap.blocks)
}

#[test]
fn blocks_are_found_by_tokens_whatever_the_engine_calls_them() {
    let mut engine = Fixture::new(100);
    let scope = HashScope::new("m", "", 4);
    engine.tell_stored(stored(None, &[900, 901], 0));
    engine.tell_stored(stored(Some(901), &[5], 8));
    assert_eq!(engine.held(&scope, 20), 3);
    engine.tell(&removed(&[901], None));
    assert_eq!(engine.held(&scope, 20), 1);
    engine.tell_stored(stored(Some(900), &[901], 4));
    assert_eq!(engine.held(&scope, 20), 3);
    engine.tell(&EngineEvent::Cleared);
    assert_eq!((engine.held(&scope, 20), engine.blocks.len()), (0, 0));
}

#[test]
fn salts_adapters_and_pictures_keep_blocks_apart() {
    let text = |text: &str| ExtraKey::Text(text.into());
    let mut engine = Fixture::new(100);
    engine.tell_stored(EngineStored {
        extra_keys: vec![vec![text("tenant")], vec![]],
        ..stored(None, &[1, 2], 0)
    });
    engine.tell_stored(stored(Some(2), &[3], 8));
    engine.tell_stored(EngineStored {
        adapter: Some("poet".into()),
        extra_keys: vec![vec![text("poet")], vec![text("poet")]],
        ..stored(None, &[11, 12], 0)
    });
    engine.tell_stored(EngineStored {
        extra_keys: vec![vec![], vec![ExtraKey::Other(vec![1, 2])]],
        ..stored(None, &[21, 22], 0)
    });
    let held = |adapter, salt| engine.held(&HashScope::adapted("m", adapter, salt, 4), 20);
    assert_eq!(held(None, "tenant"), 3);
    assert_eq!(held(Some("poet"), ""), 2);
    assert_eq!(held(None, ""), 1);
    assert_eq!(held(Some("poet"), "tenant"), 0);
}

#[test]
fn blocks_after_one_never_seen_are_counted_not_guessed() {
    let mut engine = Fixture::new(100);
    engine.tell_stored(stored(Some(77), &[78, 79], 8));
    assert_eq!(
        (engine.unplaced, engine.blocks.len(), engine.index.len()),
        (2, 0, 0)
    );
}

#[test]
fn the_oldest_are_forgotten_here_and_in_the_index() {
    let mut engine = Fixture::new(10);
    let scope = HashScope::new("m", "", 4);
    engine.tell_stored(stored(None, &[1, 2, 3], 0));
    for chain in 0..20u64 {
        engine.tell_stored(stored(
            None,
            &[100 + chain, 200 + chain],
            1000 + chain as u32 * 8,
        ));
    }
    assert_eq!((engine.blocks.len(), engine.index.len()), (10, 10));
    assert_eq!(engine.held(&scope, 20), 0);
}

#[test]
fn a_block_leaves_tier_by_tier() {
    let mut engine = Fixture::new(10);
    let scope = HashScope::new("m", "", 4);
    engine.tell_stored(stored(None, &[1], 0));
    engine.tell_stored(EngineStored {
        tier: Tier::Host,
        ..stored(None, &[1], 0)
    });
    engine.tell(&removed(&[1], None));
    assert_eq!(engine.held(&scope, 4), 1);
    engine.tell(&EngineEvent::Removed {
        hashes: vec![EngineHash(1)],
        tier: Tier::Host,
        group: None,
    });
    assert_eq!((engine.held(&scope, 4), engine.blocks.len()), (0, 0));
}

#[test]
fn layers_that_need_no_whole_prefix_do_not_speak_for_it() {
    let mut engine = Fixture::new(10);
    let scope = HashScope::new("m", "", 4);
    let kind = |kind: &str, group| EngineStored {
        kind: Some(kind.into()),
        group: Some(group),
        ..stored(None, &[1, 2], 0)
    };
    engine.tell_stored(kind("full_attention", 0));
    engine.tell_stored(kind("sliding_window", 1));
    engine.tell(&removed(&[1, 2], Some(1)));
    assert_eq!(engine.held(&scope, 8), 2);
    engine.tell(&removed(&[2], Some(0)));
    assert_eq!(engine.held(&scope, 8), 1);
}

fn lines(path: &std::path::Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn numbers(list: &serde_json::Value) -> Vec<u32> {
    let list = list.as_array().unwrap();
    list.iter()
        .map(|number| number.as_u64().unwrap() as u32)
        .collect()
}

/// With `KVASIR_SHARED_DATA`: frames of real engines, against the tokens of the
/// requests that caused them. Each prompt's full blocks are found when it was
/// answered, under its own salt and adapter only, and removals are placed.
#[test]
fn prompts_of_real_engines_are_found() {
    let Some(data) = std::env::var_os("KVASIR_SHARED_DATA") else {
        return;
    };
    let data = std::path::PathBuf::from(data).join("vllm-kv-events");
    for engine in [
        "v0.32-sha256-int",
        "v0.32-sha256_cbor-bytes",
        "v0.23-sha256-int",
    ] {
        let frames = lines(&data.join(engine).join("frames.jsonl"));
        let mut fixture = Fixture::new(1000);
        let mut prompts = 0;
        for request in lines(&data.join(engine).join("requests.jsonl")) {
            for frame in frames
                .iter()
                .filter(|frame| frame["step"] == request["step"])
            {
                let hex = frame["parts_hex"][2].as_str().unwrap();
                let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
                let payload: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
                let batch = EngineBatch::decode(&payload).unwrap();
                assert_eq!(batch.passed_over, 0);
                batch.events.iter().for_each(|event| fixture.tell(event));
            }
            if request["prompt_token_ids"].is_null() {
                continue;
            }
            let salt = request["body"]["cache_salt"].as_str().unwrap_or_default();
            let adapter = Some("tiny-lora").filter(|name| request["body"]["model"] == *name);
            let tokens = numbers(&request["prompt_token_ids"]);
            let scope = HashScope::adapted("m", adapter, salt, 32);
            let found = held(&fixture.index, &scope, &tokens, 32);
            assert_eq!(
                found as usize,
                tokens.len() / 32,
                "{engine} {}",
                request["step"]
            );
            let foreign = HashScope::adapted("m", adapter, "another", 32);
            assert_eq!(held(&fixture.index, &foreign, &tokens, 32), 0);
            prompts += 1;
        }
        assert_eq!(fixture.unplaced, 0);
        assert!(prompts > 20, "{engine}: only {prompts} prompts");
        // The engine has 48 blocks; after the reset it holds one prompt.
        assert_eq!(fixture.index.blocks_of(WORKER), 3, "{engine}");
        assert_eq!(fixture.index.len(), fixture.blocks.len());
    }
}
