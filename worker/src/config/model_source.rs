//! Where a model comes from, as `--model` says it.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hub::ModelName;

/// `demo`, a path, or a name of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// Embedded in the binary.
    Demo,
    Directory(PathBuf),
    Gguf(PathBuf),
    /// A model of the Hugging Face hub.
    Hub(ModelName),
}

impl ModelSource {
    /// What it is on this machine: a path at which nothing is, and which could
    /// be a name of the hub, is one.
    pub(crate) fn settled(&self) -> ModelSource {
        let name = |path: &Path| match path.exists() {
            true => None,
            false => ModelName::parse(path.to_str()?),
        };
        match self {
            ModelSource::Directory(path) | ModelSource::Gguf(path) => {
                name(path).map_or_else(|| self.clone(), ModelSource::Hub)
            }
            ModelSource::Demo | ModelSource::Hub(_) => self.clone(),
        }
    }
}

impl FromStr for ModelSource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<ModelSource, Infallible> {
        Ok(match text {
            "demo" => ModelSource::Demo,
            name if ModelName::is_explicit(name) => match ModelName::parse(name) {
                Some(name) => ModelSource::Hub(name),
                None => ModelSource::Directory(name.into()),
            },
            file if file.ends_with(".gguf") => ModelSource::Gguf(file.into()),
            directory => ModelSource::Directory(directory.into()),
        })
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelSource::Demo => f.write_str("demo"),
            ModelSource::Directory(path) | ModelSource::Gguf(path) => {
                write!(f, "{}", path.display())
            }
            ModelSource::Hub(name) => write!(f, "hf://{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> ModelSource {
        let Ok(source) = text.parse();
        source
    }

    #[test]
    fn what_is_here_comes_before_the_hub() {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        assert_eq!(source(here).settled(), ModelSource::Directory(here.into()));
        // Tests run in the crate's folder.
        let relative = source("src/config");
        assert_eq!(
            relative.settled(),
            ModelSource::Directory("src/config".into())
        );
        for name in ["owner/model", "owner/model:Q8_0", "owner/model/m.gguf"] {
            let found = source(name).settled();
            let expected = ModelSource::Hub(ModelName::parse(name).unwrap());
            assert_eq!(found, expected, "{name}");
        }
        for path in ["./owner/model", "/owner/model", "model", "a/b/c"] {
            let found = source(path).settled();
            assert_eq!(found, ModelSource::Directory(path.into()), "{path}");
        }
        assert_eq!(source("demo").settled(), ModelSource::Demo);
    }

    #[test]
    fn a_source_is_written_as_it_is_read() {
        for text in [
            "demo",
            "a/b",
            "a/b.gguf",
            "/m",
            "hf://a/b:Q8_0",
            "hf://gpt2",
        ] {
            assert_eq!(source(text).to_string(), text);
        }
    }
}
