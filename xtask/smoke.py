"""Uses a cluster with the official `openai` client, as its users do.

    python smoke.py http://127.0.0.1:8080/v1

Every function whose name starts with `check_` is one check; a failed assertion
fails the script.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import openai

BASE_URL = sys.argv[1]
QUESTIONS = json.loads((Path(__file__).parent.parent / "worker/demo-model/questions.json").read_text())
QUESTION, ANSWER = QUESTIONS[0]["question"], QUESTIONS[0]["answer"]
STREAMS = 200

client = openai.OpenAI(base_url=BASE_URL, api_key="unused", max_retries=0, timeout=60)
MODEL = client.models.list().data[0].id


def ask(question, **options):
    options = {"temperature": 0, **options}
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], **options
    )


def refused(error, call, *told):
    try:
        call()
    except error as refusal:
        assert isinstance(refusal.body, dict) and refusal.body["message"], refusal.body
        for text in told:
            assert text in str(refusal), f"{text!r} not in {refusal}"
        return refusal
    raise AssertionError(f"not refused with {error.__name__}")


def check_models():
    model = client.models.retrieve(MODEL)
    assert model.id == MODEL and model.object == "model"
    assert model.model_extra["max_model_len"] > 0, model


def check_documented_answers():
    assert len(QUESTIONS) >= 30, len(QUESTIONS)
    for entry in QUESTIONS:
        answer = ask(entry["question"])
        choice = answer.choices[0]
        assert choice.message.content == entry["answer"], (entry, choice)
        assert choice.message.role == "assistant" and choice.finish_reason == "stop", choice
        usage = answer.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def check_streaming_with_usage():
    whole = ask(QUESTION)
    chunks = list(ask(QUESTION, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ANSWER, text
    assert len([chunk for chunk in chunks if chunk.choices]) > 2, "not streamed"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "stop" and not any(reasons[:-1]), reasons
    assert not chunks[-1].choices and chunks[-1].usage, chunks[-1]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def check_streaming_without_usage():
    chunks = list(ask(QUESTION, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def check_several_completions():
    # Hot and from no sentence of the corpus: what is drawn differs.
    draw = lambda: client.completions.create(
        model=MODEL, prompt=[40, 50, 60], n=3, temperature=2, seed=7, max_tokens=12
    )
    answer, again = draw(), draw()
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = [[choice.text for choice in it.choices] for it in (answer, again)]
    assert texts[0] == texts[1], texts
    assert len(set(texts[0])) == 3, f"{texts[0]} drawn alike"
    assert answer.usage.completion_tokens <= 36, answer.usage
    chat = ask(QUESTION, n=2)
    assert [choice.message.content for choice in chat.choices] == [ANSWER] * 2


def check_limits_and_stops():
    short = ask(QUESTION, max_tokens=3)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 3
    word = ANSWER.split()[2]
    stopped = ask(QUESTION, stop=[word]).choices[0]
    assert stopped.message.content == ANSWER[: ANSWER.index(word)], stopped
    assert stopped.finish_reason == "stop"
    ignoring = ask(QUESTION, max_tokens=100, extra_body={"ignore_eos": True})
    assert ignoring.usage.completion_tokens == 100, ignoring.usage


def check_logprobs_of_chat():
    answer = ask(QUESTION, logprobs=True, top_logprobs=2, max_tokens=5)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 5, tokens
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 2, token
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
        assert token.top_logprobs[0].token == token.token, "greedy takes the most likely"
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content


def check_completions():
    complete = lambda prompt, **options: client.completions.create(
        model=MODEL, prompt=prompt, **{"temperature": 0, "max_tokens": 8, **options}
    )
    one = complete("Kvasir is")
    assert one.object == "text_completion" and one.choices[0].text
    echoed = complete("Kvasir is", echo=True, logprobs=1)
    assert echoed.choices[0].text == "Kvasir is" + one.choices[0].text, echoed
    logprobs = echoed.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None and logprobs.text_offset[0] == 0, logprobs
    assert len(logprobs.tokens) == echoed.usage.total_tokens, logprobs
    batch = complete(["Kvasir is", "A block is"])
    assert [choice.index for choice in batch.choices] == [0, 1]
    assert batch.choices[0].text == one.choices[0].text
    ids = complete([5, 6, 7, 8])
    assert ids.usage.prompt_tokens == 4, ids.usage
    chunks = list(complete("Kvasir is", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == one.choices[0].text


def check_prompts_are_scored():
    # As evaluation harnesses do: log-likelihoods of given text, nothing generated.
    texts = ["Kvasir is a cluster.", "A 🦉 sees. " * 30]
    scored = client.completions.create(
        model=MODEL, prompt=texts, echo=True, logprobs=1, max_tokens=0
    )
    assert scored.usage.completion_tokens == 0, scored.usage
    for text, choice in zip(texts, scored.choices):
        logprobs = choice.logprobs
        assert choice.text == text, choice
        assert logprobs.token_logprobs[0] is None
        assert all(logprob <= 0 for logprob in logprobs.token_logprobs[1:]), logprobs
        assert len(logprobs.tokens) == len(logprobs.text_offset) == len(logprobs.top_logprobs)
    greedy = client.completions.create(
        model=MODEL, prompt=texts[0], temperature=0, echo=True, logprobs=1, max_tokens=4
    )
    lengths = len(scored.choices[0].logprobs.tokens), len(greedy.choices[0].logprobs.tokens)
    assert lengths[0] < lengths[1] <= lengths[0] + 4, lengths
    # A prompt's prefix may come from the cache, whose rows are the same.
    assert greedy.choices[0].logprobs.token_logprobs[: lengths[0]] == scored.choices[0].logprobs.token_logprobs


def check_streams_join_to_the_whole():
    # Hot, so that characters are cut and invalid ones drawn.
    for seed in range(20):
        options = dict(temperature=2, seed=seed, max_tokens=60, n=2, extra_body={"ignore_eos": True})
        whole = ask("Was ist 🧠 für 你好?", **options)
        joined = ["", ""]
        for chunk in ask("Was ist 🧠 für 你好?", stream=True, **options):
            for choice in chunk.choices:
                joined[choice.index] += choice.delta.content or ""
        assert joined == [choice.message.content for choice in whole.choices], (seed, joined)


def check_shared_prefix_is_reused():
    story = f"This is only here to be long and new ({time.time()}). " + "Snow fell on the hall. " * 20
    first = ask(story + "What is a block?", max_tokens=2)
    second = ask(story + "What is a prefix?", max_tokens=2)
    assert first.usage.prompt_tokens > 64, first.usage
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached >= 32 and cached % 16 == 0, second.usage


def check_plan_is_explained():
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=2,
        extra_headers={"x-kvasir-explain": "1"},
    )
    assert raw.headers.get("x-kvasir-explain"), dict(raw.headers)
    assert raw.headers.get("x-request-id"), dict(raw.headers)


def check_wrong_types_of_every_field():
    shared = "model stream n max_tokens temperature top_p top_k min_p seed stop logprobs".split()
    forms = [
        (client.chat.completions.create, {"messages": [{"role": "user", "content": "Hi"}]}),
        (client.completions.create, {"prompt": "Hi"}),
    ]
    for create, input in forms:
        for field in [*shared, *input]:
            for wrong in ({"a": 1}, [[[]]], [{}]):
                send = lambda: create(model=MODEL, **input, extra_body={field: wrong})
                refusal = refused(openai.BadRequestError, send)
                assert refusal.param.startswith(field), (field, wrong, refusal.body)


def check_bad_requests():
    bad = openai.BadRequestError
    refused(bad, lambda: ask(QUESTION, temperature=-1), "temperature")
    refused(bad, lambda: ask(QUESTION, top_p=2), "top_p")
    refused(bad, lambda: ask(QUESTION, n=0), "n")
    refused(bad, lambda: ask(QUESTION, max_tokens=10_000_000))
    refused(bad, lambda: ask(QUESTION, extra_body={"max_tokens": "many"}), "max_tokens")
    refused(bad, lambda: client.chat.completions.create(model=MODEL, messages=[]), "messages")
    too_long = refused(bad, lambda: ask("word " * 20_000))
    assert too_long.code == "context_length_exceeded", too_long.body
    unknown = refused(
        openai.NotFoundError,
        lambda: client.chat.completions.create(
            model="nobody", messages=[{"role": "user", "content": "Hi"}]
        ),
        "nobody",
    )
    assert unknown.code == "model_not_found", unknown.body
    refused(openai.NotFoundError, lambda: client.models.retrieve("nobody"))


def check_hanging_up():
    for _ in range(10):
        stream = ask(QUESTION, stream=True, max_tokens=500, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()


def check_concurrent_streams():
    asyncio.run(concurrent_streams())


async def concurrent_streams():
    many = openai.AsyncOpenAI(base_url=BASE_URL, api_key="unused", max_retries=0, timeout=120)

    async def one(number):
        entry = QUESTIONS[number % len(QUESTIONS)]
        stream = await many.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": entry["question"]}],
            temperature=0,
            stream=True,
        )
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        assert text == entry["answer"], (entry, text)

    await asyncio.gather(*(one(number) for number in range(STREAMS)))
    await many.close()


def main():
    checks = [(name, check) for name, check in globals().items() if name.startswith("check_")]
    for name, check in checks:
        start = time.monotonic()
        check()
        print(f"openai: {name.removeprefix('check_').replace('_', ' ')} ({time.monotonic() - start:.1f} s)")


main()
