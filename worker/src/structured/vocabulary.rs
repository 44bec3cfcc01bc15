//! The model's tokens as `llguidance` needs them: their bytes, in a trie.

use std::sync::Arc;

use llguidance::api::ParserLimits;
use llguidance::{ParserFactory, panic_utils, token_bytes_from_tokenizer_json};
use serde_json::Value;
use toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

/// What one grammar may cost. A mask takes some 10 ms at the very most; a lexer
/// state takes 1 to 2 kB.
pub(super) const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 25_000,
    max_grammar_size: 500_000,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

/// From the content of tokenizer.json; `eos` end a text. The error says what is
/// wrong with the model.
pub(super) fn factory(tokenizer_json: &[u8], eos: &[u32]) -> Result<ParserFactory, String> {
    let first = eos.first().ok_or("it has no end-of-text token")?;
    let json: Value = serde_json::from_slice(tokenizer_json)
        .map_err(|error| format!("tokenizer.json: {error}"))?;
    // The reader asserts what it takes for granted.
    let read = || token_bytes_from_tokenizer_json(&json);
    let tokens = panic_utils::catch_unwind(std::panic::AssertUnwindSafe(read))
        .map_err(|error| format!("tokenizer.json: {error}"))?;
    let info = TokRxInfo::new(tokens.len() as u32, *first);
    let trie = TokTrie::from(&info, &tokens).with_eos_tokens(eos);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
        .map_err(|error| error.to_string())?;
    factory.quiet();
    *factory.limits_mut() = LIMITS;
    Ok(factory)
}
