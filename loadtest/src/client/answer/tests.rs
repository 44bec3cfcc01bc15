use super::*;

const EXACT: Output = Output {
    max_tokens: 3,
    exact: true,
};
const UP_TO: Output = Output {
    max_tokens: 3,
    exact: false,
};

/// Reads a stream of events; its outcome as far as events tell.
fn read_all(events: &[&str], answer: &mut Answer, asked: Output) -> Outcome {
    for data in events {
        let event = Event {
            name: b"",
            data: data.as_bytes(),
        };
        if let ControlFlow::Break(end) = answer.read_event(Instant::now(), event) {
            return end.err().unwrap_or_else(|| answer.judge(asked));
        }
    }
    Outcome::CutStream
}

fn tokens(events: &[&str]) -> Vec<u32> {
    let mut answer = Answer::new(false);
    read_all(events, &mut answer, UP_TO);
    answer.chunks.iter().map(|it| it.1).collect()
}

#[test]
fn counts_chunks_with_output_and_their_tokens() {
    let cases: &[(&[&str], &[u32])] = &[
        (
            &[r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#],
            &[],
        ),
        (&[r#"{"choices":[{"delta":{"content":"a"}}]}"#], &[1]),
        (
            &[r#"{"choices":[{"delta":{"reasoning_content":"a"}}]}"#],
            &[1],
        ),
        (
            &[r#"{"choices":[{"delta":{"reasoning":"a","content":null}}]}"#],
            &[1],
        ),
        (
            &[r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#],
            &[1],
        ),
        (
            &[
                r#"{"choices":[{"text":"\u00e9\n"}]}"#,
                r#"{"choices":[{"text":""}]}"#,
            ],
            &[1],
        ),
        (&[r#"{"choices":[{"text":"","token_ids":[7,8]}]}"#], &[2]),
        (
            &[r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":3}}"#],
            &[],
        ),
        (
            &[
                r#"{"choices":[{"text":"a"}],"usage":{"completion_tokens":1}}"#,
                r#"{"choices":[{"text":"b c"}],"usage":{"completion_tokens":4}}"#,
            ],
            &[1, 3],
        ),
        (
            &[r#"{"choices":[{"delta":{}}],"usage":null,"error":null}"#],
            &[],
        ),
    ];
    for (events, expected) in cases {
        assert_eq!(tokens(events), *expected, "{events:?}");
    }
}

#[test]
fn tells_how_a_stream_ended() {
    let length = r#"{"choices":[{"text":"","finish_reason":"length"}]}"#;
    let stop = r#"{"choices":[{"text":"","finish_reason":"stop"}]}"#;
    let abort = r#"{"choices":[{"text":"","finish_reason":"abort"}]}"#;
    let failed = r#"{"choices":[{"text":"","finish_reason":"error"}]}"#;
    let two = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#;
    let three = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    let four = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}"#;
    let done = "[DONE]";
    let cases: &[(&[&str], Output, Outcome)] = &[
        (&[length, three, done], EXACT, Outcome::Complete),
        (&[length, two, done], EXACT, Outcome::WrongTokenCount),
        (&[stop, four, done], EXACT, Outcome::WrongTokenCount),
        (&[length, done], EXACT, Outcome::Complete),
        (&[stop, done], EXACT, Outcome::Truncated),
        (&[stop, two, done], UP_TO, Outcome::Complete),
        (&[length, three, done], UP_TO, Outcome::Complete),
        (&[length, two, done], UP_TO, Outcome::Truncated),
        (&[length, four, done], UP_TO, Outcome::WrongTokenCount),
        (&[abort, two, done], UP_TO, Outcome::Truncated),
        (&[done], UP_TO, Outcome::Truncated),
        (&[failed, done], UP_TO, Outcome::ErrorEvent),
        (&[length, three], EXACT, Outcome::CutStream),
        (&[], EXACT, Outcome::CutStream),
        (&["{", done], EXACT, Outcome::Malformed),
        (&["[1]", done], EXACT, Outcome::Malformed),
        (
            &[r#"{"error":{"message":"m"}}"#, done],
            EXACT,
            Outcome::ErrorEvent,
        ),
        (
            &[r#"{"object":"error","message":"m"}"#],
            EXACT,
            Outcome::ErrorEvent,
        ),
    ];
    for (events, asked, expected) in cases {
        let outcome = read_all(events, &mut Answer::new(false), *asked);
        assert_eq!(&outcome, expected, "{events:?} {asked:?}");
    }
}

#[test]
fn an_event_named_error_is_one_whatever_it_says() {
    let event = Event {
        name: b"error",
        data: b"overloaded",
    };
    let read = Answer::new(false).read_event(Instant::now(), event);
    assert_eq!(read, ControlFlow::Break(Err(Outcome::ErrorEvent)));
}

#[test]
fn reads_a_body_with_usage_and_text() {
    let mut answer = Answer::new(true);
    let body = br#"{"choices":[{"message":{"content":"hi \"x\""},"finish_reason":"length"}],
        "usage":{"prompt_tokens":9,"completion_tokens":3,
                 "prompt_tokens_details":{"cached_tokens":8}}}"#;
    answer.read_body(Instant::now(), body).unwrap();
    assert_eq!(answer.text.as_deref(), Some("hi \"x\""));
    assert_eq!(answer.chunks.len(), 1);
    assert_eq!(answer.chunks[0].1, 3);
    let usage = Usage {
        prompt_tokens: 9,
        completion_tokens: 3,
        cached_tokens: Some(8),
    };
    assert_eq!(answer.usage, Some(usage));
    assert_eq!(answer.judge(EXACT), Outcome::Complete);
}

#[test]
fn a_body_without_choices_is_malformed_or_an_error() {
    let read = |body: &[u8]| Answer::new(false).read_body(Instant::now(), body);
    assert_eq!(read(b"{}"), Err(Outcome::Malformed));
    assert_eq!(read(b"<html>"), Err(Outcome::Malformed));
    assert_eq!(read(br#"{"error":"x"}"#), Err(Outcome::ErrorEvent));
}
