use proptest::prelude::*;
use serde_json::json;
use tensor::Encoding;
use tokenizers::Tokenizer;

use super::*;
mod file;
mod model;

use file::{File, model};

fn open(bytes: Vec<u8>) -> GgufFile {
    GgufFile::open("model.gguf", Bytes::from(bytes).into()).unwrap()
}

fn error(bytes: Vec<u8>) -> String {
    match GgufFile::open("model.gguf", Bytes::from(bytes).into()) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was read"),
    }
}

fn small_file(file: &GgufFile, name: &str) -> serde_json::Value {
    serde_json::from_slice(&file.small_file(name).unwrap().unwrap()).unwrap()
}

#[test]
fn a_llama_has_the_config_of_its_checkpoint() {
    let file = open(model("llama").done());
    let config = small_file(&file, "config.json");
    let fields = [
        ("architectures", json!(["LlamaForCausalLM"])),
        ("vocab_size", json!(6)),
        ("hidden_size", json!(32)),
        ("intermediate_size", json!(64)),
        ("num_hidden_layers", json!(1)),
        ("num_attention_heads", json!(4)),
        ("num_key_value_heads", json!(2)),
        ("max_position_embeddings", json!(128)),
        ("rope_theta", json!(500_000.0)),
        ("attention_bias", json!(false)),
        ("tie_word_embeddings", json!(true)),
        ("eos_token_id", json!(2)),
    ];
    for (field, value) in fields {
        assert_eq!(config[field], value, "{field}");
    }
    let generation = small_file(&file, "generation_config.json");
    assert_eq!(generation["eos_token_id"], json!([2]));
    assert!(file.small_file("model.safetensors").unwrap().is_none());
}

#[test]
fn what_there_is_no_code_for_is_named() {
    let file = open(model("mamba").done());
    let message = file.small_file("config.json").unwrap_err().to_string();
    assert!(message.contains("architecture mamba"), "{message}");
    let file = open(
        model("llama")
            .tensor("blk.0.attn_v.weight", &[32, 16], 19, 512)
            .done(),
    );
    let spec = ("model.layers.0.self_attn.v_proj.weight", &[16, 32]);
    let message = file.take(spec.0, spec.1).unwrap_err().to_string();
    assert!(
        message.contains("type 19 of tensor blk.0.attn_v.weight"),
        "{message}"
    );
    let message = error(b"GGUF\x01\0\0\0".to_vec());
    assert!(message.contains("version 1"), "{message}");
}

#[test]
fn weights_are_found_under_their_usual_names() {
    let file = open(model("llama").done());
    let matrix = file.take("model.embed_tokens.weight", &[6, 32]).unwrap();
    assert_eq!(matrix.encoding(), Encoding::F32);
    let expected: Vec<f32> = (0..192).map(|i| i as f32).collect();
    assert_eq!(matrix.to_f32(), expected);
    let wrong = file.take("model.embed_tokens.weight", &[32, 6]);
    let message = wrong.unwrap_err().to_string();
    assert_eq!(
        message,
        "tensor token_embd.weight has shape [6, 32], the config asks for [32, 6]"
    );
    let missing = file.take("model.norm.weight", &[32]);
    let message = missing.unwrap_err().to_string();
    assert_eq!(message, "the checkpoint has no tensor model.norm.weight");
    assert!(file.has("model.embed_tokens.weight") && !file.has("lm_head.weight"));
}

#[test]
fn llamas_pairs_are_put_half_a_head_apart() {
    // 4 heads of 8: in the file, row 2 i and 2 i + 1 of a head are a pair.
    let q = "model.layers.0.self_attn.q_proj.weight";
    let with_q = |architecture| {
        let rows: Vec<f32> = (0..32 * 32).map(|i| (i / 32) as f32).collect();
        let file = open(
            model(architecture)
                .floats("blk.0.attn_q.weight", &[32, 32], &rows)
                .done(),
        );
        let matrix = file.take(q, &[32, 32]).unwrap().to_f32();
        (0..32).map(|row| matrix[row * 32]).collect::<Vec<_>>()
    };
    let apart = [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0];
    assert_eq!(with_q("llama")[8..16], apart.map(|row| row + 8.0));
    assert_eq!(
        with_q("qwen2")[8..16],
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0].map(|row| row + 8.0)
    );
}

