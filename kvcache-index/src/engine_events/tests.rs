use rmpv::Value;
use rmpv::Value::Nil;

use super::*;

fn text(text: &str) -> Value {
    Value::from(text)
}

fn ints(numbers: impl IntoIterator<Item = u64>) -> Value {
    Value::Array(numbers.into_iter().map(Value::from).collect())
}

fn batch(events: Vec<Value>) -> Vec<u8> {
    let mut payload = Vec::new();
    let batch = Value::Array(vec![Value::from(1.5), Value::Array(events), Value::from(3)]);
    rmpv::encode::write_value(&mut payload, &batch).unwrap();
    payload
}

fn map(pairs: Vec<(&str, Value)>) -> Value {
    Value::Map(
        pairs
            .into_iter()
            .map(|(name, value)| (text(name), value))
            .collect(),
    )
}

fn check(event: Value, expected: EngineEvent) {
    let decoded = EngineBatch::decode(&batch(vec![event])).unwrap();
    assert_eq!(
        (decoded.time, decoded.rank, decoded.passed_over),
        (1.5, Some(3), 0)
    );
    assert_eq!(decoded.events, [expected]);
}

const BIG: u64 = 13_422_527_734_868_847_770;

fn plain() -> EngineStored {
    EngineStored {
        hashes: vec![EngineHash(BIG), EngineHash(7)],
        parent: Some(EngineHash(5)),
        tokens: (1..=8).collect(),
        block_size: 4,
        ..EngineStored::default()
    }
}

#[test]
fn takes_arrays_of_every_length() {
    let mut parts = vec![
        text("BlockStored"),
        ints([BIG, 7]),
        Value::from(5),
        ints(1..=8),
        Value::from(4),
        Nil,
    ];
    check(Value::Array(parts.clone()), EngineEvent::Stored(plain()));
    parts.push(text("CPU"));
    let host = EngineStored {
        tier: Tier::Host,
        ..plain()
    };
    check(
        Value::Array(parts.clone()),
        EngineEvent::Stored(host.clone()),
    );
    parts.extend([
        text("poet"),
        Value::Array(vec![Nil, Value::Array(vec![text("poet")])]),
    ]);
    let adapted = EngineStored {
        adapter: Some("poet".into()),
        extra_keys: vec![vec![], vec![ExtraKey::Text("poet".into())]],
        ..host
    };
    check(
        Value::Array(parts.clone()),
        EngineEvent::Stored(adapted.clone()),
    );
    parts.extend([
        Value::from(2),
        text("full_attention"),
        Nil,
        text("of a later version"),
    ]);
    let grouped = EngineStored {
        group: Some(2),
        kind: Some("full_attention".into()),
        ..adapted
    };
    check(Value::Array(parts), EngineEvent::Stored(grouped));
}

#[test]
fn takes_maps_with_fields_left_out_unknown_and_in_any_order() {
    let event = map(vec![
        ("session_id", text("x")),
        ("block_size", Value::from(4)),
        ("token_ids", ints(1..=8)),
        ("parent_block_hash", Value::from(5)),
        ("block_hashes", ints([BIG, 7])),
        ("type", text("BlockStored")),
    ]);
    check(event, EngineEvent::Stored(plain()));
    let removed = |tier, group| EngineEvent::Removed {
        hashes: vec![EngineHash(BIG)],
        tier,
        group,
    };
    let event = map(vec![
        ("type", text("BlockRemoved")),
        ("block_hashes", ints([BIG])),
    ]);
    check(event, removed(Tier::Device, None));
    let parts = vec![
        text("BlockRemoved"),
        ints([BIG]),
        text("DISK"),
        Value::from(1),
    ];
    check(Value::Array(parts), removed(Tier::Disk, Some(1)));
    check(
        Value::Array(vec![text("AllBlocksCleared")]),
        EngineEvent::Cleared,
    );
    check(
        map(vec![("type", text("AllBlocksCleared"))]),
        EngineEvent::Cleared,
    );
}

#[test]
fn hashes_are_unsigned_signed_or_the_end_of_bytes() {
    let mut long = vec![0xaa; 24];
    long.extend(BIG.to_be_bytes());
    for (hash, expected) in [
        (Value::from(BIG), BIG),
        (Value::from(-2i64), u64::MAX - 1),
        (Value::Binary(long), BIG),
        (Value::Binary(vec![1, 2]), 258),
    ] {
        let event = Value::Array(vec![text("BlockRemoved"), Value::Array(vec![hash])]);
        let removed = EngineEvent::Removed {
            hashes: vec![EngineHash(expected)],
            tier: Tier::Device,
            group: None,
        };
        check(event, removed);
    }
}

#[test]
fn passes_over_what_it_does_not_know_and_refuses_what_it_should() {
    let moved = Value::Array(vec![text("BlockRemoved"), ints([1]), text("MOON")]);
    let payload = batch(vec![map(vec![("type", text("BlockBlessed"))]), moved]);
    let decoded = EngineBatch::decode(&payload).unwrap();
    assert_eq!((decoded.events.len(), decoded.passed_over), (0, 2));

    let short = map(vec![
        ("type", text("BlockStored")),
        ("block_hashes", ints([1, 2])),
        ("token_ids", ints(1..=7)),
        ("block_size", Value::from(4)),
    ]);
    let error = EngineBatch::decode(&batch(vec![short])).unwrap_err();
    assert!(error.to_string().contains("token_ids"), "{error}");
    assert!(EngineBatch::decode(b"\xc1").is_err());
    assert!(EngineBatch::decode(&[]).is_err());
    // Nested without end.
    assert!(EngineBatch::decode(&[0x91; 4096]).is_err());
    // An announced length that is not there.
    assert!(EngineBatch::decode(b"\xdd\xff\xff\xff\xff").is_err());
}

fn shared_data() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("KVASIR_SHARED_DATA")?;
    Some(std::path::PathBuf::from(path).join("vllm-kv-events"))
}

fn lines(path: &std::path::Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn bytes(hex: &serde_json::Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// With `KVASIR_SHARED_DATA`: the same events packed by many releases of vLLM.
#[test]
fn takes_every_published_layout() {
    let Some(data) = shared_data() else { return };
    let samples = lines(&data.join("encoder-by-version.jsonl"));
    assert!(samples.len() > 50);
    for sample in samples {
        let batch = EngineBatch::decode(&bytes(&sample["payload_hex"])).unwrap();
        let events = sample["decoded"][1].as_array().unwrap();
        assert_eq!(batch.events.len() + batch.passed_over, events.len());
        for (event, raw) in batch.events.iter().zip(events) {
            let name = raw.get("type").unwrap_or(&raw[0]).as_str().unwrap();
            let expected = match event {
                EngineEvent::Stored(_) => "BlockStored",
                EngineEvent::Removed { .. } => "BlockRemoved",
                EngineEvent::Cleared => "AllBlocksCleared",
            };
            assert_eq!(name, expected);
        }
    }
}
