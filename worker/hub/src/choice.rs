//! Which of a repository's files make the model; pure.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cache::is_inside;
use crate::error::{HubError, listed};
use crate::name::ModelName;

pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";

/// What is taken of a repository with several GGUF files if nothing is asked
/// for: the usual first choice, then the most precise of those that are small.
const USUAL: [&str; 2] = ["Q4_K_M", "Q8_0"];

/// What a model is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// These files, and the shards that the index among them names, if there is
    /// one.
    Checkpoint(Vec<String>),
    /// This file alone.
    Gguf(String),
}

/// What is wanted of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a ModelName,
    /// Small files, taken if they are there.
    pub(crate) small_files: &'a [&'a str],
    pub(crate) weights: bool,
}

impl Wanted<'_> {
    /// Of the files that are there.
    pub(crate) fn choose(&self, there: &BTreeSet<String>) -> Result<Choice, HubError> {
        if let Some(variant) = &self.name.variant {
            return self.named(variant, there).map(Choice::Gguf);
        }
        let weights = [INDEX, SINGLE].into_iter().find(|it| there.contains(*it));
        let checkpoint = there.contains(CONFIG) && (weights.is_some() || !self.weights);
        if !checkpoint {
            return self.usual(there).map(Choice::Gguf);
        }
        let small = self.small_files.iter().copied();
        let small = small.filter(|name| there.contains(*name));
        let weights = weights.filter(|_| self.weights);
        Ok(Choice::Checkpoint(
            small.chain(weights).map(str::to_owned).collect(),
        ))
    }

    /// The GGUF file that is called so, or so quantised.
    fn named(&self, variant: &str, there: &BTreeSet<String>) -> Result<String, HubError> {
        let files: Vec<_> = models(there).collect();
        let exact = files.iter().find(|file| **file == variant);
        let fits = |file: &&&String| base(file) == variant || is_quantised(file, variant);
        match exact.or_else(|| files.iter().find(fits)) {
            Some(file) => whole(file),
            None => Err(HubError::NoFile {
                name: self.name.repository.clone(),
                file: variant.to_owned(),
                there: listed(files),
            }),
        }
    }

    fn usual(&self, there: &BTreeSet<String>) -> Result<String, HubError> {
        let files: Vec<_> = models(there).collect();
        let usual = USUAL.iter().find_map(|quantised| {
            let mut files = files.iter();
            files.find(|file| is_quantised(file, quantised))
        });
        match (usual, &files[..]) {
            (Some(file), _) => whole(file),
            (None, [file]) => whole(file),
            (None, []) => Err(HubError::NoWeights {
                name: self.name.repository.clone(),
                there: listed(there),
            }),
            (None, [first, ..]) => Err(HubError::WhichFile {
                name: self.name.repository.clone(),
                example: (*first).clone(),
                there: listed(files),
            }),
        }
    }
}

/// GGUF files with weights of a model, not of an addition to one.
fn models(there: &BTreeSet<String>) -> impl Iterator<Item = &String> {
    there.iter().filter(|file| {
        let name = base(file).to_lowercase();
        name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("imatrix")
    })
}

