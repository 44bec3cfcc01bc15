use super::*;
use crate::workload::build;
use crate::workload::tests::{TempFile, all, config, refused};

const LINES: &str = r#"{"prompt": "one", "max_tokens": 5, "tenant": "acme", "priority": 2}

{"input": "two"}
{"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "three"}]}
{"prompt": [4, 5, 6], "max_tokens": 8}
"#;
const SHARED: &str = r#"
[
  {"id": "a", "conversations": [
    {"from": "human", "value": "first"}, {"from": "gpt", "value": "recorded"},
    {"from": "human", "value": "second"}, {"from": "gpt", "value": "more"},
    {"from": "human", "value": "third"}]},
  {"id": "b", "conversations": [{"from": "gpt", "value": "out of the blue"}]},
  {"id": "c", "conversations": [
    {"from": "system", "value": "be brief"}, {"from": "human", "value": "only"}]}
]"#;

fn workload(text: &str, flags: &str) -> Box<dyn Workload> {
    let file = TempFile::new(text);
    build(&config(&format!("--prompts {} {flags}", file.path())), 1).unwrap()
}

fn said(prompt: &Prompt) -> Vec<(&str, &str)> {
    match prompt {
        Prompt::Chat(messages) => messages.iter().map(|it| (it.role, &*it.content)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn json_lines_are_sent_in_order() {
    let workload = workload(LINES, "--output-tokens 33");
    assert_eq!(workload.len_hint(), Some(4));
    let requests = all(workload);
    assert_eq!(requests[0].prompt, Prompt::Text("one".to_owned()));
    assert_eq!(requests[0].tenant.as_deref(), Some("acme"));
    assert_eq!(requests[0].priority, Some(2));
    assert_eq!(requests[1].prompt, Prompt::Text("two".to_owned()));
    assert_eq!(
        said(&requests[2].prompt),
        [("system", "be brief"), ("user", "three")]
    );
    assert_eq!(requests[3].prompt, Prompt::Tokens(vec![4, 5, 6]));
    assert_eq!(requests[3].prompt_tokens, Some(3));
    let lengths: Vec<u32> = requests.iter().map(|it| it.output.max_tokens).collect();
    assert_eq!(lengths, [5, 33, 33, 8]);
}

#[test]
fn texts_become_messages_if_asked_for() {
    let requests = all(workload(LINES, "--prompt-format chat"));
    assert_eq!(said(&requests[0].prompt), [("user", "one")]);
}

#[test]
fn file_is_repeated_only_if_asked_for() {
    let mut workload = workload(LINES, "--repeat-prompts");
    assert_eq!(workload.len_hint(), None);
    let requests: Vec<_> = (0..9).filter_map(|_| workload.next()).collect();
    assert_eq!(requests.len(), 9);
    assert_eq!(requests[8].number, 8);
    assert_eq!(requests[8].prompt, requests[0].prompt);
}

#[test]
fn first_message_of_shared_conversations_is_sent() {
    let workload = workload(SHARED, "");
    assert_eq!(workload.len_hint(), Some(2));
    let expected = "1 conversations of the file left out: no message of a user";
    assert_eq!(workload.caveats(), [expected]);
    let requests = all(workload);
    assert_eq!(said(&requests[0].prompt), [("user", "first")]);
    assert_eq!(requests[0].turn, None);
    assert_eq!(
        said(&requests[1].prompt),
        [("system", "be brief"), ("user", "only")]
    );
}

#[test]
fn turns_of_shared_conversations_go_on_from_the_real_answer() {
    let mut workload = workload(SHARED, "--turns 9 --think-time 1s");
    assert_eq!(workload.len_hint(), Some(4));
    let first = workload.next().unwrap();
    let second = workload.next_turn(first.turn.unwrap(), "real").unwrap();
    let expected = [("user", "first"), ("assistant", "real"), ("user", "second")];
    assert_eq!(said(&second.prompt), expected);
    assert_eq!(second.turn.unwrap().think, Duration::from_secs(1));
    let third = workload.next_turn(second.turn.unwrap(), "too").unwrap();
    assert_eq!(
        said(&third.prompt)[3..],
        [("assistant", "too"), ("user", "third")]
    );
    assert_eq!(workload.next_turn(third.turn.unwrap(), "bye"), None);
    let other = workload.next().unwrap();
    assert_eq!((other.turn, other.number), (None, 3));
}

#[test]
fn bad_lines_are_named_by_number_with_what_is_expected() {
    let good = "{\"prompt\": \"one\"}\n";
    let table = [
        (
            format!("{good}{{}}\n"),
            "FILE:2: there is no prompt; expected is an object with",
        ),
        (
            format!("{good}\n{{\"prompt\": \"a\", \"input\": \"b\"}}\n"),
            "FILE:3: there is more than one of prompt, input and messages;",
        ),
        (
            format!("{good}not json\n"),
            "FILE:2: expected ident at column 2; expected is",
        ),
        (
            "{\"prompt\": 3}\n".to_owned(),
            "FILE:1: a text or a list of token ids at column",
        ),
        (
            "{\"messages\": []}\n".to_owned(),
            "FILE:1: messages is empty;",
        ),
        (
            "{\"messages\": [{\"role\": \"robot\", \"content\": \"\"}]}\n".to_owned(),
            "FILE:1: there is no role \"robot\";",
        ),
        (
            good.replace('}', ", \"max_tokens\": 0}"),
            "FILE:1: max_tokens is 0;",
        ),
        (
            SHARED.replace("\"first\"", "1"),
            "FILE:4: invalid type: integer `1`, expected a string; expected is a list of",
        ),
        (
            String::new(),
            "FILE: there is no request in it; expected are JSON lines",
        ),
        ("[]".to_owned(), "FILE: there is no request in it"),
    ];
    for (text, expected) in table {
        let error = refused("--prompts", &text);
        assert!(error.starts_with(expected), "{text:?}: {error}");
        assert_eq!(error.lines().count(), 1);
    }
}
