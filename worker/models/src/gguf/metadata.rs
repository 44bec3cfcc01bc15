//! The key-value pairs of a GGUF file.

use std::collections::HashMap;

use bytes::{Buf, Bytes};

use super::reader::Reader;
use crate::error::LoadError;

/// Bytes of a pair at least: a key's length, a type and a byte.
const LEAST_PAIR: usize = 13;

pub(crate) struct Metadata {
    file: String,
    values: HashMap<String, Value>,
}

/// A value; lists stay as stored, and are read when asked for.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    List(List),
}

#[derive(Clone, Debug, PartialEq)]
struct List {
    kind: u32,
    count: usize,
    /// Checked to hold `count` values.
    bytes: Bytes,
}

/// GGUF's numbers of types.
mod kind {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const LIST: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;

    /// Bytes of a value, at least.
    pub(super) fn least(kind: u32) -> Option<usize> {
        Some(match kind {
            U8 | I8 | BOOL => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            U64 | I64 | F64 | TEXT => 8,
            LIST => 12,
            _ => return None,
        })
    }
}

impl Metadata {
    /// Reads the number of pairs, and the pairs.
    pub(super) fn read(file: &str, reader: &mut Reader) -> Result<Metadata, String> {
        let count = reader.count(LEAST_PAIR)?;
        let mut values = HashMap::with_capacity(count);
        for _ in 0..count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = Value::read(kind, reader).map_err(|reason| format!("{key}: {reason}"))?;
            values.insert(key, value);
        }
        Ok(Metadata {
            file: file.to_owned(),
            values,
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.get(key, "a string", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>, LoadError> {
        self.get(key, "a number of at least 0", |value| match value {
            Value::Unsigned(number) => Some(*number),
            Value::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        })
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, LoadError> {
        self.get(key, "a finite number", |value| match value {
            Value::Float(number) if number.is_finite() => Some(*number),
            _ => None,
        })
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        self.get(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<String>>, LoadError> {
        self.get(key, "a list of strings", |value| match value {
            Value::List(list) if list.kind == kind::TEXT => list.read(|reader| reader.text()),
            _ => None,
        })
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, LoadError> {
        self.get(key, "a list of f32", |value| match value {
            Value::List(list) if list.kind == kind::F32 => {
                list.read(|reader| reader.u32().map(f32::from_bits))
            }
            _ => None,
        })
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<u32>>, LoadError> {
        self.get(key, "a list of 32-bit integers", |value| match value {
            Value::List(list) if [kind::U32, kind::I32].contains(&list.kind) => {
                list.read(|reader| reader.u32())
            }
            _ => None,
        })
    }

    /// That `key` is not what it must be.
    pub(super) fn error(&self, key: &str, expected: &str) -> LoadError {
        let found = match self.values.get(key) {
            None => "nothing".to_owned(),
            Some(Value::Text(_)) => "a string".to_owned(),
            Some(Value::List(list)) => format!("a list of {} values", list.count),
            Some(Value::Unsigned(number)) => number.to_string(),
            Some(Value::Signed(number)) => number.to_string(),
            Some(Value::Float(number)) => number.to_string(),
            Some(Value::Bool(flag)) => flag.to_string(),
        };
        LoadError::Damaged {
            file: self.file.clone(),
            reason: format!("{key} must be {expected}, found {found}"),
        }
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(value) => match convert(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.error(key, expected)),
            },
        }
    }
}

impl Value {
    fn read(kind: u32, reader: &mut Reader) -> Result<Value, String> {
        let number = |size, reader: &mut Reader| reader.bytes(size);
        Ok(match kind {
            kind::U8 => Value::Unsigned(number(1, reader)?.get_u8().into()),
            kind::I8 => Value::Signed(number(1, reader)?.get_i8().into()),
            kind::U16 => Value::Unsigned(number(2, reader)?.get_u16_le().into()),
            kind::I16 => Value::Signed(number(2, reader)?.get_i16_le().into()),
            kind::U32 => Value::Unsigned(reader.u32()?.into()),
            kind::I32 => Value::Signed(number(4, reader)?.get_i32_le().into()),
            kind::F32 => Value::Float(number(4, reader)?.get_f32_le().into()),
            kind::BOOL => Value::Bool(number(1, reader)?.get_u8() != 0),
            kind::TEXT => Value::Text(reader.text()?),
            kind::LIST => Value::List(List::find(reader)?),
            kind::U64 => Value::Unsigned(reader.u64()?),
            kind::I64 => Value::Signed(number(8, reader)?.get_i64_le()),
            kind::F64 => Value::Float(number(8, reader)?.get_f64_le()),
            other => return Err(format!("there is no type {other}")),
        })
    }
}

impl List {
    /// Walks over a list.
    fn find(reader: &mut Reader) -> Result<List, String> {
        let kind = reader.u32()?;
        let least = kind::least(kind).ok_or_else(|| format!("there is no type {kind}"))?;
        if kind == kind::LIST {
            return Err("lists of lists are not read".to_owned());
        }
        let count = reader.count(least)?;
        if kind != kind::TEXT {
            let bytes = reader.bytes(count * least)?;
            return Ok(List { kind, count, bytes });
        }
        let mut ahead = reader.clone();
        for _ in 0..count {
            ahead.text()?;
        }
        let bytes = reader.bytes(ahead.position() - reader.position())?;
        Ok(List { kind, count, bytes })
    }

    fn read<T>(&self, value: impl Fn(&mut Reader) -> Result<T, String>) -> Option<Vec<T>> {
        let mut reader = Reader::new(self.bytes.clone());
        (0..self.count).map(|_| value(&mut reader).ok()).collect()
    }
}
