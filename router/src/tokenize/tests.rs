use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn chat(text: &str) -> Prompt {
    let message = Message {
        role: "user".to_owned(),
        content: text.to_owned(),
        ..Message::default()
    };
    Prompt::Chat(Arc::new(Conversation {
        messages: vec![message],
        tools: None,
        add_generation_prompt: true,
        variables: serde_json::Map::new(),
    }))
}

fn request(prompts: Vec<Prompt>, options: Options) -> Request {
    Request {
        model: "tiny".to_owned(),
        prompts,
        options,
        hints: Default::default(),
    }
}

async fn refusal(model: &Arc<Model>, prompt: Prompt, options: Options) -> ApiError {
    let tokenize = Tokenize::new(&Config {
        threads: 1,
        ..Config::default()
    })
    .unwrap();
    let request = request(vec![prompt], options);
    tokenize
        .sequences(model, &request, &fixture::origin())
        .await
        .unwrap_err()
}

#[tokio::test]
async fn defaults_come_from_the_model_then_from_openai() {
    let sequences = fixture::sequences(
        &fixture::byte_level(),
        &request(vec![chat("hello")], Options::default()),
    )
    .await;
    let [sequence] = sequences.as_slice() else {
        panic!("{sequences:?}");
    };
    let sampling = &sequence.sampling;
    assert_eq!(
        (sampling.temperature, sampling.top_k, sampling.top_p),
        (0.5, 40, 1.0)
    );
    assert_eq!((sampling.min_p, sampling.repetition_penalty), (0.0, 1.0));
    assert_eq!(sampling.max_tokens, 512 - sequence.prompt.len());
    let text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n";
    let tokenizer = &sequence.model.vocabulary().tokenizer;
    assert_eq!(
        &sequence.prompt[..],
        tokenizer.encode(text, false).unwrap().get_ids()
    );
    assert_eq!(sequence.prompt[0], fixture::IM_START);
}

#[tokio::test]
async fn own_options_win_over_the_models() {
    let options = Options {
        temperature: Some(0.0),
        top_k: Some(0),
        seed: Some(7),
        max_tokens: MaxTokens::Exactly(5),
        ..Options::default()
    };
    let sequences = fixture::sequences(
        &fixture::byte_level(),
        &request(vec![chat("hello")], options),
    )
    .await;
    let sampling = &sequences[0].sampling;
    assert_eq!((sampling.temperature, sampling.top_k), (0.0, 0));
    assert_eq!((sampling.seed, sampling.max_tokens), (7, 5));
}

#[tokio::test]
async fn completions_of_a_prompt_differ_only_in_number_and_seed() {
    let prompts = ["a", "b"].map(|text| Prompt::Text(Arc::from(text)));
    let options = Options {
        seed: Some(11),
        n: 2,
        ..Options::default()
    };
    let sequences =
        fixture::sequences(&fixture::byte_level(), &request(prompts.to_vec(), options)).await;
    let numbers: Vec<usize> = sequences.iter().map(|sequence| sequence.choice).collect();
    let seeds: Vec<u64> = sequences
        .iter()
        .map(|sequence| sequence.sampling.seed)
        .collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    assert_eq!(sequences[0].prompt, sequences[1].prompt);
    assert_ne!(sequences[1].prompt, sequences[2].prompt);
    assert_eq!((seeds[0], seeds[2]), (11, 11));
    assert_eq!(seeds[1], seeds[3]);
    assert_ne!(seeds[0], seeds[1]);
}

#[tokio::test]
async fn seeds_are_random_unless_given() {
    let model = fixture::byte_level();
    let request = request(vec![Prompt::Text(Arc::from("a"))], Options::default());
    let first = fixture::sequences(&model, &request).await[0].sampling.seed;
    let second = fixture::sequences(&model, &request).await[0].sampling.seed;
    assert_ne!(first, second);
}