fn base(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

/// Whether the name ends as in `model-Q4_K_M.gguf`, in any case.
fn is_quantised(file: &str, quantised: &str) -> bool {
    let name = base(file).to_lowercase();
    let name = name.strip_suffix(".gguf").unwrap_or(&name);
    let name = part_of(name).unwrap_or(name);
    name.strip_suffix(&quantised.to_lowercase())
        .is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_']))
}

/// The name without its end as in `model-00001-of-00003`, if it has one.
fn part_of(name: &str) -> Option<&str> {
    let (before, parts) = name.rsplit_once("-of-")?;
    let (before, part) = before.rsplit_once('-')?;
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (number(parts) && number(part)).then_some(before)
}

fn whole(file: &str) -> Result<String, HubError> {
    match part_of(file.strip_suffix(".gguf").unwrap_or(file)) {
        Some(_) => Err(HubError::Split {
            file: file.to_owned(),
        }),
        None => Ok(file.to_owned()),
    }
}

/// The files that an index of sharded weights names; `None` if it is none.
pub(crate) fn shards(index: &[u8]) -> Option<BTreeSet<String>> {
    let index: Value = serde_json::from_slice(index).ok()?;
    let map = index.get("weight_map")?.as_object()?;
    map.values()
        .map(|file| {
            let file = file.as_str().filter(|file| is_inside(file))?;
            Some(file.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: [&str; 3] = ["tokenizer.json", "config.json", "chat_template.jinja"];

    fn choose(name: &str, weights: bool, there: &[&str]) -> Result<Choice, HubError> {
        let name = ModelName::parse(name).unwrap();
        let wanted = Wanted {
            name: &name,
            small_files: &SMALL,
            weights,
        };
        wanted.choose(&there.iter().map(|file| (*file).to_owned()).collect())
    }

    fn files(choice: Result<Choice, HubError>) -> Vec<String> {
        match choice.unwrap() {
            Choice::Checkpoint(files) => files,
            Choice::Gguf(file) => vec![file],
        }
    }

    #[test]
    fn only_what_a_checkpoint_needs_is_taken() {
        let there = [
            ".gitattributes",
            "README.md",
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "onnx/model.onnx",
        ];
        assert_eq!(
            files(choose("a/b", true, &there)),
            ["tokenizer.json", "config.json", "model.safetensors"]
        );
        assert_eq!(
            files(choose("a/b", false, &there)),
            ["tokenizer.json", "config.json"]
        );
        let sharded = ["config.json", INDEX, "model-00001-of-00002.safetensors"];
        assert_eq!(files(choose("a/b", true, &sharded)), ["config.json", INDEX]);
    }

    #[test]
    fn a_gguf_file_is_found_by_name_quantisation_or_custom() {
        let there = [
            "config.json",
            "m-IQ4_K_M.gguf",
            "m-Q4_K_M.gguf",
            "m.q8_0.gguf",
            "sub/m-F16.gguf",
            "mmproj-m-Q8_0.gguf",
        ];
        for (name, file) in [
            ("a/b", "m-Q4_K_M.gguf"),
            ("a/b:q4_k_m", "m-Q4_K_M.gguf"),
            ("a/b:Q8_0", "m.q8_0.gguf"),
            ("a/b:sub/m-F16.gguf", "sub/m-F16.gguf"),
            ("a/b:m-F16.gguf", "sub/m-F16.gguf"),
            ("a/b/m.q8_0.gguf", "m.q8_0.gguf"),
        ] {
            assert_eq!(files(choose(name, true, &there)), [file], "{name}");
        }
        assert_eq!(files(choose("a/b", true, &["m.gguf"])), ["m.gguf"]);
    }

    #[test]
    fn what_cannot_be_chosen_is_said() {
        let parts = [
            "m-Q4_K_M-00001-of-00002.gguf",
            "m-Q4_K_M-00002-of-00002.gguf",
        ];
        let table: [(&str, &[&str], &str); 5] = [
            (
                "a/b:Q5_0",
                &["m-Q8_0.gguf"],
                "has no file Q5_0 (there are m-Q8_0.gguf)",
            ),
            (
                "a/b",
                &["pytorch_model.bin"],
                "no weights in safetensors or GGUF (there are pytorch_model.bin)",
            ),
            ("a/b", &[], "nothing fits"),
            (
                "a/b",
                &["x-F16.gguf", "y-F32.gguf"],
                "name one, as in a/b:x-F16.gguf",
            ),
            ("a/b:Q4_K_M", &parts, "one part of several"),
        ];
        for (name, there, said) in table {
            let error = choose(name, true, there).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn an_index_names_files_inside_its_folder_only() {
        let index =
            |file: &str| format!(r#"{{"weight_map": {{"w": "{file}", "v": "a.safetensors"}}}}"#);
        let names = shards(index("b.safetensors").as_bytes()).unwrap();
        assert_eq!(Vec::from_iter(names), ["a.safetensors", "b.safetensors"]);
        for file in ["../b", "/b", "", "a/../../b"] {
            assert_eq!(shards(index(file).as_bytes()), None, "{file}");
        }
        assert_eq!(shards(b"[]"), None);
    }
}
