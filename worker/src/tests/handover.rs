use tokio::runtime::Runtime;

use super::*;

/// A prefill and a decode worker, and what an undivided one generates.
struct Pair {
    prefill: TestWorker,
    decode: TestWorker,
}

impl Pair {
    async fn start(prefill: Setup) -> Pair {
        Pair {
            prefill: prefill.start().await,
            decode: Setup::default().start().await,
        }
    }

    /// Runs one prompt as a router does.
    async fn split(&self, prompt: pb::Prompt) -> (Generated, pb::Transferred) {
        let mut prefill = self.prefill.prefill(prompt.clone()).await.unwrap();
        let ticket = ticket(&mut prefill).await;
        let decode = self
            .decode
            .generate_from(prompt, Some(ticket))
            .await
            .unwrap();
        let (generated, transferred) = tokio::join!(collect(decode), transferred(prefill));
        (generated.unwrap(), transferred.unwrap())
    }

    async fn all_blocks_free(&self) {
        self.prefill.all_blocks_free().await;
        self.decode.all_blocks_free().await;
    }
}

async fn ticket(prefill: &mut Streaming<pb::PrefillEvent>) -> pb::KvTicket {
    use pb::prefill_event::Event;
    match next(prefill).await.unwrap().and_then(|it| it.event) {
        Some(Event::Ticket(ticket)) => ticket,
        other => panic!("the ticket comes first, not {other:?}"),
    }
}

/// Reads a Prefill call to its end.
async fn transferred(mut prefill: Streaming<pb::PrefillEvent>) -> Result<pb::Transferred, Status> {
    use pb::prefill_event::Event;
    let mut first_token = None;
    while let Some(event) = next(&mut prefill).await? {
        match event.event.unwrap() {
            Event::Ticket(_) => panic!("a second ticket"),
            Event::Started(_) => {}
            Event::FirstToken(token) => first_token = Some(token),
            Event::Transferred(transferred) => {
                assert!(first_token.is_some());
                return Ok(transferred);
            }
        }
    }
    panic!("the stream ended without Transferred");
}

async fn undivided(prompt: pb::Prompt) -> Vec<u32> {
    let worker = Setup::default().start().await;
    collect(worker.generate(prompt).await.unwrap())
        .await
        .unwrap()
        .tokens
}

fn long_prompt(max_tokens: u32) -> pb::Prompt {
    prompt((0..1000).map(|i| i * 7 % 997 + 2), max_tokens)
}

#[tokio::test]
async fn split_gives_the_same_tokens_as_undivided() {
    let mut setup = Setup::default();
    setup.config.max_batch_tokens = 48;
    let pair = Pair::start(setup).await;
    let (generated, transferred) = pair.split(long_prompt(30)).await;
    assert_eq!(generated.tokens, undivided(long_prompt(30)).await);
    assert_eq!(transferred.blocks, 63);
    assert_eq!(generated.finished.transferred_tokens, 1000);
    assert_eq!(generated.finished.cached_tokens, 0);
    pair.all_blocks_free().await;
}

#[tokio::test]
async fn blocks_on_the_decode_worker_are_not_sent() {
    let pair = Pair::start(Setup::default()).await;
    let prefix = prompt(long_prompt(1).token_ids[..400].iter().copied(), 1);
    collect(pair.decode.generate(prefix).await.unwrap())
        .await
        .unwrap();
    let (generated, transferred) = pair.split(long_prompt(30)).await;
    assert_eq!(generated.tokens, undivided(long_prompt(30)).await);
    assert_eq!(transferred.blocks, 63 - 25);
    assert_eq!(generated.finished.cached_tokens, 400);
    assert_eq!(generated.finished.transferred_tokens, 600);
    pair.all_blocks_free().await;
}

#[tokio::test]
async fn a_sequence_that_ends_with_its_first_token_ends_on_the_decode_worker() {
    let pair = Pair::start(Setup::default()).await;
    let (generated, _) = pair.split(long_prompt(1)).await;
    assert_eq!(generated.tokens, undivided(long_prompt(1)).await);
    assert_eq!(generated.finished.reason(), pb::FinishReason::Length);
    pair.all_blocks_free().await;
}

