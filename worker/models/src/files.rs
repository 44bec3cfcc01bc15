//! Where a model's files come from.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::LoadError;
use crate::gguf::GgufFile;
use crate::mmap::{self, Content};

/// What a router needs to render and tokenise for a model; not every model has
/// all of them.
pub const TOKENIZER_FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// A model's files: a checkpoint folder in the Hugging Face layout, a GGUF file,
/// which reads as one, or files that are part of the binary.
#[derive(Clone)]
pub struct ModelFiles(Source);

#[derive(Clone)]
enum Source {
    Directory(PathBuf),
    Gguf(PathBuf, Arc<GgufFile>),
    Held(Arc<BTreeMap<String, Bytes>>),
}

impl ModelFiles {
    pub fn directory(path: impl Into<PathBuf>) -> ModelFiles {
        ModelFiles(Source::Directory(path.into()))
    }

    /// Maps a GGUF file and reads its header.
    pub fn gguf(path: impl Into<PathBuf>) -> Result<ModelFiles, LoadError> {
        let path = path.into();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = mmap::map(&path).map_err(|source| LoadError::Read {
            model: path.display().to_string(),
            file: name.to_string(),
            source,
        })?;
        let file = GgufFile::open(name, file)?;
        Ok(ModelFiles(Source::Gguf(path, Arc::new(file))))
    }

    /// The GGUF file that this model is.
    pub(crate) fn gguf_file(&self) -> Option<Arc<GgufFile>> {
        match &self.0 {
            Source::Gguf(_, file) => Some(file.clone()),
            Source::Directory(_) | Source::Held(_) => None,
        }
    }

    /// Pairs of name and content.
    pub fn embedded(files: &'static [(&'static str, &'static [u8])]) -> ModelFiles {
        let held = |(name, content): &(&'static str, &'static [u8])| {
            ((*name).to_owned(), Bytes::from_static(content))
        };
        ModelFiles::held(files.iter().map(held))
    }

    /// Pairs of name and content.
    pub fn held(files: impl IntoIterator<Item = (String, Bytes)>) -> ModelFiles {
        ModelFiles(Source::Held(Arc::new(files.into_iter().collect())))
    }

    /// A GGUF file that is in memory.
    pub fn held_gguf(file: Bytes) -> Result<ModelFiles, LoadError> {
        const NAME: &str = "model.gguf";
        let file = GgufFile::open(NAME, file.into())?;
        Ok(ModelFiles(Source::Gguf(NAME.into(), Arc::new(file))))
    }

    /// A small file's content.
    pub fn read(&self, name: &str) -> Result<Bytes, LoadError> {
        self.read_optional(name)?.ok_or_else(|| self.missing(name))
    }

    /// A small file's content, or `None` if there is no such file.
    pub fn read_optional(&self, name: &str) -> Result<Option<Bytes>, LoadError> {
        self.content(name, |path| std::fs::read(path).map(Bytes::from))
    }

    /// The files of [`TOKENIZER_FILES`] that this model has.
    pub fn tokenizer_files(&self) -> Result<Vec<(&'static str, Bytes)>, LoadError> {
        let mut files = Vec::new();
        for name in TOKENIZER_FILES {
            if let Some(content) = self.read_optional(name)? {
                files.push((name, content));
            }
        }
        Ok(files)
    }

    /// A large file, mapped rather than read.
    pub(crate) fn map(&self, name: &str) -> Result<Content, LoadError> {
        self.content(name, |path| mmap::map(&path))?
            .ok_or_else(|| self.missing(name))
    }

    fn content<T: From<Bytes>>(
        &self,
        name: &str,
        load: impl FnOnce(PathBuf) -> io::Result<T>,
    ) -> Result<Option<T>, LoadError> {
        match &self.0 {
            Source::Held(files) => Ok(files.get(name).cloned().map(T::from)),
            Source::Gguf(_, file) => Ok(file.small_file(name)?.map(T::from)),
            Source::Directory(path) => match load(path.join(name)) {
                Ok(content) => Ok(Some(content)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(LoadError::Read {
                    model: self.to_string(),
                    file: name.to_owned(),
                    source,
                }),
            },
        }
    }

    fn missing(&self, name: &str) -> LoadError {
        LoadError::MissingFile {
            model: self.to_string(),
            file: name.to_owned(),
        }
    }
}

impl fmt::Debug for ModelFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelFiles({self})")
    }
}

impl fmt::Display for ModelFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Directory(path) | Source::Gguf(path, _) => write!(f, "{}", path.display()),
            Source::Held(_) => f.write_str("the model in memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_and_directory_files_read_alike() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/llama2-mha");
        let config = include_bytes!("../tests/fixtures/llama2-mha/config.json");
        let sources = [
            ModelFiles::directory(folder),
            ModelFiles::embedded(&[(
                "config.json",
                include_bytes!("../tests/fixtures/llama2-mha/config.json"),
            )]),
        ];
        for files in sources {
            assert_eq!(files.read("config.json").unwrap(), config.as_slice());
            assert_eq!(*files.map("config.json").unwrap(), *config.as_slice());
            assert_eq!(files.read_optional("tokenizer.json").unwrap(), None);
            assert!(matches!(
                files.read("tokenizer.json"),
                Err(LoadError::MissingFile { file, .. }) if file == "tokenizer.json"
            ));
            let names = files.tokenizer_files().unwrap();
            assert!(names.iter().any(|(name, _)| *name == "config.json"));
        }
    }
}
