//! Schemas that have little in common: every keyword that is supported, nested
//! at random. All of them have an end: a model that says anything with equal
//! chance finds few quotes, and many digits.

use serde_json::{Map, Value, json};

/// Numbers by chance, the same ones for a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// Schema number `number`.
pub(super) fn varied(number: u64) -> Value {
    let mut chance = Chance(number);
    let mut schema = match number % 3 {
        0 => object(&mut chance, 3),
        1 => any(&mut chance, 3),
        _ => array(&mut chance, 2),
    };
    let person = json!({
        "type": "object", "required": ["name"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "friend": {"anyOf": [{"$ref": "#/$defs/person"}, {"type": "null"}]},
        },
    });
    schema["$defs"] = json!({"person": person, "level": {"enum": ["low", "high", 3, null]}});
    schema
}

fn any(chance: &mut Chance, depth: u64) -> Value {
    let deep = if depth == 0 { 0 } else { 4 };
    match chance.below(9 + deep) {
        0 => string(chance),
        1 => {
            json!({"type": "integer", "minimum": chance.below(50), "maximum": 50 + chance.below(5000)})
        }
        2 => {
            json!({"type": "number", "exclusiveMinimum": -3.5, "maximum": chance.below(90) as f64 + 0.25})
        }
        3 => json!({"type": "boolean"}),
        4 => json!({"type": ["string", "null"], "maxLength": 6}),
        5 => json!({"enum": ["red", "green \"x\"", 7, null, [1, 2], {"k": "v"}]}),
        6 => json!({"const": format!("c{}", chance.below(100))}),
        7 => json!({"$ref": if chance.below(2) == 0 { "#/$defs/person" } else { "#/$defs/level" }}),
        8 => json!({"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 1000}),
        9 => object(chance, depth - 1),
        10 => array(chance, depth - 1),
        11 => json!({"anyOf": [any(chance, depth - 1), any(chance, depth - 1)]}),
        _ => json!({"allOf": [
            {"type": "object", "properties": {"x": any(chance, depth - 1)}, "required": ["x"]},
            {"type": "object", "properties": {"x": true, "y": string(chance)}, "additionalProperties": false},
        ]}),
    }
}

fn string(chance: &mut Chance) -> Value {
    match chance.below(9) {
        0 => json!({"type": "string", "maxLength": 40}),
        1 => json!({"type": "string", "minLength": 3, "maxLength": 3 + chance.below(9)}),
        2 => json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"}),
        3 => json!({"type": "string", "format": "date"}),
        4 => json!({"type": "string", "format": "date-time"}),
        5 => json!({"type": "string", "format": "uuid"}),
        6 => json!({"type": "string", "format": "ipv4"}),
        7 => json!({"type": "string", "pattern": "^(ab|c)+d?$", "maxLength": 9}),
        _ => json!({"type": "string", "enum": ["å", "日本", "\n"]}),
    }
}

fn object(chance: &mut Chance, depth: u64) -> Value {
    let names = ["id", "a b", "größe", "list", "q\"", "z_9"];
    let count = 1 + chance.below(names.len() as u64) as usize;
    let mut properties = Map::new();
    for name in &names[..count] {
        properties.insert((*name).to_owned(), any(chance, depth));
    }
    let required: Vec<&str> = names[..count]
        .iter()
        .copied()
        .filter(|_| chance.below(3) > 0)
        .collect();
    match chance.below(4) {
        0 => json!({
            "type": "object", "properties": properties, "required": required,
            "patternProperties": {"^x_[a-z]{1,8}$": {"type": "integer", "minimum": -9, "maximum": 99}},
            "additionalProperties": false,
        }),
        1 => json!({
            "type": "object", "patternProperties": {"^k[0-9]$": {"type": "boolean"}},
            "additionalProperties": false,
        }),
        _ => json!({
            "type": "object", "title": "T", "description": "d", "properties": properties,
            "required": required, "additionalProperties": false,
        }),
    }
}

fn array(chance: &mut Chance, depth: u64) -> Value {
    match chance.below(3) {
        0 => json!({
            "type": "array", "prefixItems": [{"type": "boolean"}, any(chance, depth)],
            "items": false, "minItems": 1,
        }),
        1 => json!({"type": "array", "items": any(chance, depth), "minItems": 1, "maxItems": 3}),
        _ => json!({
            "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9999},
            "maxItems": chance.below(6),
        }),
    }
}