#[tokio::test]
async fn context_length_is_checked_with_the_numbers() {
    let model = fixture::byte_level();
    let tokens = |count| Prompt::Tokens(vec![5; count].into());
    let options = |max_tokens| Options {
        max_tokens,
        ..Options::default()
    };
    let error = refusal(&model, tokens(500), options(MaxTokens::Exactly(100))).await;
    assert_eq!(error.code, ErrorCode::ContextLengthExceeded);
    for number in ["512", "600", "500", "100"] {
        assert!(error.message.contains(number), "{}", error.message);
    }
    let error = refusal(&model, tokens(512), options(MaxTokens::UpTo(16))).await;
    assert_eq!(error.code, ErrorCode::ContextLengthExceeded);
    assert_eq!(error.param.as_deref(), Some("prompt"));
    let error = refusal(&model, chat(&"x".repeat(600)), Options::default()).await;
    assert_eq!(error.param.as_deref(), Some("messages"));

    let fits = |prompt, max_tokens| {
        let request = request(vec![tokens(prompt)], options(max_tokens));
        let model = Arc::clone(&model);
        async move {
            fixture::sequences(&model, &request).await[0]
                .sampling
                .max_tokens
        }
    };
    assert_eq!(fits(500, MaxTokens::Exactly(12)).await, 12);
    assert_eq!(fits(500, MaxTokens::UpTo(16)).await, 12);
    assert_eq!(fits(511, MaxTokens::UpTo(usize::MAX)).await, 1);
    assert_eq!(fits(512, MaxTokens::Exactly(0)).await, 0);
}

#[tokio::test]
async fn text_too_long_for_any_context_is_not_encoded() {
    let model = fixture::byte_level();
    let longest = 512 * "<|endoftext|>".len();
    let counted = refusal(
        &model,
        Prompt::Text("x".repeat(longest).into()),
        Options::default(),
    );
    assert!(counted.await.message.contains("6656 in the prompt"));
    let prompts = [
        Prompt::Text("x".repeat(longest + 1).into()),
        chat(&"x".repeat(longest)),
    ];
    for prompt in prompts {
        let param = prompt.param();
        let error = refusal(&model, prompt, Options::default()).await;
        assert_eq!(error.code, ErrorCode::ContextLengthExceeded);
        assert_eq!(error.param.as_deref(), Some(param));
        assert!(error.message.contains("no text of"), "{}", error.message);
    }
}

