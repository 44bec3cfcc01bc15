use std::time::Duration;

use models::{Operation, Usage};

use super::*;

fn config() -> Config {
    Config {
        model: ModelSource::Directory(
            concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/models/tests/fixtures/llama3-gqa-tied-sharded"
            )
            .into(),
        ),
        revision: MAIN.to_owned(),
        hub: hub::Settings::default(),
        threads: NonZeroUsize::new(1),
        cpu_isa: None,
        bf16_activations: Bf16::Exact,
        quantize: None,
        kv_dtype: KvDtype::F32,
        batch: [1, 3].into_iter().filter_map(NonZeroUsize::new).collect(),
        prompt: vec![NonZeroUsize::MIN.saturating_add(39)],
        steps: NonZeroUsize::MIN.saturating_add(19),
        max_batch_tokens: NonZeroUsize::MIN.saturating_add(15),
        rounds: NonZeroUsize::MIN.saturating_add(1),
        json: None,
    }
}

#[test]
fn every_phase_of_a_real_model_has_figures() {
    let report = run(&config()).unwrap();
    let names: Vec<_> = report.phases.iter().map(|it| it.phase.as_str()).collect();
    assert_eq!(names, ["decode_1", "decode_3", "prefill_40"]);
    for phase in &report.phases {
        assert_eq!(phase.rounds.len(), 2);
        assert!(phase.tokens_per_second > 0.0, "{phase:?}");
        assert!(phase.read_share > 0.0 && phase.multiply_share > 0.0);
        let sum: f64 = phase.operations.values().sum();
        assert!((sum - 1.0).abs() < 1e-6, "{phase:?}");
        for name in ["qkv", "attention", "gate, up", "lm head", "norms"] {
            assert!(phase.operations[name] > 0.0, "{name} of {phase:?}");
        }
    }
    let kv = run(&Config {
        batch: vec![NonZeroUsize::MIN],
        ..config()
    });
    assert!(report.memory.weights > 10_000, "{:?}", report.memory);
    assert!(report.memory.kv > kv.unwrap().memory.kv);
    assert!(report.loading.seconds >= report.loading.packing_seconds);
    if cfg!(target_os = "linux") {
        assert!(report.memory.peak_loading > Some(report.memory.weights));
        assert!(report.memory.peak_running > Some(report.memory.weights));
    }
    let table = report.to_string();
    assert!(
        table.contains("|  | decode 1 | decode 3 | prefill 40 |"),
        "{table}"
    );
}

#[test]
fn a_prompt_longer_than_the_model_takes_is_refused() {
    let config = Config {
        prompt: vec![NonZeroUsize::MAX],
        ..config()
    };
    let error = run(&config).unwrap_err();
    assert!(matches!(error, BenchError::TooLong { .. }), "{error}");
}

fn sample(seconds: f64) -> Sample {
    let time = |part: f64| Duration::from_secs_f64(seconds * part);
    Sample {
        tokens: 8,
        seconds,
        sampling: seconds * 0.1,
        usage: Usage {
            times: [
                (Operation::Attention, time(0.25)),
                (Operation::Norm, time(0.5)),
            ]
            .into(),
            weight_bytes: 1000,
            bytes: 600,
            f32: 50,
            ..Usage::default()
        },
    }
}

fn subject() -> Subject {
    Subject {
        model: "m".into(),
        machine: Machine::this("portable".into(), 2),
        loading: Loading {
            seconds: 1.5,
            packing_seconds: 1.25,
        },
        memory: Memory {
            weights: 400_000_000,
            kv: 50_000_000,
            peak_loading: Some(480_000_000),
            peak_running: None,
        },
    }
}

#[test]
fn loading_and_memory_are_told_with_what_is_beyond_weights_and_kv() {
    let table = Report::new(subject(), &[], &[]).to_string();
    for line in [
        "Ready after 1.50 s, of which 1.25 s packing weights.",
        "Memory: weights 400 MB, KV 50 MB; at most 480 MB loading, +30 MB.",
    ] {
        assert!(table.contains(line), "{table}");
    }
}

#[test]
fn figures_are_medians_and_shares_of_that_rounds_limits() {
    let limits = Limits {
        read_bytes: 2000.0,
        f32: 100.0,
        bf16: 100.0,
        bytes: 1200.0,
    };
    let rounds = [4.0, 1.0, 2.0].map(|seconds| Round {
        alone: limits,
        all: Limits {
            read_bytes: 2000.0 / seconds,
            ..limits
        },
        samples: vec![sample(seconds)],
    });
    let report = Report::new(subject(), &[Phase::Decode(8)], &rounds);
    let phase = &report.phases[0];
    assert_eq!(phase.rounds, [2.0, 8.0, 4.0]);
    assert_eq!(phase.tokens_per_second, 4.0);
    assert_eq!(phase.read_share, 0.5);
    assert_eq!(phase.multiply_share, 0.5);
    assert_eq!(report.limits.read_bytes, 1000.0);
    let operations: Vec<_> = phase
        .operations
        .iter()
        .map(|(name, share)| (*name, (share * 100.0).round()))
        .collect();
    let expected = [
        ("attention", 25.0),
        ("norms", 50.0),
        ("sampling", 10.0),
        ("the rest", 15.0),
    ];
    assert_eq!(operations, expected);
}
