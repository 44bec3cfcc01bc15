//! KV events as vLLM and SGLang publish them: the third frame of a message.
//!
//! Takes every layout of both: events as arrays (vLLM to 0.23, SGLang) and as
//! maps (vLLM from 0.24), fields that came later or are left out, hashes as
//! integers or bytes. Event types, fields and media it does not know are passed
//! over; a known event that lacks what it needs fails the batch, since an event
//! lost unseen would leave a wrong view. Placing the blocks among ours is for
//! [`EngineBlocks`](crate::EngineBlocks).

mod fields;

use rmpv::ValueRef;
use rmpv::decode::read_value_ref_with_max_depth;

use crate::Tier;
use fields::Fields;

/// Batches nest four deep: batch, events, event, a list of lists in it.
const MAX_DEPTH: usize = 16;

/// What one message says.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineBatch {
    /// Seconds since 1970, by the engine's clock.
    pub time: f64,
    /// The data-parallel rank whose cache this is.
    pub rank: Option<u32>,
    pub events: Vec<EngineEvent>,
    /// Events of unknown types or media.
    pub passed_over: usize,
}

/// An engine's own identity of a block: its 64-bit form, which of longer hashes
/// is the last 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EngineHash(pub u64);

#[derive(Clone, Debug, PartialEq)]
pub enum EngineEvent {
    Stored(EngineStored),
    Removed {
        hashes: Vec<EngineHash>,
        tier: Tier,
        group: Option<u32>,
    },
    Cleared,
}

/// Blocks that follow each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineStored {
    pub hashes: Vec<EngineHash>,
    /// The block before the first; none at the start of a prompt.
    pub parent: Option<EngineHash>,
    /// Of all blocks, one after the other.
    pub tokens: Vec<u32>,
    pub block_size: usize,
    pub tier: Tier,
    pub adapter: Option<String>,
    /// For each block, or empty: what its identity covers besides tokens.
    pub extra_keys: Vec<Vec<ExtraKey>>,
    /// The KV cache group of a hybrid model, and the kind of its layers.
    pub group: Option<u32>,
    pub kind: Option<String>,
}

/// A part of a block's identity besides its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtraKey {
    /// An adapter's name or a cache salt.
    Text(String),
    /// Anything else, such as a part of an image, as msgpack.
    Other(Vec<u8>),
}

