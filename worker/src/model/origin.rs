//! A model's files and name, wherever they come from.

use std::path::Path;

use hub::{HubError, ModelName, Request, Settings, Snapshot};
use models::{LoadError, ModelFiles, TOKENIZER_FILES};

use crate::config::ModelSource;

/// Name of the embedded model in requests.
const DEMO_NAME: &str = "kvasir-demo";

/// What is asked of the hub if nothing else is.
pub(crate) const MAIN: &str = "main";

/// Why a model's files are not here.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error("--revision is for models of the hub, and {model} is on this machine; leave it out")]
    Revision { model: String },
}

/// Where to look for a model, and for which of its files.
pub(crate) struct Origin<'a> {
    pub(crate) source: &'a ModelSource,
    pub(crate) hub: &'a Settings,
    pub(crate) revision: &'a str,
    /// Or only what describes it.
    pub(crate) weights: bool,
}

/// A model that can be read.
pub(crate) struct Found {
    pub(crate) files: ModelFiles,
    /// In requests, if nobody gives it another.
    pub(crate) name: String,
}

impl Origin<'_> {
    /// Downloads a model of the hub, unless it is here.
    pub(crate) fn find(&self) -> Result<Found, OriginError> {
        let source = self.source.settled();
        if self.revision != MAIN && !matches!(source, ModelSource::Hub(_)) {
            let model = source.to_string();
            return Err(OriginError::Revision { model });
        }
        Ok(match &source {
            ModelSource::Demo => Found {
                files: models::demo(),
                name: DEMO_NAME.to_owned(),
            },
            ModelSource::Directory(path) => Found {
                files: ModelFiles::directory(path),
                name: last_word(path),
            },
            ModelSource::Gguf(path) => Found {
                files: ModelFiles::gguf(path)?,
                name: last_word(&path.with_extension("")),
            },
            ModelSource::Hub(name) => Found {
                files: self.fetch(name)?,
                name: name.to_string(),
            },
        })
    }

    fn fetch(&self, name: &ModelName) -> Result<ModelFiles, OriginError> {
        let request = Request {
            name,
            revision: self.revision,
            small_files: &TOKENIZER_FILES,
            weights: self.weights,
        };
        Ok(match hub::fetch(self.hub, &request)? {
            Snapshot::Checkpoint(folder) => ModelFiles::directory(folder),
            Snapshot::Gguf(file) => ModelFiles::gguf(file)?,
        })
    }
}

fn last_word(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