#[tokio::test]
async fn a_resumed_sequence_is_handed_over_too() {
    let pair = Pair::start(Setup::default()).await;
    let whole = undivided(long_prompt(30)).await;
    let mut resumed = long_prompt(30);
    resumed.token_ids.extend(&whole[..12]);
    resumed.resumed_tokens = 12;
    let mut prefill = pair.prefill.prefill(resumed.clone()).await.unwrap();
    let ticket = ticket(&mut prefill).await;
    let mut decode = pair
        .decode
        .generate_from(resumed, Some(ticket))
        .await
        .unwrap();
    let mut tokens = whole[..12].to_vec();
    while let Some(event) = next(&mut decode).await.unwrap() {
        if let Some(pb::generate_event::Event::Tokens(more)) = event.event {
            assert_eq!(more.index as usize, tokens.len());
            tokens.extend(more.tokens.iter().map(|it| it.id));
        }
    }
    assert_eq!(tokens, whole);
    transferred(prefill).await.unwrap();
    pair.all_blocks_free().await;
}

#[tokio::test]
async fn blocks_arrive_while_the_prompt_still_runs() {
    let mut setup = Setup::slow(Duration::from_millis(20));
    setup.config.max_batch_tokens = 32;
    let pair = Pair::start(setup).await;
    let mut prefill = pair.prefill.prefill(long_prompt(5)).await.unwrap();
    let ticket = ticket(&mut prefill).await;
    let decode = pair
        .decode
        .generate_from(long_prompt(5), Some(ticket))
        .await
        .unwrap();
    let arrived = pair.decode.running.status_when(|it| it.cached_blocks > 0);
    tokio::time::timeout(PATIENCE, arrived).await.unwrap();
    assert!(pair.prefill.running.status().queued_prefill_tokens > 0);
    let (generated, transferred) = tokio::join!(collect(decode), transferred(prefill));
    assert_eq!(generated.unwrap().tokens, undivided(long_prompt(5)).await);
    transferred.unwrap();
    pair.all_blocks_free().await;
}

#[tokio::test]
async fn decode_goes_on_alone_when_the_prefill_worker_dies() {
    let own_runtime = Runtime::new().unwrap();
    let mut setup = Setup::slow(Duration::from_millis(20));
    setup.config.max_batch_tokens = 32;
    let runner = Box::new(SimRunner::new(setup.sim));
    let life = Lifecycle::new();
    let running = own_runtime
        .spawn(start_in(setup.config, runner, life))
        .await
        .unwrap();
    let mut client = connect(&running).await;
    let request = pb::PrefillRequest {
        prompt: Some(long_prompt(30)),
    };
    let mut prefill = client.prefill(request).await.unwrap().into_inner();
    let ticket = ticket(&mut prefill).await;
    let decode = Setup::default().start().await;
    let events = decode
        .generate_from(long_prompt(30), Some(ticket))
        .await
        .unwrap();
    let arrived = decode.running.status_when(|it| it.cached_blocks > 2);
    tokio::time::timeout(PATIENCE, arrived).await.unwrap();

    own_runtime.shutdown_background();
    assert!(transferred(prefill).await.is_err());
    let generated = collect(events).await.unwrap();
    assert_eq!(generated.tokens, undivided(long_prompt(30)).await);
    assert!(generated.finished.transferred_tokens > 0);
    assert!(generated.finished.transferred_tokens < 1000);
    decode.all_blocks_free().await;
    all_blocks_free(&running).await;
}

#[tokio::test]
async fn decode_goes_on_alone_without_a_usable_ticket() {
    let pair = Pair::start(Setup::default()).await;
    let gone = pb::KvTicket {
        address: pair.prefill.running.address.to_string(),
        id: "gone".into(),
    };
    let nobody = pb::KvTicket {
        address: "127.0.0.1:1".into(),
        id: "gone".into(),
    };
    let nonsense = pb::KvTicket {
        address: "no address".into(),
        id: "gone".into(),
    };
    let expected = undivided(long_prompt(5)).await;
    for ticket in [gone, nobody, nonsense] {
        let salted = pb::Prompt {
            cache_salt: ticket.address.clone(),
            ..long_prompt(5)
        };
        let events = pair
            .decode
            .generate_from(salted, Some(ticket))
            .await
            .unwrap();
        let generated = collect(events).await.unwrap();
        assert_eq!(generated.tokens, expected);
        assert_eq!(generated.finished.transferred_tokens, 0);
    }
    pair.all_blocks_free().await;
}

