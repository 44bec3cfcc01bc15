use futures::stream;

use super::*;
use crate::sequence::Sequence;
use crate::tokenize::fixture::{self, EOS, bytes, events, finished, started, tokens};
use crate::tokenize::{Options, Prompt, Request};

async fn sequence(options: Options) -> Sequence {
    let request = Request {
        model: "tiny".to_owned(),
        prompts: vec![Prompt::Text(Arc::from("hello"))],
        options,
        hints: Default::default(),
    };
    fixture::sequences(&fixture::byte_level(), &request)
        .await
        .remove(0)
}

fn stop(stop: &[&str]) -> TextOptions {
    TextOptions {
        stop: stop.iter().map(|&stop| stop.to_owned()).collect(),
        ..TextOptions::default()
    }
}

async fn pieces(options: Options, given: Vec<Event>) -> Vec<Piece> {
    let text = options.text.clone();
    let sequence = sequence(options).await;
    let choice = Choice::new(&sequence, &text, events(given));
    choice.map(|piece| piece.unwrap()).collect().await
}

fn text(pieces: &[Piece]) -> String {
    pieces.iter().map(|piece| piece.text.as_str()).collect()
}

fn end(pieces: &[Piece]) -> (FinishReason, usize) {
    let end = pieces.last().unwrap().end.as_ref().unwrap();
    (end.reason, end.generated)
}

#[tokio::test]
async fn end_of_text_is_counted_but_not_shown() {
    let given = vec![
        started(3),
        tokens(&bytes("hi")),
        tokens(&[EOS]),
        finished(FinishReason::Stop),
    ];
    let pieces = pieces(Options::default(), given).await;
    assert_eq!(text(&pieces), "hi");
    assert_eq!(end(&pieces), (FinishReason::Stop, 3));
    assert_eq!(
        pieces.last().unwrap().end.as_ref().unwrap().cached_tokens,
        3
    );
    let shown: Vec<bool> = pieces
        .iter()
        .flat_map(|piece| &piece.tokens)
        .map(|token| token.shown)
        .collect();
    assert_eq!(shown, [true, true, false]);
}

#[tokio::test]
async fn stop_token_of_the_request_is_not_shown_either() {
    let options = Options {
        stop_token_ids: bytes("!"),
        ..Options::default()
    };
    let given = vec![tokens(&bytes("hi!")), finished(FinishReason::Stop)];
    assert_eq!(text(&pieces(options, given).await), "hi");
}

#[tokio::test]
async fn ignored_end_of_text_goes_on() {
    let options = Options {
        ignore_eos: true,
        ..Options::default()
    };
    let mut ids = bytes("a");
    ids.push(EOS);
    ids.extend(bytes("b"));
    let given = vec![tokens(&ids), finished(FinishReason::Length)];
    let pieces = pieces(options, given).await;
    assert_eq!(
        (text(&pieces).as_str(), end(&pieces)),
        ("ab", (FinishReason::Length, 3))
    );
}

#[tokio::test]
async fn stop_string_ends_the_choice_and_drops_its_events() {
    let held = Arc::new(());
    let guard = Arc::clone(&held);
    let texts = ["so E", "ND on"].map(|text| tokens(&bytes(text)));
    let given = stream::iter([started(5)].into_iter().chain(texts).map(Ok))
        .chain(stream::pending())
        .map(move |event| {
            let _held = &guard;
            event
        })
        .boxed();
    let mut choice = Choice::new(&sequence(Options::default()).await, &stop(&["END"]), given);

    let first = choice.next().await.unwrap().unwrap();
    assert_eq!((first.text.as_str(), first.tokens.len()), ("so ", 3));
    assert_eq!(Arc::strong_count(&held), 2);
    let last = choice.next().await.unwrap().unwrap();

    assert_eq!(last.text, "");
    let end = last.end.unwrap();
    assert_eq!(
        (end.reason, end.generated, end.cached_tokens),
        (FinishReason::Stop, 6, 5)
    );
    assert!(last.tokens.iter().all(|token| !token.shown));
    assert_eq!(Arc::strong_count(&held), 1, "the events are dropped");
    assert!(choice.next().await.is_none());
}

#[tokio::test]
async fn possible_stop_string_comes_out_when_the_text_ends() {
    let options = Options {
        text: stop(&["END"]),
        ..Options::default()
    };
    let given = vec![tokens(&bytes("the EN")), finished(FinishReason::Length)];
    let pieces = pieces(options, given).await;
    assert_eq!(
        (text(&pieces).as_str(), end(&pieces)),
        ("the EN", (FinishReason::Length, 6))
    );
    assert_eq!(pieces[0].text, "the ");
}

#[tokio::test]
async fn stop_strings_wait_for_min_tokens() {
    let options = Options {
        text: stop(&["x"]),
        min_tokens: 3,
        ..Options::default()
    };
    let given = vec![tokens(&bytes("axbxc")), finished(FinishReason::Length)];
    let pieces = pieces(options, given).await;
    assert_eq!(
        (text(&pieces).as_str(), end(&pieces)),
        ("axb", (FinishReason::Stop, 4))
    );
}

#[tokio::test]
async fn tokens_of_an_incomplete_character_come_with_it() {
    let ids = bytes("é!");
    let given = vec![
        tokens(&ids[..1]),
        tokens(&ids[1..2]),
        tokens(&ids[2..]),
        finished(FinishReason::Length),
    ];
    let pieces = pieces(Options::default(), given).await;
    let shape: Vec<(&str, usize)> = pieces
        .iter()
        .map(|piece| (piece.text.as_str(), piece.tokens.len()))
        .collect();
    assert_eq!(shape, [("é", 2), ("!", 1), ("", 0)]);
    assert_eq!(pieces[1].tokens[0].offset, 1, "in characters");
}

#[tokio::test]
async fn cut_off_character_shows_as_a_replacement() {
    let given = vec![tokens(&bytes("aé")[..2]), finished(FinishReason::Length)];
    assert_eq!(text(&pieces(Options::default(), given).await), "a\u{fffd}");
}

#[tokio::test]
async fn failure_ends_the_choice() {
    let lost = ApiError::new(ErrorCode::WorkerLost, "gone");
    let failing = stream::iter([Ok(tokens(&bytes("a"))), Err(lost.clone())]).boxed();
    let sequence = sequence(Options::default()).await;
    let results: Vec<_> = Choice::new(&sequence, &stop(&[]), failing).collect().await;
    assert_eq!(results.len(), 2);
    assert_eq!(results[1], Err(lost));

    let silent = stream::iter([Ok(tokens(&bytes("a")))]).boxed();
    let results: Vec<_> = Choice::new(&sequence, &stop(&[]), silent).collect().await;
    assert_eq!(results[1].as_ref().unwrap_err().code, ErrorCode::Internal);
}