#[derive(Debug, thiserror::Error)]
pub enum EngineEventError {
    #[error("the payload is not msgpack: {0}")]
    NotMsgpack(#[from] rmpv::decode::Error),
    #[error("the payload is not a batch of events; is the endpoint a KV event publisher?")]
    NotABatch,
    #[error("event {event} has no usable {field}; is the engine of a newer version?")]
    Field {
        event: &'static str,
        field: &'static str,
    },
}

/// What a batch's element stands for.
enum Decoded {
    Event(EngineEvent),
    PassedOver,
}

impl EngineBatch {
    /// Decodes a payload.
    pub fn decode(mut payload: &[u8]) -> Result<EngineBatch, EngineEventError> {
        let batch = read_value_ref_with_max_depth(&mut payload, MAX_DEPTH)?;
        let ValueRef::Array(parts) = batch else {
            return Err(EngineEventError::NotABatch);
        };
        let (Some(time), Some(ValueRef::Array(elements))) = (parts.first(), parts.get(1)) else {
            return Err(EngineEventError::NotABatch);
        };
        let mut batch = EngineBatch {
            time: number(time).ok_or(EngineEventError::NotABatch)?,
            rank: parts.get(2).and_then(unsigned),
            events: Vec::with_capacity(elements.len()),
            passed_over: 0,
        };
        for element in elements {
            match decode_event(element)? {
                Decoded::Event(event) => batch.events.push(event),
                Decoded::PassedOver => batch.passed_over += 1,
            }
        }
        Ok(batch)
    }
}

fn decode_event(element: &ValueRef<'_>) -> Result<Decoded, EngineEventError> {
    let (name, fields) = Fields::of(element).ok_or(EngineEventError::NotABatch)?;
    let event = match name {
        "BlockStored" => stored(&fields)?,
        "BlockRemoved" => removed(&fields)?,
        "AllBlocksCleared" => Some(EngineEvent::Cleared),
        _ => None,
    };
    Ok(event.map_or(Decoded::PassedOver, Decoded::Event))
}

fn stored(fields: &Fields<'_>) -> Result<Option<EngineEvent>, EngineEventError> {
    let missing = |field| EngineEventError::Field {
        event: "BlockStored",
        field,
    };
    let Some(tier) = tier(fields) else {
        return Ok(None);
    };
    let hashes = hashes(fields).ok_or(missing("block_hashes"))?;
    let tokens: Option<Vec<u32>> = fields
        .list("token_ids")
        .and_then(|ids| ids.iter().map(unsigned).collect());
    let tokens = tokens.ok_or(missing("token_ids"))?;
    let block_size = fields.get("block_size").and_then(unsigned);
    let block_size = block_size
        .filter(|size| *size > 0)
        .ok_or(missing("block_size"))? as usize;
    if Some(tokens.len()) != block_size.checked_mul(hashes.len()) {
        return Err(missing("token_ids"));
    }
    let parent = match fields.get("parent_block_hash") {
        Some(parent) => Some(hash(parent).ok_or(missing("parent_block_hash"))?),
        None => None,
    };
    let keys = fields.list("extra_keys").unwrap_or_default();
    let adapter = fields.text("lora_name").map(str::to_owned);
    Ok(Some(EngineEvent::Stored(EngineStored {
        hashes,
        parent,
        tokens,
        block_size,
        tier,
        adapter: adapter.or_else(|| adapter_by_number(fields)),
        extra_keys: keys.iter().map(extra_keys).collect(),
        group: fields.get("group_idx").and_then(unsigned),
        kind: fields.text("kv_cache_spec_kind").map(str::to_owned),
    })))
}

fn removed(fields: &Fields<'_>) -> Result<Option<EngineEvent>, EngineEventError> {
    let Some(tier) = tier(fields) else {
        return Ok(None);
    };
    let hashes = hashes(fields).ok_or(EngineEventError::Field {
        event: "BlockRemoved",
        field: "block_hashes",
    })?;
    let group = fields.get("group_idx").and_then(unsigned);
    Ok(Some(EngineEvent::Removed {
        hashes,
        tier,
        group,
    }))
}

/// Before engines told an adapter's name they told their own number for it,
/// which names no adapter elsewhere, yet keeps its blocks apart.
fn adapter_by_number(fields: &Fields<'_>) -> Option<String> {
    let number = fields.get("lora_id").and_then(unsigned)?;
    Some(format!("#{number}"))
}

/// `None` for a medium not known.
fn tier(fields: &Fields<'_>) -> Option<Tier> {
    match fields.text("medium").unwrap_or_default() {
        "" | "GPU" | "DEVICE" => Some(Tier::Device),
        "CPU" | "CPU_PINNED" | "CPU_TIER1" => Some(Tier::Host),
        "CPU_TIER2" | "DISK" | "NVME" | "STORAGE" => Some(Tier::Disk),
        "EXTERNAL" | "NETWORK" | "REMOTE" | "SHARED" => Some(Tier::Shared),
        _ => None,
    }
}

fn hashes(fields: &Fields<'_>) -> Option<Vec<EngineHash>> {
    fields.list("block_hashes")?.iter().map(hash).collect()
}

fn hash(value: &ValueRef<'_>) -> Option<EngineHash> {
    match value {
        ValueRef::Integer(number) => {
            // SGLang's hashes are signed.
            let signed = || number.as_i64().map(|signed| signed as u64);
            number.as_u64().or_else(signed).map(EngineHash)
        }
        ValueRef::Binary(bytes) => {
            let bytes = &bytes[bytes.len().saturating_sub(8)..];
            let fold = |hash: u64, byte: &u8| hash << 8 | u64::from(*byte);
            Some(EngineHash(bytes.iter().fold(0, fold)))
        }
        _ => None,
    }
}

fn extra_keys(of_block: &ValueRef<'_>) -> Vec<ExtraKey> {
    let ValueRef::Array(keys) = of_block else {
        return Vec::new();
    };
    let key = |key: &ValueRef<'_>| match key {
        ValueRef::String(text) => ExtraKey::Text(text.as_str().unwrap_or_default().to_owned()),
        other => {
            let mut bytes = Vec::new();
            // Writing to a vector cannot fail.
            let _ = rmpv::encode::write_value_ref(&mut bytes, other);
            ExtraKey::Other(bytes)
        }
    };
    keys.iter().map(key).collect()
}

fn unsigned(value: &ValueRef<'_>) -> Option<u32> {
    match value {
        ValueRef::Integer(number) => number.as_u64()?.try_into().ok(),
        _ => None,
    }
}

fn number(value: &ValueRef<'_>) -> Option<f64> {
    match value {
        ValueRef::F64(number) => Some(*number),
        ValueRef::F32(number) => Some(f64::from(*number)),
        ValueRef::Integer(number) => number.as_f64(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
