use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{CommandFactory, Parser};

use super::*;
use crate::planned::{PlannedRequest, Prompt};

#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    workload: WorkloadConfig,
}

pub(super) fn config(flags: &str) -> WorkloadConfig {
    let words = std::iter::once("test").chain(flags.split_whitespace());
    Flags::try_parse_from(words).unwrap().workload
}

/// A file that is removed by drop.
pub(super) struct TempFile(PathBuf);

impl TempFile {
    pub fn new(text: &str) -> TempFile {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kvasir-workload-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        TempFile(path)
    }

    pub fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What is wrong with a file that `flag` names, without its path.
pub(super) fn refused(flag: &str, text: &str) -> String {
    let file = TempFile::new(text);
    let error = build(&config(&format!("{flag} {}", file.path())), 1).err();
    let error = error.unwrap_or_else(|| panic!("{text:?} is accepted"));
    error.to_string().replacen(&file.path(), "FILE", 1)
}

pub(super) fn all(mut workload: Box<dyn Workload>) -> Vec<PlannedRequest> {
    std::iter::from_fn(|| workload.next()).collect()
}

fn mistakes(flags: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    config(flags).check(&mut mistakes);
    mistakes
}

#[test]
fn flags_are_sound() {
    Flags::command().debug_assert();
    assert_eq!(mistakes(""), Vec::<String>::new());
}

#[test]
fn mistakes_name_their_flags() {
    let table = [
        ("--prompts a --trace b", "--prompts and --trace"),
        ("--trace a --turns 2", "--turns has"),
        ("--trace a --prefix-groups 2", "--prefix-groups has"),
        ("--turns 2 --prompt-format tokens", "--turns above 1 needs"),
        (
            "--prompts a --prompt-format tokens",
            "--prompt-format tokens has",
        ),
        ("--prompt-format text --token-ids 1..9", "--token-ids needs"),
        ("--repeat-prompts", "--repeat-prompts needs"),
        ("--prefix-skew -1", "--prefix-skew must"),
        (
            "--prefix-groups 2 --prefix-tokens 0",
            "--prefix-groups needs",
        ),
        ("--trace a --trace-speed 0", "--trace-speed must"),
        (
            "--trace a --trace-output-scale 0",
            "--trace-output-scale must",
        ),
        ("--trace a --trace-block 0", "--trace-block must"),
        ("--trace a --trace-scale 0", "--trace-scale must"),
        ("--trace a --trace-take 0s", "--trace-take must"),
        ("--trace a --max-context 1", "--max-context must"),
    ];
    for (flags, expected) in table {
        let flags = flags.replace("-skew -1", "-skew=-1");
        let found = mistakes(&flags);
        assert_eq!(found.len(), 1, "{flags}: {found:?}");
        assert!(found[0].starts_with(expected), "{flags}: {found:?}");
    }
}

#[test]
fn values_that_are_not_allowed_say_what_is() {
    let table = [
        ("--token-ids=9..9", "allowed is FROM..TO"),
        ("--token-ids=9", "allowed is FROM..TO"),
        (
            "--input-tokens=many",
            "allowed are a number, uniform:LOW..HIGH",
        ),
        ("--think-time=3", "allowed are a number"),
        (
            "--trace-take=soon",
            "allowed is a number of rows, or a time",
        ),
    ];
    for (flag, expected) in table {
        let error = Flags::try_parse_from(["test", flag]).unwrap_err();
        assert!(error.to_string().contains(expected), "{flag}: {error}");
    }
}

#[test]
fn prompts_have_the_format_that_fits() {
    let first = |flags: &str| build(&config(flags), 1).unwrap().next().unwrap().prompt;
    assert!(matches!(first(""), Prompt::Tokens(_)));
    assert!(matches!(first("--turns 2"), Prompt::Chat(_)));
    assert!(matches!(first("--prompt-format text"), Prompt::Text(_)));
    assert!(matches!(first("--prompt-format chat"), Prompt::Chat(_)));
    let Prompt::Tokens(ids) = first("--token-ids 5..8 --input-tokens 300") else {
        panic!("token ids were asked for");
    };
    assert!((5..8).all(|id| ids.contains(&id)) && ids.iter().all(|id| (5..8).contains(id)));
}

#[test]
fn eos_is_ignored_unless_prompts_are_real() {
    let file = TempFile::new("{\"prompt\": \"hello\"}\n");
    let real = format!("--prompts {}", file.path());
    let table = [
        (String::new(), true),
        ("--eos allow".to_owned(), false),
        (real.clone(), false),
        (format!("{real} --eos ignore"), true),
    ];
    for (flags, expected) in table {
        let request = build(&config(&flags), 1).unwrap().next().unwrap();
        assert_eq!(request.output.exact, expected, "{flags}");
    }
}

#[test]
fn tokenizer_that_is_none_is_refused() {
    let error = refused("--tokenizer", "{\"model\": 3}");
    assert!(
        error.starts_with("--tokenizer FILE: is no tokenizer.json"),
        "{error}"
    );
    let missing = config("--tokenizer /nowhere/to/be/found");
    let error = build(&missing, 1).err().unwrap().to_string();
    assert!(
        error.starts_with("/nowhere/to/be/found: cannot be read"),
        "{error}"
    );
}