#[test]
fn an_expert_is_a_matrix_of_a_tensor_of_several() {
    let values: Vec<f32> = (0..3 * 4 * 32).map(|i| i as f32).collect();
    let file = open(
        model("qwen3moe")
            .floats("blk.0.ffn_up_exps.weight", &[32, 4, 3], &values)
            .done(),
    );
    let of = |expert| {
        let name = format!("model.layers.0.mlp.experts.{expert}.up_proj.weight");
        file.take(&name, &[4, 32])
    };
    assert_eq!(of(2).unwrap().to_f32(), values[256..]);
    assert!(of(3).is_err());
}

#[test]
fn gemmas_norms_lose_the_one_that_was_added() {
    let file = open(
        model("gemma2")
            .floats("output_norm.weight", &[32], &[1.5; 32])
            .done(),
    );
    let norm = file.take("model.norm.weight", &[32]).unwrap();
    assert_eq!(norm.to_f32(), [0.5; 32]);
}

#[test]
fn llama_3_scaling_is_recognised_by_its_outcome() {
    let divisors = |factor: f64| -> Vec<f32> {
        (0..64)
            .map(|i| {
                let turns = 8192.0 * 500_000f64.powf(-f64::from(i) / 64.0) / std::f64::consts::TAU;
                let kept = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
                (1.0 / (kept + (1.0 - kept) / factor)) as f32
            })
            .collect()
    };
    let config = |divisors: &[f32]| {
        let file = open(
            model("llama")
                .floats("rope_freqs.weight", &[64], divisors)
                .done(),
        );
        file.small_file("config.json")
    };
    let found = config(&divisors(32.0)).unwrap().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
    assert_eq!(found["rope_scaling"]["rope_type"], "llama3");
    assert_eq!(found["rope_scaling"]["factor"], 32.0);
    let mut strange = divisors(32.0);
    strange[40] *= 1.1;
    assert!(config(&strange).is_err());
}

