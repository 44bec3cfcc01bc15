//! Reading a JSON object field by field, with errors that name the field.

use serde_json::{Map, Value};
use tensor::Activation;

use crate::error::LoadError;

/// Above any real model's sizes, and so small that a product of two cannot
/// overflow.
const LARGEST: u64 = 1 << 24;

/// The fields of an object in `file`. A field that is null counts as absent.
pub(crate) struct Fields<'a> {
    file: &'static str,
    /// Before the names of fields of an inner object, with a dot.
    prefix: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(file: &'static str, value: &'a Value) -> Result<Fields<'a>, LoadError> {
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

    /// The fields, and `defaults` for those that are absent.
    pub(crate) fn or_defaults(&self, defaults: &[(&str, u64)]) -> Map<String, Value> {
        let mut map = self.map.clone();
        for (field, default) in defaults {
            if self.get(field).is_none() {
                map.insert((*field).to_owned(), Value::from(*default));
            }
        }
        map
    }

    /// Other fields in the place of these.
    pub(crate) fn with_map<'b>(&self, map: &'b Map<String, Value>) -> Fields<'b> {
        Fields {
            file: self.file,
            prefix: self.prefix,
            map,
        }
    }

    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// The field's inner object; `prefix` is its name and a dot.
    pub(crate) fn object(
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

    pub(crate) fn size(&self, field: &str) -> Result<usize, LoadError> {
        self.require(
            field,
            "a number of 1 to 16777216",
            self.optional_size(field)?,
        )
    }

    pub(crate) fn optional_size(&self, field: &str) -> Result<Option<usize>, LoadError> {
        self.read(field, "a number of 1 to 16777216", |value| {
            value
                .as_u64()
                .filter(|size| (1..=LARGEST).contains(size))
                .map(|size| size as usize)
        })
    }

    /// A size that costs something by its value alone.
    pub(crate) fn size_up_to(&self, field: &str, most: usize) -> Result<usize, LoadError> {
        match self.size(field)? {
            size if size <= most => Ok(size),
            _ => Err(self.error(field, "a number that real models have")),
        }
    }

    /// A finite number above zero.
    pub(crate) fn positive(&self, field: &str) -> Result<f64, LoadError> {
        self.require(field, "a number above 0", self.optional_positive(field)?)
    }

    pub(crate) fn optional_positive(&self, field: &str) -> Result<Option<f64>, LoadError> {
        self.read(field, "a number above 0", |value| {
            value
                .as_f64()
                .filter(|number| *number > 0.0 && (*number as f32).is_finite())
        })
    }

    /// A number above zero, as the model computes with it; 1 if absent.
    pub(crate) fn multiplier(&self, field: &str) -> Result<f32, LoadError> {
        Ok(self.optional_positive(field)?.unwrap_or(1.0) as f32)
    }

    /// Numbers above zero.
    pub(crate) fn positives(&self, field: &str) -> Result<Vec<f64>, LoadError> {
        let number = |value: &Value| {
            let number = value.as_f64()?;
            (number > 0.0 && (number as f32).is_finite()).then_some(number)
        };
        let numbers = self.read(field, "a list of numbers above 0", |value| {
            value.as_array()?.iter().map(number).collect()
        })?;
        self.require(field, "a list of numbers above 0", numbers)
    }

    /// Indices; none if absent.
    pub(crate) fn indices(&self, field: &str) -> Result<Vec<usize>, LoadError> {
        let index = |value: &Value| value.as_u64().map(|index| index as usize);
        self.read(field, "a list of numbers", |value| {
            value.as_array()?.iter().map(index).collect()
        })
        .map(Option::unwrap_or_default)
    }

    /// One word for each layer.
    pub(crate) fn layer_types(&self, layers: usize) -> Result<Option<Vec<&'a str>>, LoadError> {
        self.read(
            "layer_types",
            "a list of one word for each layer",
            |value| {
                let types = value.as_array()?.iter().map(Value::as_str);
                let types: Vec<&str> = types.collect::<Option<_>>()?;
                (types.len() == layers).then_some(types)
            },
        )
    }

    /// The activation of feed-forward networks, under either of its names.
    pub(crate) fn activation(&self, default: &str) -> Result<Activation, LoadError> {
        let name = match self.text("hidden_activation")? {
            Some(name) => name,
            None => self.text("hidden_act")?.unwrap_or(default),
        };
        match name {
            "silu" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            other => Err(LoadError::Unsupported {
                what: format!("activation {other}"),
                supported: "silu, gelu_pytorch_tanh".to_owned(),
            }),
        }
    }

    /// A finite number of at least zero.
    pub(crate) fn optional_number(&self, field: &str) -> Result<Option<f64>, LoadError> {
        self.read(field, "a number of at least 0", |value| {
            value
                .as_f64()
                .filter(|number| *number >= 0.0 && (*number as f32).is_finite())
        })
    }

    /// False if absent.
    pub(crate) fn flag(&self, field: &str) -> Result<bool, LoadError> {
        self.optional_flag(field).map(|flag| flag.unwrap_or(false))
    }

    pub(crate) fn optional_flag(&self, field: &str) -> Result<Option<bool>, LoadError> {
        self.read(field, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, field: &str) -> Result<Option<&'a str>, LoadError> {
        self.read(field, "a string", Value::as_str)
    }

    /// One token id or several.
    pub(crate) fn tokens(&self, field: &str) -> Result<Option<Vec<u32>>, LoadError> {
        let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
        self.read(field, "a token id or a list of them", |value| match value {
            Value::Array(list) => list.iter().map(token).collect(),
            one => token(one).map(|token| vec![token]),
        })
    }

    /// That the field is not what it must be.
    pub(crate) fn error(&self, field: &str, expected: &'static str) -> LoadError {
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
