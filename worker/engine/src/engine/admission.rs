//! Which requests are taken.

use crate::engine::Engine;
use crate::error::Rejected;
use crate::request::{KvSource, Purpose, Request};
use crate::sequence::State;

impl Engine {
    pub(super) fn check(&self, request: &Request) -> Result<(), Rejected> {
        self.check_tokens(request)?;
        check_purpose(request).map_err(|message| Rejected::Invalid(message.to_owned()))?;
        if self.scheduler.get(request.id).is_some() {
            let message = format!("sequence {} is running already", request.id.0);
            return Err(Rejected::Invalid(message));
        }
        let waiting = self.scheduler.count(State::Waiting);
        if waiting >= self.config().max_waiting {
            return Err(Rejected::Busy { waiting });
        }
        Ok(())
    }

    fn check_tokens(&self, request: &Request) -> Result<(), Rejected> {
        let tokens = request.tokens.len();
        if request.resumed_tokens >= tokens {
            let message = "the prompt is empty; send one token at least";
            return Err(Rejected::Invalid(message.to_owned()));
        }
        let vocab_size = self.shape().vocab_size;
        if let Some(token) = request
            .tokens
            .iter()
            .find(|token| **token as usize >= vocab_size)
        {
            let message = format!("token {token} is outside of the vocabulary of {vocab_size}");
            return Err(Rejected::Invalid(message));
        }
        // A resumed sequence may have come to the end of the context already.
        let draws = request.sampling.max_tokens > 0 && request.resumed_tokens == 0;
        let limit = self.max_model_len() - usize::from(draws).min(self.max_model_len());
        match tokens > limit {
            true => Err(Rejected::PromptTooLong { tokens, limit }),
            false => Ok(()),
        }
    }
}

fn check_purpose(request: &Request) -> Result<(), &'static str> {
    let split = request.purpose == Purpose::HandOver || request.kv == KvSource::Receive;
    if split && request.sampling.max_tokens == 0 {
        return Err("only a sequence that draws a token is handed over; set max_tokens");
    }
    let embeds = matches!(request.purpose, Purpose::Embed(_));
    if embeds && (request.sampling.max_tokens > 0 || request.kv == KvSource::Receive) {
        return Err("an embedding draws no token and receives no kv; set max_tokens to 0");
    }
    if request.kv == KvSource::Receive && request.sampling.prompt_logprobs.is_some() {
        return Err("prompt logprobs need the prompt computed here; don't import its kv");
    }
    Ok(())
}
