use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::*;

#[derive(Debug, Parser)]
#[command(name = "kvasir", version = "1.2.3")]
struct Program {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Starts a cluster
    Up(Up),
    /// Starts a worker
    Worker(Worker),
}

#[derive(Debug, Args)]
struct Up {
    /// Number of workers
    #[arg(long)]
    workers: Option<usize>,
    #[arg(long)]
    prefill: Option<usize>,
    #[arg(long, default_value_t = 8080)]
    port: u16,
    #[arg(long)]
    processes: bool,
    #[arg(long)]
    device: Option<Device>,
    #[arg(long, default_value = "30s")]
    drain_grace: HumanDuration,
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    block_size: Option<u32>,
    #[arg(long)]
    peer: Vec<String>,
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

#[derive(Debug, Args)]
struct Worker {
    #[arg(long)]
    model: String,
    #[arg(long, default_value = "1GiB")]
    kv_memory: ByteSize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Device {
    Cpu,
    Sim,
}

impl Check for Program {
    fn check(&self, mistakes: &mut Vec<String>) {
        if let Part::Up(up) = &self.part
            && up.workers.is_some()
            && up.prefill.is_some()
        {
            mistakes.push("--workers and --prefill exclude each other".to_owned());
        }
    }
}

/// A configuration file that is removed at the end of its test.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> TempFile {
        let name = format!("kvasir-config-{}-{name}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        TempFile(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn load_with(arguments: &str, environment: &[(&str, &str)]) -> Result<Program, Refusal> {
    let arguments = std::iter::once("kvasir").chain(arguments.split_whitespace());
    load(&Invocation {
        arguments: arguments.map(OsString::from).collect(),
        environment: environment
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        default_subcommand: "up",
    })
}

fn up(arguments: &str, environment: &[(&str, &str)]) -> Up {
    match load_with(arguments, environment) {
        Ok(Program { part: Part::Up(up) }) => up,
        other => panic!("{arguments}: {other:?}"),
    }
}

fn mistakes(arguments: &str, environment: &[(&str, &str)]) -> Vec<String> {
    match load_with(arguments, environment) {
        Err(Refusal::Mistakes(mistakes)) => mistakes,
        other => panic!("{arguments}: {other:?}"),
    }
}

#[test]
fn flag_wins_over_variable_over_file_over_default() {
    let file = TempFile::new("layers", "[up]\nport = 3\nprefill = 3\nrate = 3.5\n");
    let environment = [
        ("KVASIR_CONFIG", file.path()),
        ("KVASIR_UP_PORT", "2"),
        ("KVASIR_UP_PREFILL", "2"),
    ];
    let up = up("up --port 1", &environment);
    assert_eq!((up.port, up.prefill, up.rate), (1, Some(2), Some(3.5)));
    assert_eq!(up.drain_grace.to_string(), "30s");
}

#[test]
fn default_subcommand_takes_flags() {
    assert_eq!(up("", &[]).port, 8080);
    assert_eq!(up("--port 0", &[]).port, 0);
}

#[test]
fn config_flag_wins_over_its_variable() {
    let (first, second) = (
        TempFile::new("a", "[up]\nport = 1"),
        TempFile::new("b", "[up]\nport = 2"),
    );
    let up = up(
        &format!("--config {}", first.path()),
        &[("KVASIR_CONFIG", second.path())],
    );
    assert_eq!(up.port, 1);
}

#[test]
fn lists_and_switches_in_every_layer() {
    let file = TempFile::new(
        "lists",
        "[up]\npeer = [\"a:1\", \"b:2\"]\nprocesses = true\n",
    );
    let from_file = up(&format!("--config {}", file.path()), &[]);
    assert_eq!(
        (from_file.peer, from_file.processes),
        (vec!["a:1".into(), "b:2".into()], true)
    );
    let variables = [
        ("KVASIR_UP_PEER", "a:1, b:2"),
        ("KVASIR_UP_PROCESSES", "true"),
    ];
    let from_environment = up("", &variables);
    assert_eq!(
        (from_environment.peer.len(), from_environment.processes),
        (2, true)
    );
    let from_flags = up("--peer a:1 --peer b:2 --processes", &[]);
    assert_eq!((from_flags.peer.len(), from_flags.processes), (2, true));
    let switched_off = up(
        &format!("--config {}", file.path()),
        &[("KVASIR_UP_PROCESSES", "false")],
    );
    assert!(!switched_off.processes);
}

#[test]
fn keys_may_be_written_with_either_dash() {
    let file = TempFile::new("dashes", "[up]\ndrain_grace = \"5s\"\nblock-size = 32\n");
    let up = up(&format!("--config {}", file.path()), &[]);
    assert_eq!(
        (up.drain_grace.to_string(), up.block_size),
        ("5s".into(), Some(32))
    );
}

#[test]
fn last_of_repeated_flags_counts() {
    assert_eq!(up("--port 1 --port 2", &[]).port, 2);
}

#[test]
fn variables_of_kubernetes_are_ignored() {
    let injected = [
        ("KVASIR_PORT", "tcp://10.0.0.1:8080"),
        ("KVASIR_SERVICE_HOST", "10.0.0.1"),
        ("KVASIR_UP_UNKNOWN", "1"),
        ("KVASIR_UP_RATE", ""),
    ];
    assert_eq!(up("", &injected).rate, None);
}

#[test]
fn every_kind_of_mistake_is_told_with_its_origin() {
    type Case = (
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static [&'static str],
    );
    let table: &[Case] = &[
        (
            "--prot 1",
            &[],
            &["--prot: there is no such flag; did you mean --port?"],
        ),
        (
            "--nothing-like-it x",
            &[],
            &["--nothing-like-it: there is no such flag; see --help"],
        ),
        ("--port", &[], &["--port: the value is missing"]),
        ("--processes=3", &[], &["--processes: takes no value"]),
        ("up port", &[], &["port: only flags are expected here"]),
        (
            "--port x",
            &[],
            &["--port: \"x\" is not allowed; allowed is a whole number, not negative"],
        ),
        (
            "--port 70000",
            &[],
            &["--port: \"70000\" is not allowed: 70000 is not in 0..=65535"],
        ),
        (
            "--block-size 65",
            &[],
            &["--block-size: \"65\" is not allowed: 65 is not in 1..=64"],
        ),
        (
            "--rate fast",
            &[],
            &["--rate: \"fast\" is not allowed; allowed is a number"],
        ),
        (
            "--device gpu",
            &[],
            &["--device: \"gpu\" is not allowed; allowed are cpu, sim"],
        ),
        (
            "",
            &[("KVASIR_UP_DRAIN_GRACE", "30")],
            &[
                "KVASIR_UP_DRAIN_GRACE: \"30\" is not allowed: allowed is a number and ms, s, m or h, such as 500ms or 30s",
            ],
        ),
        (
            "",
            &[("KVASIR_UP_PROCESSES", "maybe")],
            &["KVASIR_UP_PROCESSES: \"maybe\" is not allowed; allowed are true and false"],
        ),
        (
            "worker",
            &[],
            &["--model is required (or KVASIR_WORKER_MODEL, or the file)"],
        ),
        (
            "--config /nowhere.toml",
            &[],
            &["/nowhere.toml: No such file or directory (os error 2)"],
        ),
        (
            "--prefill 1",
            &[("KVASIR_UP_WORKERS", "2")],
            &["--workers and --prefill exclude each other (--workers is set by KVASIR_UP_WORKERS)"],
        ),
    ];
    for (arguments, environment, expected) in table {
        assert_eq!(&mistakes(arguments, environment), expected, "{arguments}");
    }
}

#[test]
fn mistakes_of_the_file_are_told_with_their_key() {
    let table = [
        ("[up]\nprot = 1", "[up] prot: there is no such key"),
        ("[worker]\nprot = 1", "[worker] prot: there is no such key"),
        ("[up]\nconfig = \"x\"", "[up] config: there is no such key"),
        (
            "[up]\nuntil-stdin-closes = true",
            "[up] until-stdin-closes: there is no such key",
        ),
        (
            "[upp]\nport = 1",
            "\"upp\" is no section; sections are [up], [worker]",
        ),
        (
            "port = 1",
            "\"port\" is no section; sections are [up], [worker]",
        ),
        (
            "[up]\nport = [1]",
            "[up] port: one value is expected, not a list",
        ),
        (
            "[up.port]\nx = 1",
            "[up] port: a plain value is expected, not a table",
        ),
        (
            "[up]\npeer = [[1]]",
            "[up] peer: a list of plain values is expected",
        ),
        (
            "[up]\nport = -1",
            "[up] port: \"-1\" is not allowed: -1 is not in 0..=65535",
        ),
        (
            "[up]\ndrain-grace = \"1s\"\ndrain_grace = \"2s\"",
            "[up] drain_grace: the key is there twice, with - and with _",
        ),
    ];
    for (number, (text, expected)) in table.into_iter().enumerate() {
        let file = TempFile::new(&format!("mistake-{number}"), text);
        let found = mistakes(&format!("--config {}", file.path()), &[]);
        assert_eq!(found, [format!("{}: {expected}", file.path())]);
    }
    let broken = TempFile::new("broken", "[up]\nport = = 1\n");
    let found = mistakes(&format!("--config {}", broken.path()), &[]);
    assert!(
        found[0].starts_with(&format!("{}: line 2: ", broken.path())),
        "{found:?}"
    );
}

#[test]
fn mistakes_of_all_layers_come_together() {
    let file = TempFile::new(
        "together",
        "[up]\nrate = \"x\"\nprot = 1\nworkers = 2\n[nobody]\n",
    );
    let environment = [("KVASIR_CONFIG", file.path()), ("KVASIR_UP_DEVICE", "gpu")];
    let found = mistakes("--nope 1 --port x --wrong=2 --prefill 1", &environment);
    let named = [
        "--nope",
        "--wrong",
        "[up] prot",
        "nobody",
        "--port",
        "KVASIR_UP_DEVICE",
        "[up] rate",
        "exclude",
    ];
    for name in named {
        let times = found.iter().filter(|it| it.contains(name)).count();
        assert_eq!(times, 1, "{name}: {found:#?}");
    }
    assert_eq!(found.len(), named.len(), "{found:#?}");
}

#[test]
fn required_flag_with_a_wrong_value_is_told_once() {
    let found = mistakes("worker --kv-memory 5 --model=", &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("--kv-memory: \"5\" is not allowed"),
        "{found:?}"
    );
}

#[test]
fn required_value_may_come_from_any_layer() {
    let model = |result| match result {
        Ok(Program {
            part: Part::Worker(worker),
        }) => worker.model,
        other => panic!("{other:?}"),
    };
    let file = TempFile::new("required", "[worker]\nmodel = \"m\"\n");
    assert_eq!(
        model(load_with("worker", &[("KVASIR_WORKER_MODEL", "m")])),
        "m"
    );
    assert_eq!(
        model(load_with("worker", &[("KVASIR_CONFIG", file.path())])),
        "m"
    );
}

#[test]
fn help_and_version_are_shown() {
    let shown = |arguments| match load_with(arguments, &[]) {
        Err(Refusal::Shown(text)) => text,
        other => panic!("{arguments}: {other:?}"),
    };
    assert!(shown("--version").contains("1.2.3"));
    assert!(shown("--help").contains("Starts a worker"));
    for arguments in [
        "up --help",
        "up --port 1 -h",
        "up --port x --help",
        "--port 1 --help",
    ] {
        let text = shown(arguments);
        assert!(
            text.contains("--drain-grace") && text.contains("KVASIR_UP_<FLAG>"),
            "{text}"
        );
        assert!(text.contains("--config <FILE>"), "{text}");
    }
    assert_eq!(mistakes("upp", &[]).len(), 1);
}