/// A byte-level tokenizer's GGUF form, made from the demo model's own.
fn demo_tokenizer() -> (Tokenizer, Tokenizer) {
    let original = include_bytes!("../../../demo-model/tokenizer.json");
    let json: serde_json::Value = serde_json::from_slice(original).unwrap();
    let mut tokens = vec![String::new(); 1536];
    for (token, id) in json["model"]["vocab"].as_object().unwrap() {
        tokens[id.as_u64().unwrap() as usize] = token.clone();
    }
    let merges = json["model"]["merges"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let merges: Vec<_> = merges
        .iter()
        .map(|merge| format!("{} {}", text(&merge[0]), text(&merge[1])))
        .collect();
    let mut kinds = vec![1; 1536];
    for added in json["added_tokens"].as_array().unwrap() {
        kinds[added["id"].as_u64().unwrap() as usize] = 3;
    }
    let file = File::default()
        .text("general.architecture", "llama")
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", &tokens)
        .texts("tokenizer.ggml.merges", &merges)
        .integers("tokenizer.ggml.token_type", &kinds)
        .unsigned("tokenizer.ggml.bos_token_id", 0)
        .flag("tokenizer.ggml.add_bos_token", true);
    let made = open(file.done())
        .small_file("tokenizer.json")
        .unwrap()
        .unwrap();
    (
        Tokenizer::from_bytes(original).unwrap(),
        Tokenizer::from_bytes(made).unwrap(),
    )
}

#[test]
fn a_byte_level_tokenizer_encodes_as_the_one_it_was_made_from() {
    let (original, made) = demo_tokenizer();
    let texts = [
        "",
        "Once upon a time, there was a dragon.",
        "  spaces\n\nand\tlines  ",
        "<|user|>don't 12345 \u{e9}\u{4e2d}\u{1f409}<|end|>",
    ];
    for text in texts {
        for special in [true, false] {
            let expected = original.encode(text, special).unwrap();
            let found = made.encode(text, special).unwrap();
            assert_eq!(found.get_ids(), expected.get_ids(), "{text:?}");
            assert_eq!(
                made.decode(found.get_ids(), false).unwrap(),
                original.decode(expected.get_ids(), false).unwrap()
            );
        }
    }
}

#[test]
fn a_sentence_piece_tokenizer_merges_by_score_and_falls_back_to_bytes() {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut kinds = vec![2, 3, 3];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    kinds.extend([6; 256]);
    let pieces = [
        "\u{2581}",
        "h",
        "e",
        "l",
        "o",
        "he",
        "ll",
        "\u{2581}he",
        "llo",
        "\u{2581}hello",
        "hell",
    ];
    tokens.extend(pieces.map(str::to_owned));
    kinds.extend([1; 11]);
    let scores: Vec<f32> = (0..tokens.len()).map(|i| -(i as f32)).collect();
    let file = File::default()
        .text("general.architecture", "llama")
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .floats_list("tokenizer.ggml.scores", &scores)
        .integers("tokenizer.ggml.token_type", &kinds)
        .unsigned("tokenizer.ggml.bos_token_id", 1)
        .unsigned("tokenizer.ggml.eos_token_id", 2)
        .text("tokenizer.chat_template", "{{ messages }}");
    let file = open(file.done());
    let json = file.small_file("tokenizer.json").unwrap().unwrap();
    let tokenizer = Tokenizer::from_bytes(json).unwrap();
    let encoded = tokenizer.encode("hello \u{e9}</s>", true).unwrap();
    assert_eq!(
        encoded.get_tokens(),
        [
            "<s>",
            "\u{2581}hello",
            "\u{2581}",
            "<0xC3>",
            "<0xA9>",
            "</s>"
        ]
    );
    assert_eq!(
        tokenizer.decode(encoded.get_ids(), true).unwrap(),
        "hello \u{e9}"
    );
    let config = small_file(&file, "tokenizer_config.json");
    assert_eq!(config["chat_template"], "{{ messages }}");
    assert_eq!(
        (&config["bos_token"], &config["add_bos_token"]),
        (&json!("<s>"), &json!(true))
    );
}

/// Everything that a server would read of a file.
fn read_all(bytes: Vec<u8>) {
    let Ok(file) = GgufFile::open("model.gguf", Bytes::from(bytes).into()) else {
        return;
    };
    for name in crate::TOKENIZER_FILES {
        let _ = file.small_file(name);
    }
    for (name, rows) in [
        ("model.embed_tokens.weight", 6),
        ("model.layers.0.self_attn.q_proj.weight", 32),
        ("model.norm.weight", 32),
    ] {
        let _ = file.take(name, &[rows, 32]);
    }
    assert!(
        file.tensors_by_offset()
            .map(|bytes| bytes.len())
            .sum::<usize>()
            <= 1 << 20
    );
}

fn whole() -> Vec<u8> {
    let q: Vec<f32> = (0..32 * 32).map(|i| i as f32).collect();
    model("llama")
        .floats("blk.0.attn_q.weight", &[32, 32], &q)
        .text("tokenizer.ggml.model", "gpt2")
        .texts("tokenizer.ggml.tokens", &["a".to_owned(), "b".to_owned()])
        .texts("tokenizer.ggml.merges", &["a b".to_owned()])
        .done()
}

#[test]
fn a_file_cut_anywhere_is_refused_or_read_without_panic() {
    let whole = whole();
    let header = open(whole.clone()).header().len();
    for length in 0..whole.len() {
        if length < header {
            let message = error(whole[..length].to_vec());
            assert!(message.starts_with("model.gguf is damaged"), "{message}");
        } else if length % 97 == 0 {
            read_all(whole[..length].to_vec());
        }
    }
}

#[test]
fn announced_sizes_beyond_the_file_are_refused() {
    let announce = |at: usize, value: u64| {
        let mut bytes = whole();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    // Tensors, pairs, and the length of the first key.
    for at in [8, 16, 24] {
        for value in [u64::MAX, 1 << 62, 1 << 40, 1 << 20] {
            assert!(error(announce(at, value)).contains("damaged"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = whole();
        for (at, value) in changes {
            // Headers matter more than numbers.
            let at = at.index(bytes.len().min(1400));
            bytes[at] = value;
        }
        read_all(bytes);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(bytes);
        read_all(file);
    }
}
