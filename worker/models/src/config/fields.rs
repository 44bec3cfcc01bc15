//! Reading a JSON object field by field, with errors that name the field.

use serde_json::{Map, Value};

use crate::error::LoadError;

/// Above any real model's sizes, and so small that a product of two cannot
/// overflow.
const LARGEST: u64 = 1 << 24;

/// The fields of an object in `file`. A field that is null counts as absent.
pub(super) struct Fields<'a> {
    file: &'static str,
    /// Before the names of fields of an inner object, with a dot.
    prefix: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(file: &'static str, value: &'a Value) -> Result<Fields<'a>, LoadError> {
        let map = value.as_object().ok_or_else(|| LoadError::Damaged {
            file: file.to_owned(),
            reason: "it is not a JSON object".to_owned(),
        })?;
        Ok(Fields {
            file,
            prefix: "",
            map,
        })
    }

    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// The field's inner object; `prefix` is its name and a dot.
    pub(super) fn object(
        &self,
        field: &str,
        prefix: &'static str,
    ) -> Result<Option<Fields<'a>>, LoadError> {
        self.read(field, "an object", |value| {
            value.as_object().map(|map| Fields {
                file: self.file,
                prefix,
                map,
            })
        })
    }

    pub(super) fn size(&self, field: &str) -> Result<usize, LoadError> {
        self.require(
            field,
            "a number of 1 to 16777216",
            self.optional_size(field)?,
        )
    }

    pub(super) fn optional_size(&self, field: &str) -> Result<Option<usize>, LoadError> {
        self.read(field, "a number of 1 to 16777216", |value| {
            value
                .as_u64()
                .filter(|size| (1..=LARGEST).contains(size))
                .map(|size| size as usize)
        })
    }

    /// A finite number above zero.
    pub(super) fn positive(&self, field: &str) -> Result<f64, LoadError> {
        self.require(field, "a number above 0", self.optional_positive(field)?)
    }

    pub(super) fn optional_positive(&self, field: &str) -> Result<Option<f64>, LoadError> {
        self.read(field, "a number above 0", |value| {
            value
                .as_f64()
                .filter(|number| *number > 0.0 && (*number as f32).is_finite())
        })
    }

    /// False if absent.
    pub(super) fn flag(&self, field: &str) -> Result<bool, LoadError> {
        self.read(field, "true or false", Value::as_bool)
            .map(|flag| flag.unwrap_or(false))
    }

    pub(super) fn text(&self, field: &str) -> Result<Option<&'a str>, LoadError> {
        self.read(field, "a string", Value::as_str)
    }

    /// One token id or several.
    pub(super) fn tokens(&self, field: &str) -> Result<Option<Vec<u32>>, LoadError> {
        let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
        self.read(field, "a token id or a list of them", |value| match value {
            Value::Array(list) => list.iter().map(token).collect(),
            one => token(one).map(|token| vec![token]),
        })
    }

    /// That the field is not what it must be.
    pub(super) fn error(&self, field: &str, expected: &'static str) -> LoadError {
        LoadError::Field {
            file: self.file,
            field: format!("{}{field}", self.prefix),
            expected,
            found: match self.get(field) {
                Some(value) => value.to_string(),
                None => "nothing".to_owned(),
            },
        }
    }

    fn read<T>(
        &self,
        field: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match convert(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.error(field, expected)),
            },
        }
    }

    fn require<T>(
        &self,
        field: &str,
        expected: &'static str,
        value: Option<T>,
    ) -> Result<T, LoadError> {
        value.ok_or_else(|| self.error(field, expected))
    }
}
