//! Every family against transformers, and against itself.

mod weights;

use models::{KvDtype, ModelFiles};
use serde_json::{Value, json};

use crate::harness::{BLOCK, FAMILIES, Model, Reference, Sequence, greedy};
use weights::{Family, Tensor};

/// Its model, on so many threads.
fn model(family: &Family, threads: usize) -> Model {
    Model::load(&family.files(), threads)
}

/// Its model, whose KV is kept as `dtype`.
fn keeping(dtype: KvDtype, family: &Family, threads: usize) -> Model {
    Model::keeping(dtype, &family.files(), threads)
}

/// The largest difference between logits.
fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    pairs
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst, difference| match difference.is_nan() {
            true => f32::INFINITY,
            false => worst.max(difference),
        })
}

/// Every family, and every way to keep KV.
fn each_kept(test: impl Fn(&str, &Family, KvDtype)) {
    each(|name, family, _| {
        for dtype in KvDtype::ALL {
            test(&format!("{name}, {dtype}"), &family, dtype);
        }
    });
}

fn each(test: impl Fn(&str, Family, Reference)) {
    for name in FAMILIES {
        let family = Family::read(name);
        let reference = family.reference();
        test(name, family, reference);
    }
}

#[test]
fn logits_match_transformers() {
    each(|name, family, reference| {
        let mut sequence = Sequence::new(&reference.prompt, 0, 1);
        let logits = model(&family, 1).prefill(&mut sequence, usize::MAX);
        let worst = worst(&logits, &reference.logits);
        println!("{name:20} {worst:e}");
        assert!(worst <= 1e-3, "{name}: {worst}");
    });
}

#[test]
fn greedy_tokens_match_transformers_however_the_prompt_is_cut() {
    each(|name, family, reference| {
        let mut model = model(&family, 1);
        for (chunk, stride) in [(usize::MAX, 1), (7, 11)] {
            let mut sequence = Sequence::new(&reference.prompt, 3, stride);
            model.generate(&mut sequence, chunk, reference.greedy.len());
            assert_eq!(sequence.tokens, reference.greedy, "{name} by {chunk}");
        }
    });
}

/// How far from transformers' the logits of a row in the middle may be: the root
/// of the mean square of differences, as a share of that of logits. (Rows that go
/// to other experts are far off.)
const NARROW: [(KvDtype, f32); 2] = [(KvDtype::Bf16, 0.02), (KvDtype::Int8, 0.05)];

fn root_mean_square(numbers: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = numbers.fold((0.0, 0.0), |(sum, count), x| (sum + x * x, count + 1.0));
    (sum / count as f32).sqrt()
}

/// Of rows of logits.
fn median_distance(found: &[f32], expected: &[f32], vocab: usize) -> f32 {
    let rows = found.chunks(vocab).zip(expected.chunks(vocab));
    let distance = |(found, expected): (&[f32], &[f32])| {
        let differences = found.iter().zip(expected).map(|(a, b)| a - b);
        root_mean_square(differences) / root_mean_square(expected.iter().copied())
    };
    let mut distances: Vec<f32> = rows.map(distance).collect();
    distances.sort_by(f32::total_cmp);
    distances[distances.len() / 2]
}

#[test]
fn logits_with_narrow_kv_are_near_those_of_transformers() {
    each(|name, family, reference| {
        for (dtype, most) in NARROW {
            let mut model = keeping(dtype, &family, 1);
            let mut sequence = Sequence::new(&reference.prompt, 0, 1);
            let logits = model.prefill(&mut sequence, usize::MAX);
            let off = median_distance(&logits, &reference.logits, model.vocab());
            println!("{name:20} {dtype} {off:.4}");
            assert!(off > 1e-5 && off <= most, "{name}, {dtype}: {off}");
        }
    });
}

#[test]
fn logits_are_the_same_bits_however_the_prompt_is_cut_and_threaded() {
    each_kept(|name, family, dtype| {
        let tokens = family.reference().greedy;
        let mut whole = Sequence::new(&tokens, 0, 1);
        let expected = keeping(dtype, family, 1).prefill(&mut whole, usize::MAX);
        for (chunk, stride, threads) in [(BLOCK, 3, 1), (9, 7, 2), (1, 5, 3)] {
            let mut cut = Sequence::new(&tokens, 20, stride);
            let logits = keeping(dtype, family, threads).prefill(&mut cut, chunk);
            assert!(logits == expected, "{name} by {chunk} on {threads} threads");
        }
    });
}

#[test]
fn logits_are_the_same_bits_in_company() {
    each_kept(|name, family, dtype| {
        let tokens = family.reference().greedy;
        let mut model = keeping(dtype, family, 1);
        let alone = model.prefill(&mut Sequence::new(&tokens, 0, 1), usize::MAX);
        let vocab = model.vocab();
        // Beside another that starts later in the same text, so that the two
        // are at other places of windows and experts.
        let mut first = Sequence::new(&tokens, 0, 3);
        let mut second = Sequence::new(&tokens[13..], 1, 3);
        let mut found = Vec::new();
        while first.computed < first.tokens.len() {
            let left = first.tokens.len() - first.computed;
            let other = second.tokens.len() - second.computed;
            let (count, other) = (left.min(6), other.min(11));
            let mut work = vec![(&mut first, count)];
            if other > 0 {
                work.insert(0, (&mut second, other));
            }
            let logits = model.step(&mut work);
            found.extend_from_slice(&logits[other * vocab..]);
        }
        assert!(found == alone, "{name}");
    });
}

