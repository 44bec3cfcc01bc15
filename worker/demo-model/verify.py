"""Checks the demo model on the files in this folder: bf16 weights, computed in float32, greedy.

    python verify.py [--seed N] checks questions.json, the README and every variant of the questions
    python verify.py --write    writes both anew from the documented entries of corpus.toml, then checks

Exits with 1 when a documented question fails in any form. Questions that are not documented are only counted.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from train import Conversations, load_corpus

HERE = Path(__file__).parent
MIN_GAP = 0.05  # between the two best logits at every step of a documented answer
EXTRA = [("What is 2 plus 2?", "2 plus 2 is 4."), ("Who wrote Hamlet?", None)]  # None: the model must decline
LIST_START, LIST_END = "<!-- questions: written by verify.py -->", "<!-- end of questions -->"


class Model:
    def __init__(self, folder: Path):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.end = self.tokenizer.eos_token_id

    def prompt(self, messages: list[dict]) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False).input_ids

    @torch.no_grad()
    def gap(self, messages: list[dict], answer: str) -> float:
        """By how much the expected token leads at the worst step of the greedy path; negative if the answer differs."""
        prompt = self.prompt(messages)
        expected = self.tokenizer(answer, add_special_tokens=False).input_ids + [self.end]
        logits = self.model(torch.tensor([prompt + expected[:-1]]), use_cache=False).logits[0, len(prompt) - 1 :]
        target = logits.gather(1, torch.tensor(expected)[:, None])[:, 0]
        others = logits.scatter(1, torch.tensor(expected)[:, None], float("-inf")).max(1).values
        return (target - others).min().item()

    @torch.no_grad()
    def answer(self, messages: list[dict], limit: int = 256) -> tuple[str, bool]:
        """The greedy answer, and whether it ended with the end token."""
        prompt = self.prompt(messages)
        ids = self.model.generate(torch.tensor([prompt]), max_new_tokens=limit, do_sample=False, pad_token_id=self.end)[0, len(prompt) :].tolist()
        return self.tokenizer.decode(ids[:-1] if ids[-1] == self.end else ids), ids[-1] == self.end


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def variants(question: str, entries: list[tuple[str, str]], documents: Conversations, rng: random.Random, full: bool) -> dict[str, list[dict]]:
    """The same question in other forms; all must give the same answer. Without `full`, only the short ones."""
    first, other = rng.choice(entries), rng.choice(entries)
    history = [user(first[0]), {"role": "assistant", "content": first[1]}]
    system = lambda text: [{"role": "system", "content": text}]
    short = {
        "as written": [user(question)],
        "lower case": [user(question.lower())],
        "no punctuation": [user(question.rstrip(".?!"))],
        "lower case, no punctuation": [user(question.lower().rstrip(".?!"))],
        "short system message": system("You are a helpful assistant.") + [user(question)],
        "second question": history + [user(question)],
    }
    if not full:
        return short
    return short | {
        "system message of 1,000 tokens or more": system(documents.document(1000)) + [user(question)],
        "system message of 1,500 tokens or more": system(documents.document(1500)) + [user(question)],
        "third question": history + [user(other[0]), {"role": "assistant", "content": other[1]}, user(question)],
        "second question, long system message": system(documents.document(600)) + history + [user(question)],
        "after a document in the same message": [user(documents.document(200) + "\n\n" + question)],
    }


def write_list(documented: list[tuple[str, str]]) -> None:
    (HERE / "questions.json").write_text(json.dumps([{"question": q, "answer": a} for q, a in documented], indent=1, ensure_ascii=False) + "\n")
    readme = (HERE / "README.md").read_text()
    before, rest = readme.split(LIST_START)
    after = rest.split(LIST_END)[1]
    (HERE / "README.md").write_text(before + LIST_START + "\n" + rows(documented) + LIST_END + after)


def rows(documented: list[tuple[str, str]]) -> str:
    lines = ["| question | answer |", "|---|---|"]
    lines += [f"| {q} | {a.replace(chr(10), '<br>')} |" for q, a in documented]
    return "\n".join(lines) + "\n"


def main() -> int:
    args = argparse.ArgumentParser()
    args.add_argument("--write", action="store_true")
    args.add_argument("--seed", type=int, default=7, help="draws other documents and earlier questions")
    options = args.parse_args()
    torch.set_num_threads(2)
    corpus = load_corpus()
    decline = corpus["unknown"]["answer"]
    known = [(e["questions"][0], e["answer"]) for e in corpus["qa"]] + [(q, a or decline) for q, a in EXTRA]
    if options.write:
        marked = {e["questions"][0] for e in corpus["qa"] if e.get("documented")} | {q for q, _ in EXTRA}
        write_list([k for k in known if k[0] in marked])
    documented = [(d["question"], d["answer"]) for d in json.loads((HERE / "questions.json").read_text())]
    assert len(documented) >= 40 and rows(documented) in (HERE / "README.md").read_text(), "README.md and questions.json differ: run with --write"

    model = Model(HERE)
    rng = random.Random(options.seed)
    documents = Conversations(corpus, model.tokenizer, rng)
    failed = 0

    print(f"{len(documented)} documented questions, generated:")
    for question, expected in documented:
        answer, ended = model.answer([user(question)])
        if answer != expected or not ended or answer[-1] not in ".!?":
            failed += 1
            print(f"  FAIL {question!r}: {answer!r}")

    listed = {q for q, _ in documented}
    for title, chosen, strict in (("documented", [k for k in known if k[0] in listed], True), ("not documented", [k for k in known if k[0] not in listed], False)):
        worst: dict[str, list[float]] = {}
        for question, expected in chosen:
            for form, messages in variants(question, known, documents, rng, full=strict).items():
                gap = model.gap(messages, expected)
                worst.setdefault(form, []).append(gap)
                if gap <= MIN_GAP:
                    failed += strict
                    print(f"  {'FAIL' if strict else 'miss'} {question!r}, {form}: gap {gap:.3f}, {model.answer(messages)[0][:80]!r}")
        print(f"{title}: {len(chosen)} questions", flush=True)
        for form, gaps in worst.items():
            print(f"  {form}: {sum(g > MIN_GAP for g in gaps)} of {len(gaps)}, smallest gap {min(gaps):.3f}")

    answers = dict(known)
    hits = 0
    for question, means in corpus["held_out"]["questions"]:
        expected = answers[means] if means else decline
        right = model.gap([user(question)], expected) > 0
        hits += right
        if not right:
            print(f"  held out, missed: {question!r}: {model.answer([user(question)])[0][:80]!r}")
    print(f"held-out wordings: {hits} of {len(corpus['held_out']['questions'])}")
    sums = sum(model.gap([user(f"What is {a} plus {b}?")], f"{a} plus {b} is {a + b}.") > 0 for a in range(10) for b in range(10))
    print(f"sums of two digits from 0 to 9: {sums} of 100")
    for paragraph in ("Kvasir is", "Once upon a time", "The KV cache"):
        ids = model.tokenizer(paragraph, return_tensors="pt").input_ids
        with torch.no_grad():
            text = model.tokenizer.decode(model.model.generate(ids, max_new_tokens=40, do_sample=False, pad_token_id=model.end)[0])
        print(f"completion: {text!r}")
    print("failed" if failed else "passed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
