use std::collections::BTreeMap;
use std::time::Duration;

use super::super::prompt::Vocabulary;
use super::*;
use crate::workload::tests::config;

fn tokens(flags: &str, seed: u64) -> Synthetic {
    let maker = PromptMaker::new(Vocabulary::Ids((300..1000).collect()), false);
    Synthetic::new(&config(flags).synthetic, maker, true, seed)
}

fn chat(flags: &str, seed: u64) -> Synthetic {
    let maker = PromptMaker::new(Vocabulary::Words, true);
    Synthetic::new(&config(flags).synthetic, maker, true, seed)
}

fn ids(request: &PlannedRequest) -> &[u32] {
    match &request.prompt {
        Prompt::Tokens(tokens) => tokens,
        other => panic!("{other:?}"),
    }
}

fn messages(request: &PlannedRequest) -> &[ChatMessage] {
    match &request.prompt {
        Prompt::Chat(messages) => messages,
        other => panic!("{other:?}"),
    }
}

fn take(workload: &mut Synthetic, count: usize) -> Vec<PlannedRequest> {
    std::iter::from_fn(|| workload.next()).take(count).collect()
}

#[test]
fn lengths_are_as_asked_for() {
    let mut workload = tokens("--input-tokens uniform:10..20 --output-tokens 7", 1);
    let requests = take(&mut workload, 500);
    for (number, request) in requests.iter().enumerate() {
        let length = ids(request).len();
        assert!((10..=20).contains(&length));
        assert_eq!(request.prompt_tokens, Some(length as u32));
        assert_eq!(request.number, number as u64);
        let expected = Output {
            max_tokens: 7,
            exact: true,
        };
        assert_eq!(request.output, expected);
    }
    let distinct: std::collections::BTreeSet<_> = requests.iter().map(ids).collect();
    assert_eq!(distinct.len(), 500);
}

#[test]
fn groups_share_a_prefix_and_nothing_else() {
    let flags = "--input-tokens 20 --prefix-groups 4 --prefix-tokens 30 --prefix-skew 1";
    let requests = take(&mut tokens(flags, 1), 2000);
    let mut groups: BTreeMap<&[u32], usize> = BTreeMap::new();
    for request in &requests {
        let tokens = ids(request);
        assert_eq!(tokens.len(), 50);
        *groups.entry(&tokens[..30]).or_default() += 1;
    }
    let mut counts: Vec<_> = groups.into_values().collect();
    counts.sort_unstable();
    // 1, 1/2, 1/3 and 1/4 of 12/25 of all.
    let expected = [240, 320, 480, 960];
    let near = |(count, expected): (&usize, &usize)| count.abs_diff(*expected) < 80;
    assert!(
        counts.len() == 4 && counts.iter().zip(&expected).all(near),
        "{counts:?}"
    );
    let rests: std::collections::BTreeSet<_> = requests.iter().map(|it| &ids(it)[30..]).collect();
    assert_eq!(rests.len(), 2000);
}

#[test]
fn conversations_grow_by_the_real_answers() {
    let flags = "--turns 3 --input-tokens 9 --message-tokens 4 --think-time 2s \
                 --prefix-groups 1 --prefix-tokens 6";
    let mut workload = chat(flags, 1);
    let first = workload.next().unwrap();
    let turn = first.turn.unwrap();
    assert_eq!((turn.number, turn.think), (0, Duration::ZERO));
    let other = workload.next().unwrap();
    assert_eq!(
        messages(&first)[0],
        messages(&other)[0],
        "the system message is shared"
    );

    let second = workload.next_turn(turn, "the answer").unwrap();
    let said = messages(&second);
    assert_eq!(said[..2], *messages(&first));
    assert_eq!(
        (said[2].role, said[2].content.as_str()),
        ("assistant", "the answer")
    );
    assert_eq!(
        (said[3].role, said[3].content.split(' ').count()),
        ("user", 4)
    );
    assert_eq!(second.turn.unwrap().think, Duration::from_secs(2));
    assert_eq!((first.number, other.number, second.number), (0, 1, 2));

    let third = workload.next_turn(second.turn.unwrap(), "").unwrap();
    assert_eq!(messages(&third).len(), 6);
    assert_eq!(workload.next_turn(third.turn.unwrap(), "bye"), None);
    assert_eq!(
        workload.open.len(),
        1,
        "only the other conversation is kept"
    );
    workload.abandon(other.turn.unwrap().conversation);
    assert!(workload.open.is_empty());
}

#[test]
fn conversations_do_not_depend_on_the_order_of_answers() {
    let flags = "--turns uniform:2..5 --message-tokens uniform:3..30";
    let mut there = chat(flags, 5);
    let mut back = chat(flags, 5);
    let turns = |workload: &mut Synthetic| -> Vec<Turn> {
        take(workload, 10)
            .into_iter()
            .filter_map(|it| it.turn)
            .collect()
    };
    let forward = turns(&mut there);
    let mut backward = turns(&mut back);
    backward.reverse();
    let prompts = |workload: &mut Synthetic, turns: &[Turn]| -> BTreeMap<u64, Prompt> {
        let next = |turn: &Turn| {
            let request = workload.next_turn(*turn, "yes").unwrap();
            (turn.conversation, request.prompt)
        };
        turns.iter().map(next).collect()
    };
    assert_eq!(prompts(&mut there, &forward), prompts(&mut back, &backward));
}

#[test]
fn seed_decides() {
    let flags = "--input-tokens lognormal:mean=50,sigma=1@500 --prefix-groups 3";
    let requests = |seed| take(&mut tokens(flags, seed), 20);
    assert_eq!(requests(1), requests(1));
    assert_ne!(requests(1), requests(2));
}