#[test]
fn a_sequence_goes_on_in_another_instance_from_its_exported_blocks() {
    each_kept(|name, family, dtype| {
        let reference = family.reference();
        let mut first = keeping(dtype, family, 1);
        let mut sequence = Sequence::new(&reference.prompt, 2, 5);
        first.generate(&mut sequence, 10, 60);
        let mut second = keeping(dtype, family, 1);
        let mut moved = Sequence::new(&sequence.tokens, 40, 7);
        moved.computed = sequence.computed;
        let blocks = sequence.computed.div_ceil(BLOCK);
        for (from, to) in sequence.blocks.iter().zip(&moved.blocks).take(blocks) {
            let mut wire = Vec::new();
            first.lm.export_block(*from, &mut wire).unwrap();
            assert_eq!(wire.len(), first.lm.kv_shape().block_bytes().unwrap());
            second.lm.import_block(*to, &wire).unwrap();
        }
        first.generate(&mut sequence, 10, reference.greedy.len());
        second.generate(&mut moved, 10, reference.greedy.len());
        assert_eq!(moved.tokens, sequence.tokens, "{name}");
        if dtype == KvDtype::F32 {
            assert_eq!(moved.tokens, reference.greedy, "{name}");
        }
    });
}

/// Options of the reference configs, and another value of each.
fn other_options() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("mistral-window", "/sliding_window", json!(null)),
        ("mistral-window", "/sliding_window", json!(17)),
        ("qwen2-yarn-window", "/max_window_layers", json!(2)),
        ("qwen2-yarn-window", "/rope_parameters/factor", json!(4)),
        ("qwen2-yarn-window", "/rope_parameters/beta_fast", json!(32)),
        ("qwen2-yarn-window", "/rope_parameters/beta_slow", json!(2)),
        ("qwen3-moe", "/norm_topk_prob", json!(false)),
        ("qwen3-moe", "/num_experts_per_tok", json!(2)),
        ("qwen3-moe-raw", "/norm_topk_prob", json!(true)),
        ("granite", "/embedding_multiplier", json!(5)),
        ("granite", "/attention_multiplier", json!(0.25)),
        ("granite", "/residual_multiplier", json!(0.5)),
        ("granite", "/logits_scaling", json!(1)),
        ("granite4-dense", "/position_embedding_type", json!("nope")),
        ("granite4-nope", "/position_embedding_type", json!("rope")),
        ("gemma2", "/sliding_window", json!(17)),
        ("gemma2", "/attn_logit_softcapping", json!(null)),
        ("gemma2", "/final_logit_softcapping", json!(null)),
        ("gemma2", "/query_pre_attn_scalar", json!(16)),
        ("gemma2", "/hidden_activation", json!("silu")),
        ("gemma3", "/sliding_window", json!(17)),
        ("gemma3", "/layer_types/0", json!("full_attention")),
        ("gemma3", "/rope_parameters/full_attention/factor", json!(1)),
        (
            "gemma3",
            "/rope_parameters/sliding_attention/rope_theta",
            json!(1e6),
        ),
        ("phi3", "/sliding_window", json!(null)),
        ("phi3-long", "/original_max_position_embeddings", json!(256)),
        ("phi3-long", "/rope_parameters/long_factor/3", json!(1)),
        ("phi4-partial", "/rope_parameters/short_factor/3", json!(2)),
        (
            "deepseek-v2-lite",
            "/rope_parameters/mscale_all_dim",
            json!(0),
        ),
        ("deepseek-v2", "/topk_method", json!("greedy")),
        ("deepseek-v2", "/topk_group", json!(3)),
        ("deepseek-v2", "/routed_scaling_factor", json!(1)),
        ("deepseek-v3", "/rope_interleave", json!(false)),
        ("deepseek-v3", "/rope_parameters/mscale_all_dim", json!(0)),
        ("deepseek-v3", "/topk_group", json!(4)),
        ("deepseek-v3", "/norm_topk_prob", json!(false)),
        ("gpt-oss", "/sliding_window", json!(null)),
        ("gpt-oss", "/swiglu_limit", json!(7)),
        ("gpt-oss", "/swiglu_alpha", json!(1)),
        ("gpt-oss", "/rope_parameters/truncate", json!(true)),
    ]
}

