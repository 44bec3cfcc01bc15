//! Why a model cannot be loaded.

use tensor::DeviceError;

/// Names the file, field or tensor that is at fault.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {file} of {model}: {source}")]
    Read {
        model: String,
        file: String,
        source: std::io::Error,
    },
    /// A file that a model must have.
    #[error("{model} has no {file}; name a folder with a Hugging Face checkpoint")]
    MissingFile { model: String, file: String },
    /// A file whose content is not what its format says.
    #[error("{file} is damaged: {reason}; fetch the model again")]
    Damaged { file: String, reason: String },
    #[error("{file}: {field} must be {expected}, found {found}")]
    Field {
        file: &'static str,
        field: String,
        expected: &'static str,
        found: String,
    },
    /// A model that this engine has no code for.
    #[error("{what} is not supported; supported: {supported}")]
    Unsupported { what: String, supported: String },
    #[error("the checkpoint has no tensor {name}")]
    MissingTensor { name: String },
    #[error("tensor {name} has shape {found:?}, the config asks for {expected:?}")]
    TensorShape {
        name: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error(transparent)]
    Device(#[from] DeviceError),
}