#[tokio::test]
async fn another_models_blocks_are_not_read() {
    let mut prefill = Setup::slow(Duration::from_millis(20));
    prefill.config.max_batch_tokens = 32;
    let mut other = model(Box::new(SimRunner::new(prefill.sim)));
    other.fingerprint = "sim-2".into();
    let listener = runtime::bind(&prefill.config.listen).await.unwrap();
    let load = async { Ok(other) };
    let running = serve(prefill.config, listener, load, Lifecycle::new())
        .await
        .unwrap();
    let request = pb::PrefillRequest {
        prompt: Some(long_prompt(5)),
    };
    let call = connect(&running).await.prefill(request).await;
    let mut prefill = call.unwrap().into_inner();
    let ticket = ticket(&mut prefill).await;
    let decode = Setup::default().start().await;
    let events = decode
        .generate_from(long_prompt(5), Some(ticket))
        .await
        .unwrap();
    let generated = collect(events).await.unwrap();
    assert_eq!(generated.tokens, undivided(long_prompt(5)).await);
    assert_eq!(generated.finished.transferred_tokens, 0);
    assert_eq!(code(transferred(prefill).await), ErrorCode::TicketGone);
    decode.all_blocks_free().await;
    all_blocks_free(&running).await;
}

#[tokio::test]
async fn a_prefill_nobody_pulls_ends_with_its_lease() {
    let mut setup = Setup::default();
    setup.config.ticket_lease.0 = Duration::from_millis(50);
    let worker = setup.start().await;
    let mut prefill = worker.prefill(long_prompt(5)).await.unwrap();
    let ticket = ticket(&mut prefill).await;
    assert_eq!(code(transferred(prefill).await), ErrorCode::TicketGone);
    let request = pb::PullKvRequest {
        ticket_id: ticket.id,
        first_block: 0,
    };
    assert_eq!(
        code(worker.client.clone().pull_kv(request).await),
        ErrorCode::TicketGone
    );
    worker.all_blocks_free().await;
}

#[tokio::test]
async fn dropping_the_prefill_call_releases_ticket_and_blocks() {
    let pair = Pair::start(Setup::default()).await;
    let mut prefill = pair.prefill.prefill(long_prompt(5)).await.unwrap();
    let ticket = ticket(&mut prefill).await;
    drop(prefill);
    pair.prefill.all_blocks_free().await;
    let events = pair
        .decode
        .generate_from(long_prompt(5), Some(ticket))
        .await
        .unwrap();
    let generated = collect(events).await.unwrap();
    assert_eq!(generated.tokens, undivided(long_prompt(5)).await);
    pair.all_blocks_free().await;
}

#[tokio::test]
async fn dropping_the_decode_call_ends_the_prefill() {
    let mut setup = Setup::slow(Duration::from_millis(20));
    setup.config.max_batch_tokens = 32;
    let pair = Pair::start(setup).await;
    let mut prefill = pair.prefill.prefill(long_prompt(5)).await.unwrap();
    let ticket = ticket(&mut prefill).await;
    let decode = pair
        .decode
        .generate_from(long_prompt(5), Some(ticket))
        .await
        .unwrap();
    let arrived = pair.decode.running.status_when(|it| it.cached_blocks > 0);
    tokio::time::timeout(PATIENCE, arrived).await.unwrap();
    drop(decode);
    assert_eq!(code(transferred(prefill).await), ErrorCode::TicketGone);
    pair.all_blocks_free().await;
}

#[tokio::test]
async fn many_hand_overs_at_once_do_not_mix() {
    let mut setup = Setup::default();
    setup.config.max_batch_tokens = 256;
    setup.sim.total_blocks = 300;
    let pair = Pair::start(setup).await;
    let shifted = |first: u32| prompt((first..first + 300).map(|i| i % 998 + 2), 20);
    let calls = (0..24).map(|i| pair.split(shifted(i * 31)));
    let together = futures::future::join_all(calls).await;
    let reference = Setup::default().start().await;
    for (i, (generated, _)) in (0..24).zip(together) {
        let alone = reference.generate(shifted(i * 31)).await.unwrap();
        assert_eq!(generated.tokens, collect(alone).await.unwrap().tokens);
    }
    pair.all_blocks_free().await;
}