#[test]
fn every_option_of_the_reference_configs_matters() {
    let mut idle = Vec::new();
    for (name, option, value) in other_options() {
        let mut family = Family::read(name);
        *family.config.pointer_mut(option).unwrap() = value;
        let reference = family.reference();
        let mut sequence = Sequence::new(&reference.prompt, 0, 1);
        let logits = model(&family, 1).prefill(&mut sequence, 32);
        let expected = &reference.logits[..logits.len()];
        let change = worst(&logits, expected);
        if change < 1e-2 {
            idle.push(format!("{name} {option}: {change}"));
        }
    }
    assert!(idle.is_empty(), "{idle:#?}");
}

#[test]
fn latent_attention_keeps_a_latent_and_one_rotated_key_of_a_token() {
    let family = Family::read("deepseek-v3");
    // Rank 24 and 8 rotated numbers, of 3 layers; the bytes of a token of one.
    let table = [
        (KvDtype::F32, (24 + 8) * 4),
        (KvDtype::Bf16, (24 + 8) * 2),
        (KvDtype::Int8, (24 + 4) + (8 + 4)),
    ];
    for (dtype, bytes) in table {
        let model = keeping(dtype, &family, 1);
        let block = model.lm.kv_shape().block_bytes().unwrap();
        assert_eq!(block, 3 * BLOCK * bytes, "{dtype}");
    }
}

#[test]
fn the_text_part_of_a_model_that_also_sees_is_that_model() {
    let mut family = Family::read("gemma3");
    let reference = family.reference();
    let text = family.config.clone();
    family.config = json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": text,
        "eos_token_id": 7,
    });
    for root in ["language_model.model", "model.language_model"] {
        let mut seeing = family.clone();
        for tensor in &mut seeing.tensors {
            tensor.stored_as = tensor.name.replacen("model", root, 1);
        }
        let mut sequence = Sequence::new(&reference.prompt, 0, 1);
        let logits = model(&seeing, 1).prefill(&mut sequence, usize::MAX);
        assert!(worst(&logits, &reference.logits) <= 1e-3, "{root}");
    }
}

#[test]
fn every_tensor_is_missed_by_its_name_and_shape() {
    each(|name, family, _| {
        let loads = |family: &Family| family.load().err().map(|error| error.to_string());
        assert_eq!(loads(&family), None, "{name}");
        for (index, tensor) in family.tensors.iter().enumerate() {
            let mut lacking = family.clone();
            lacking.tensors.remove(index);
            let expected = format!("the checkpoint has no tensor {}", tensor.name);
            // What decides the layout of a stack of experts is asked for first.
            assert_eq!(loads(&lacking), Some(expected), "{name}");
            let mut longer = family.clone();
            longer.tensors[index].shape[0] += 1;
            let found = loads(&longer).unwrap();
            let expected = format!("tensor {} has shape ", tensor.name);
            assert!(found.starts_with(&expected), "{name}: {found}");
        }
    });
}

#[test]
fn a_bias_that_the_config_does_not_mention_is_refused() {
    let mut family = Family::read("qwen3");
    let mut bias: Tensor = family.tensors[0].clone();
    bias.shape = vec![64];
    bias.name = "model.layers.0.self_attn.q_proj.bias".to_owned();
    bias.stored_as = bias.name.clone();
    family.tensors.push(bias);
    let error = family.load().err().unwrap().to_string();
    assert!(
        error.starts_with("tensor model.layers.0.self_attn.q_proj.bias is not supported"),
        "{error}"
    );
}

#[test]
fn routing_that_cannot_be_is_refused_at_load() {
    for (field, value) in [
        ("num_experts_per_tok", 9),
        ("n_group", 3),
        ("topk_group", 5),
    ] {
        let mut family = Family::read("deepseek-v3");
        family.config[field] = value.into();
        let error = family.load().err().unwrap().to_string();
        let expected = "config.json: num_experts_per_tok must be at most the experts";
        assert!(error.starts_with(expected), "{field}: {error}");
    }
}

#[test]
fn long_sequences_decode_as_they_prefill() {
    // Beyond the first rotary tables and many windows.
    for name in ["gemma3", "gpt-oss", "deepseek-v3"] {
        let mut family = Family::read(name);
        family.config["max_position_embeddings"] = 4096.into();
        let tokens: Vec<u32> = (0..1040).map(|i| 3 + (i * i + 7 * i) % 120).collect();
        let load = || {
            let files: ModelFiles = family.files();
            Model::load_blocks(&files, 2, (KvDtype::F32, 80))
        };
        let table: Vec<u32> = (0..80).map(|i| (i * 37) % 80).collect();
        let sequence = |tokens: &[u32]| Sequence {
            tokens: tokens.to_vec(),
            computed: 0,
            blocks: table.clone(),
        };
        let mut one = load();
        let whole = one.prefill(&mut sequence(&tokens), usize::MAX);
        let mut two = load();
        let mut cut = sequence(&tokens);
        two.step(&mut [(&mut cut, 1000)]);
        let rest = two.prefill(&mut cut, 1);
        assert!(rest == whole[whole.len() - rest.len()..], "{name}");
        let next = greedy(&rest[rest.len() - one.vocab()..]);
        assert!((next as usize) < one.vocab());
    }
}
