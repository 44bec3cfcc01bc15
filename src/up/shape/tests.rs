use clap::Parser;
use runtime::config::Check;
use worker::{Device, ModelSource};

use super::*;

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Up {
    #[command(flatten)]
    config: Config,
}

fn up(arguments: &str) -> Config {
    Up::parse_from(arguments.split_whitespace()).config
}

fn mistakes(arguments: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    up(arguments).check(&mut mistakes);
    mistakes
}

fn names(arguments: &str) -> Vec<String> {
    let workers = Shape::of(&up(arguments)).workers();
    workers.into_iter().map(|part| part.name).collect()
}

#[test]
fn one_prefill_and_one_decode_worker_unless_told_otherwise() {
    assert_eq!(names(""), ["prefill-0", "decode-0"]);
    assert_eq!(names("--prefill 2"), ["prefill-0", "prefill-1", "decode-0"]);
    assert_eq!(names("--decode 2"), ["prefill-0", "decode-0", "decode-1"]);
    assert_eq!(names("--workers 2"), ["worker-0", "worker-1"]);
}

#[test]
fn worker_gets_its_part_of_the_flags() {
    let config = up(
        "--model some/dir --device sim --sim-speed 10 --max-sequences 7 --threads 3 --drain-grace 5s",
    );
    let parts = Shape::of(&config).workers();
    let decode = parts[1].parse().unwrap();
    assert_eq!(decode.id.as_deref(), Some("decode-0"));
    assert_eq!(decode.role, Role::Decode);
    assert_eq!(decode.listen, "127.0.0.1:0");
    assert_eq!(decode.model, ModelSource::Directory("some/dir".into()));
    assert_eq!(decode.device, Device::Sim);
    assert_eq!(decode.sim.sim_speed, 10.0);
    assert_eq!((decode.max_sequences, decode.threads), (7, Some(3)));
    assert!(parts[1].command().contains(&"--drain-grace=5s".to_owned()));
}

#[test]
fn router_gets_its_part_of_the_flags() {
    let config = up("--port 9000 --max-body-size 1MiB");
    let addresses = ["127.0.0.1:1", "127.0.0.1:2"].map(|it| it.parse().unwrap());
    let router = Shape::of(&config)
        .router(addresses.to_vec())
        .parse()
        .unwrap();
    assert_eq!(router.listen, "127.0.0.1:9000");
    assert_eq!(router.worker.len(), 2);
    assert_eq!(router.max_body_size.0, 1 << 20);
}

#[test]
fn processes_get_what_the_whole_process_has() {
    let config = up("--log-level debug --log-format json --otlp-endpoint http://localhost:4317");
    let command = Shape::of(&config).router(Vec::new()).command();
    assert_eq!(command[0], "router");
    for argument in [
        "--until-stdin-closes",
        "--log-level=debug",
        "--log-format=json",
        "--otlp-endpoint=http://localhost:4317",
        "--drain-grace=30s",
    ] {
        assert!(
            command.iter().any(|it| it == argument),
            "{argument} not in {command:?}"
        );
    }
}

#[test]
fn cores_are_shared_but_every_worker_has_a_thread() {
    assert_eq!(threads(8, 2), 4);
    assert_eq!(threads(7, 2), 3);
    assert_eq!(threads(1, 4), 1);
}

#[test]
fn mistakes_of_a_part_are_mistakes_of_the_cluster() {
    assert_eq!(mistakes(""), Vec::<String>::new());
    let table = [
        ("--workers 2 --decode 1", "--workers"),
        ("--prefill 0", "--prefill"),
        ("--sim-speed 0", "--sim-speed"),
        ("--max-concurrent-requests 0", "--max-concurrent-requests"),
    ];
    for (arguments, flag) in table {
        let found = mistakes(arguments);
        assert_eq!(found.len(), 1, "{arguments}: {found:?}");
        assert!(found[0].contains(flag), "{found:?}");
    }
}
