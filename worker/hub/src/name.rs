//! How a model of the hub is called.

use std::fmt;

/// What may stand before a name to say that it is one of the hub.
const PREFIXES: [&str; 4] = [
    "hf://",
    "hf.co/",
    "huggingface.co/",
    "https://huggingface.co/",
];

/// Of an owner or a repository; the hub's own limit.
const LONGEST_WORD: usize = 96;

/// A repository of the hub, as `owner/name`, and perhaps a GGUF file in it:
/// `owner/name:file.gguf`, `owner/name/file.gguf`, or `owner/name:Q4_K_M` for
/// the file that is so quantised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    pub repository: String,
    pub variant: Option<String>,
}

impl ModelName {
    /// `None` if no model of the hub can have this name.
    pub fn parse(text: &str) -> Option<ModelName> {
        let prefix = PREFIXES.iter().find(|prefix| text.starts_with(**prefix));
        let rest = &text[prefix.map_or(0, |prefix| prefix.len())..];
        let (repository, variant) = match rest.split_once(':') {
            Some((repository, variant)) => (repository, Some(variant)),
            None => match file_in_repository(rest) {
                Some((repository, file)) => (repository, Some(file)),
                None => (rest, None),
            },
        };
        // The oldest models have no owner; without a prefix they look like folders.
        let words = repository.split('/').count();
        let counted = words == 2 || (words == 1 && prefix.is_some());
        let valid = counted
            && repository.split('/').all(is_word)
            && variant.is_none_or(crate::cache::is_inside);
        valid.then(|| ModelName {
            repository: repository.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }

    /// Whether `text` can be nothing but a name of the hub.
    pub fn is_explicit(text: &str) -> bool {
        PREFIXES.iter().any(|prefix| text.starts_with(prefix))
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        match &self.variant {
            Some(variant) => write!(f, ":{variant}"),
            None => Ok(()),
        }
    }
}

/// `owner/name/file.gguf`, cut before the file.
fn file_in_repository(text: &str) -> Option<(&str, &str)> {
    let (end, _) = text.match_indices('/').nth(1)?;
    text.ends_with(".gguf")
        .then(|| (&text[..end], &text[end + 1..]))
}

fn is_word(word: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: char| matches!(c, '-' | '.');
    !word.is_empty()
        && word.len() <= LONGEST_WORD
        && word.chars().all(allowed)
        && !word.starts_with(edge)
        && !word.ends_with(edge)
        && !word.contains("..")
        && !word.contains("--")
        && !word.ends_with(".git")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_an_owner_and_a_repository_and_perhaps_a_file() {
        let table = [
            ("a/b", "a/b", None),
            ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", None),
            ("a/b-GGUF:Q4_K_M", "a/b-GGUF", Some("Q4_K_M")),
            ("a/b:b-q8_0.gguf", "a/b", Some("b-q8_0.gguf")),
            ("a/b:x/y.gguf", "a/b", Some("x/y.gguf")),
            ("a/b/c.gguf", "a/b", Some("c.gguf")),
            ("a/b/x/c.gguf", "a/b", Some("x/c.gguf")),
            ("hf://a/b", "a/b", None),
            ("hf.co/a/b:Q8_0", "a/b", Some("Q8_0")),
            ("https://huggingface.co/a/b", "a/b", None),
            ("hf://gpt2", "gpt2", None),
        ];
        for (text, repository, variant) in table {
            let name = ModelName::parse(text).unwrap();
            assert_eq!(name.repository, repository, "{text}");
            assert_eq!(name.variant.as_deref(), variant, "{text}");
            if repository.contains('/') {
                assert_eq!(ModelName::parse(&name.to_string()), Some(name), "{text}");
            }
        }
    }

    #[test]
    fn paths_and_nonsense_are_no_names() {
        let long = format!("a/{}", "b".repeat(97));
        for text in [
            "",
            "gpt2",
            "/a/b",
            "./a/b",
            "../b",
            "a/..",
            "a/b/c",
            "a//b",
            "a/b:",
            "a/b:../c.gguf",
            "a/b:/c.gguf",
            "a/-b",
            "a/b.",
            "a/b--c",
            "a/b.git",
            "a b/c",
            "b.gguf",
            "/m/a/b.gguf",
            &long,
        ] {
            assert_eq!(ModelName::parse(text), None, "{text}");
        }
    }
}
