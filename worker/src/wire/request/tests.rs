use proto::ErrorCode;

use super::*;

fn identity() -> BlockIdentity {
    BlockIdentity {
        model_fingerprint: "m".into(),
        block_size: 16,
    }
}

fn prompt(tokens: &[u32]) -> pb::Prompt {
    pb::Prompt {
        request_id: "r".into(),
        token_ids: tokens.to_vec(),
        resumed_tokens: 0,
        sampling: Some(pb::Sampling {
            top_p: 1.0,
            repetition_penalty: 1.0,
            max_tokens: 4,
            ..pb::Sampling::default()
        }),
        cache_salt: String::new(),
        constraint: None,
        pooling: pb::Pooling::None.into(),
        priority: 0,
    }
}

fn code(prompt: pb::Prompt) -> Option<ErrorCode> {
    identity()
        .request(
            Some(prompt),
            SequenceId(1),
            KvSource::Compute,
            Purpose::Generate,
        )
        .err()
        .map(|failure| failure.code)
}

fn with_sampling(change: impl FnOnce(&mut pb::Sampling)) -> pb::Prompt {
    let mut prompt = prompt(&[1]);
    change(prompt.sampling.as_mut().unwrap());
    prompt
}

#[test]
fn refuses_a_prompt_without_sampling() {
    assert_eq!(code(prompt(&[1])), None);
    let bad = pb::Prompt {
        sampling: None,
        ..prompt(&[1])
    };
    assert_eq!(code(bad), Some(ErrorCode::InvalidRequest));
}

#[test]
fn refuses_sampling_out_of_range() {
    let bad = [
        with_sampling(|it| it.temperature = -1.0),
        with_sampling(|it| it.temperature = f32::NAN),
        with_sampling(|it| it.top_p = 0.0),
        with_sampling(|it| it.top_p = 1.1),
        with_sampling(|it| it.min_p = 2.0),
        with_sampling(|it| it.repetition_penalty = 0.0),
        with_sampling(|it| it.presence_penalty = f32::INFINITY),
        with_sampling(|it| it.frequency_penalty = f32::NAN),
        with_sampling(|it| it.logit_bias = [(1, f32::NAN)].into()),
    ];
    for bad in bad {
        assert_eq!(
            code(bad.clone()),
            Some(ErrorCode::InvalidRequest),
            "{bad:?}"
        );
    }
}

#[test]
fn a_constraint_alone_decides_where_the_text_ends() {
    let constrained = |change: fn(&mut pb::Sampling)| pb::Prompt {
        constraint: Some(pb::Constraint::default()),
        ..with_sampling(change)
    };
    assert_eq!(code(constrained(|_| {})), None);
    let bad: [fn(&mut pb::Sampling); 4] = [
        |it| it.ignore_eos = true,
        |it| it.min_tokens = 1,
        |it| it.allowed_token_ids = vec![1],
        |it| it.banned = vec![pb::TokenSequence { ids: vec![1] }],
    ];
    for bad in bad {
        assert_eq!(code(constrained(bad)), Some(ErrorCode::InvalidRequest));
    }
}

#[test]
fn salt_separates_blocks() {
    let scope = |salt: &str| {
        let prompt = pb::Prompt {
            cache_salt: salt.into(),
            ..prompt(&[1])
        };
        identity()
            .request(
                Some(prompt),
                SequenceId(1),
                KvSource::Compute,
                Purpose::Generate,
            )
            .unwrap()
            .scope
    };
    assert_eq!(scope("a"), scope("a"));
    assert_ne!(scope("a"), scope("b"));
}