#[tokio::test]
async fn prompts_the_model_cannot_take_are_refused() {
    let model = fixture::byte_level();
    let check = |prompt, param: &'static str, words: &'static str| {
        let model = Arc::clone(&model);
        async move {
            let error = refusal(&model, prompt, Options::default()).await;
            assert_eq!(error.code, ErrorCode::InvalidRequest);
            assert_eq!(error.param.as_deref(), Some(param));
            assert!(error.message.contains(words), "{}", error.message);
        }
    };
    check(Prompt::Text(Arc::from("")), "prompt", "empty").await;
    check(Prompt::Tokens(Arc::from([])), "prompt", "empty").await;
    check(Prompt::Tokens(Arc::from([3, 271])), "prompt", "271").await;
    let error = refusal(&fixture::sentencepiece(), chat("hello"), Options::default()).await;
    assert!(
        error.message.contains("no chat template"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn growing_conversation_is_not_encoded_again() {
    let tokenize = Tokenize::new(&Config {
        threads: 1,
        ..Config::default()
    })
    .unwrap();
    let model = fixture::byte_level();
    let mut conversation = Conversation {
        messages: Vec::new(),
        tools: None,
        add_generation_prompt: false,
        variables: serde_json::Map::new(),
    };
    let mut misses = Vec::new();
    for turn in 0..3 {
        conversation.messages.push(Message {
            role: "user".to_owned(),
            content: format!("turn {turn} ").repeat(17),
            ..Message::default()
        });
        let prompt = Prompt::Chat(Arc::new(conversation.clone()));
        let request = request(vec![prompt], Options::default());
        tokenize
            .sequences(&model, &request, &fixture::origin())
            .await
            .unwrap();
        misses.push(tokenize.cache_stats().misses);
    }
    assert_eq!(
        misses,
        [2, 3, 4],
        "each turn is encoded once; all end alike"
    );
    assert!(tokenize.cache_stats().hits >= 3);
}

/// Ids of real tokenizers, where the shared data is there.
#[test]
fn published_tokenizers_give_their_published_ids() {
    let Some(shared) = std::env::var_os("KVASIR_SHARED_DATA") else {
        return;
    };
    let models = PathBuf::from(shared).join("models");
    let read = |path: PathBuf| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let inputs = read(models.join("tokenizer-golden/inputs.json"));
    let cache = PieceCache::new(1 << 20);
    for (folder, golden) in [
        ("gpt2", "openai-community__gpt2"),
        ("qwen2.5", "Qwen__Qwen2.5-0.5B"),
        ("tinyllama-1.1b", "TinyLlama__TinyLlama-1.1B-Chat-v1.0"),
    ] {
        let tokenizer = read(models.join(folder).join("tokenizer.json"));
        let config = read(models.join(folder).join("tokenizer_config.json"));
        let card = fixture::card(&tokenizer, &[("tokenizer_config.json", config)]);
        let model = Arc::new(Model::new(card).unwrap());
        let golden = read(models.join(format!("tokenizer-golden/{golden}.json")));
        for input in inputs["inputs"].as_array().unwrap() {
            let name = input["id"].as_str().unwrap();
            let expected = &golden["entries"][name];
            let ids = model
                .encoder()
                .encode_text(input["text"].as_str().unwrap(), &cache)
                .unwrap();
            assert_eq!(json!(&ids[..]), expected["input_ids"], "{folder} {name}");
            // The published text is cleaned up afterwards in some models.
            assert_eq!(
                streamed(&model, &ids),
                model.decode(&ids),
                "{folder} {name}"
            );
        }
    }
}

/// The text of `ids` in pieces.
fn streamed(model: &Arc<Model>, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(model, &[], true);
    let mut text = String::new();
    for &id in ids {
        detokenizer.push(id, &mut text);
    }
    detokenizer.finish(&mut text);
    text
}

#[test]
fn incomplete_characters_are_held_back() {
    let model = fixture::byte_level();
    let mut detokenizer = Detokenizer::new(&model, &[], true);
    let mut shown = Vec::new();
    for id in fixture::bytes("aé🦀") {
        let mut text = String::new();
        detokenizer.push(id, &mut text);
        shown.push(text);
    }
    assert_eq!(shown, ["a", "", "é", "", "", "", "🦀"]);
}

#[test]
fn sentencepiece_text_drops_its_leading_space_only_at_the_start() {
    let model = fixture::sentencepiece();
    let encode = |text| {
        let cache = PieceCache::new(0);
        model.encoder().encode_text(text, &cache).unwrap()
    };
    let ids = encode("hello a b");
    assert_eq!(ids[0], 1, "the tokenizer adds <s>");
    assert_eq!(streamed(&model, &ids), "hello a b");
    let mut continued = Detokenizer::new(&model, &ids, true);
    let mut text = String::new();
    continued.push(ids[1], &mut text);
    assert_eq!(text, " hello");
    let mut after_start = Detokenizer::new(&model, &[1], true);
    text.clear();
    after_start.push(ids[1], &mut text);
    assert_eq!(text, "hello");
}

proptest! {
    #[test]
    fn pieces_together_are_the_whole_text(ids in prop::collection::vec(0u32..271, 0..40)) {
        let model = fixture::byte_level();
        prop_assert_eq!(streamed(&model, &ids), model.decode(&ids));
    }

    #[test]
    fn sentencepiece_pieces_together_are_the_whole_text(text in "[ a-eé🦀<>]{0,30}", end in 0usize..9) {
        let model = fixture::sentencepiece();
        let mut ids = model.encoder().encode_text(&text, &PieceCache::new(0)).unwrap().to_vec();
        prop_assert_eq!(streamed(&model, &ids), model.decode(&ids));
        // Cut anywhere, perhaps within a character.
        ids.truncate(ids.len().saturating_sub(end));
        let cut = streamed(&model, &ids);
        prop_assert!(text.starts_with(cut.trim_end_matches(char::REPLACEMENT_CHARACTER)), "{}", cut);
    }

    #[test]
    fn unknown_decoder_is_streamed_all_the_same(text in "[a-z é🦀]{0,30}") {
        let model = fixture::other_decoder();
        let ids = model.encoder().encode_text(&text, &PieceCache::new(0)).unwrap();
        prop_assert_eq!(streamed(&model, &ids), text);
    }
}
