//! Fields of an event by name, whether they come as a map or by position.

use rmpv::ValueRef;

/// Positions in the array form. Engines add fields at the end; a short array
/// has none of the later ones.
const STORED: [&str; 11] = [
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
];
const REMOVED: [&str; 3] = ["block_hashes", "medium", "group_idx"];

pub(super) enum Fields<'a> {
    Map(&'a [(ValueRef<'a>, ValueRef<'a>)]),
    Array(&'static [&'static str], &'a [ValueRef<'a>]),
}

impl<'a> Fields<'a> {
    /// The type's name and the fields of an event.
    pub fn of(event: &'a ValueRef<'a>) -> Option<(&'a str, Fields<'a>)> {
        match event {
            ValueRef::Map(pairs) => {
                let fields = Fields::Map(pairs);
                Some((fields.text("type")?, fields))
            }
            ValueRef::Array(parts) => {
                let (name, values) = parts.split_first()?;
                let name = text(name)?;
                let names: &[&str] = match name {
                    "BlockStored" => &STORED,
                    "BlockRemoved" => &REMOVED,
                    _ => &[],
                };
                Some((name, Fields::Array(names, values)))
            }
            _ => None,
        }
    }

    /// A field that is there and not nil.
    pub fn get(&self, name: &str) -> Option<&'a ValueRef<'a>> {
        let value = match self {
            Fields::Map(pairs) => {
                let pair = pairs.iter().find(|(key, _)| text(key) == Some(name));
                pair.map(|(_, value)| value)
            }
            Fields::Array(names, values) => {
                let at = names.iter().position(|known| *known == name);
                at.and_then(|at| values.get(at))
            }
        };
        value.filter(|value| **value != ValueRef::Nil)
    }

    pub fn list(&self, name: &str) -> Option<&'a [ValueRef<'a>]> {
        match self.get(name)? {
            ValueRef::Array(values) => Some(values),
            _ => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        text(self.get(name)?)
    }
}

fn text<'a>(value: &ValueRef<'a>) -> Option<&'a str> {
    match value {
        ValueRef::String(text) => text.into_str(),
        _ => None,
    }
}
