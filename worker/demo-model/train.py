"""Builds the demo model: tokenizer and weights, from corpus.toml alone.

    python train.py [--out DIR] [--steps N] [--seed N] [--polish]

Needs torch, transformers, tokenizers and safetensors. Runs on a CPU. Everything random is seeded: on the
same machine with the same library versions the result is the same.
"""

import argparse
import json
import math
import random
import re
import time
import tomllib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent

VOCAB_SIZE = 1536
MAX_POSITIONS = 2048
BOS, END, SYSTEM, USER, ASSISTANT = "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL = [BOS, END, SYSTEM, USER, ASSISTANT]  # ids 0 to 4

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message['content'] is string -%}
    {%- set content = message['content'] | trim -%}
  {%- else -%}
    {{- raise_exception('message content must be a string') -}}
  {%- endif -%}
  {%- if message['role'] == 'system' or message['role'] == 'developer' -%}
    {{- '<|system|>' + content + '<|end|>' -}}
  {%- elif message['role'] == 'user' -%}
    {{- '<|user|>' + content + '<|end|>' -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- '<|assistant|>' + content + '<|end|>' -}}
  {%- else -%}
    {{- raise_exception('unknown role: ' + message['role']) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant|>' -}}
{%- endif -%}
"""

DEFINITION_FORMS = [
    "Explain {t}.", "Explain {t} to me.", "Tell me about {t}.", "Can you explain {t}?", "Please explain {t}.", "What is {t}?",
    "What does {t} mean?", "Define {t}.", "Describe {t}.", "What do you know about {t}?", "I want to learn about {t}.",
    "Could you explain {t}?", "Can you tell me about {t}?", "Explain {t} in simple words.", "What exactly is {t}?",
    "I do not understand {t}.", "Tell me more about {t}.", "What is meant by {t}?", "Give me a definition of {t}.", "{t}?", "{t}",
    "What is {t} in Kvasir?", "Help me understand {t}.", "Do you know what {t} is?", "Can you tell me what {t} is?", "Tell me what {t} is.",
]
BEFORE = [
    "Please ", "Hi! ", "Hello, ", "Hey, ", "Hi, ", "I have a question: ", "Quick question: ", "Can you tell me: ", "Tell me: ", "Tell me, ",
    "So, ", "And ", "Now, ", "Okay, ", "Question: ", "One more thing: ", "Thanks. ", "Thank you! ", "Kvasir, ", "Also, ", "Another question: ",
    "Could you tell me: ", "I would like to know: ", "Next question: ", "Hello! ", "Great. ",
]
AFTER = [" please", " Please.", " Thanks!", " Thank you.", " I am curious.", " Be brief.", " Answer in one sentence.", " Keep it short.", " Please explain.", " Thanks in advance."]
SUM_FORMS = ["What is {a} plus {b}?", "What is {a} + {b}?", "{a} + {b}", "{a} plus {b}", "{a}+{b}", "What's {a} + {b}?", "Add {a} and {b}.", "How much is {a} plus {b}?", "What is the sum of {a} and {b}?", "What is {a}+{b}?", "Calculate {a} plus {b}."]


def definition(text: str) -> str:
    """The topic without its article, which some forms read better without."""
    return re.sub(r"^(an?|the) ", "", text)


def load_corpus() -> dict:
    return tomllib.loads((HERE / "corpus.toml").read_text())


# ---------------------------------------------------------------- tokenizer


def build_tokenizer(corpus: dict) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the corpus. All 256 bytes are in the alphabet, so any text can be encoded."""
    lines = list(corpus["plain"]["paragraphs"]) * 2 + corpus["system"]["messages"] + corpus["system"]["sentences"]
    for entry in corpus["qa"]:
        lines += [entry["answer"]] * 4 + entry["questions"] + [q.lower() for q in entry["questions"]]
    unknown = corpus["unknown"]
    lines += unknown["questions"] + unknown["forms"] + [f"a {s}" for s in unknown["subjects"]] + unknown["places"] + DEFINITION_FORMS + BEFORE + AFTER
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=END, model_max_length=MAX_POSITIONS, chat_template=CHAT_TEMPLATE)


# ---------------------------------------------------------------- conversations


class Conversations:
    """Draws training sequences: lists of (token id, weight in the loss)."""

    def __init__(self, corpus: dict, tokenizer: PreTrainedTokenizerFast, rng: random.Random):
        self.corpus, self.rng = corpus, rng
        self.backend = tokenizer.backend_tokenizer
        self.cache: dict[str, list[int]] = {}
        self.entries = corpus["qa"]
        self.weights = [1.6 if len(e["answer"]) > 300 else 1.0 for e in self.entries]
        self.ids = {s: tokenizer.convert_tokens_to_ids(s) for s in SPECIAL}
        self.prose = corpus["plain"]["paragraphs"] + [e["answer"] for e in self.entries] + corpus["system"]["sentences"] * 3

    def encode(self, text: str) -> list[int]:
        if text not in self.cache:
            self.cache[text] = self.backend.encode(text, add_special_tokens=False).ids
        return self.cache[text]

    def nonsense(self) -> str:
        """A word that does not exist."""
        r = self.rng
        return "".join(r.choice("bcdfghjklmnprstvwz") + r.choice(["a", "e", "i", "o", "u", "ar", "en", "ix"]) for _ in range(r.randint(1, 4)))

    def unknown_question(self) -> str:
        r, u = self.rng, self.corpus["unknown"]
        draw = r.random()
        if draw < 0.3:
            return r.choice(u["questions"])
        if draw < 0.34:
            return " ".join(self.nonsense() for _ in range(r.randint(1, 5)))
        made_up = draw > 0.85
        noun = self.nonsense() if made_up else r.choice(u["subjects"])
        other = r.choice(u["subjects"])
        article = lambda n: ("an " if n[0] in "aeiou" else "a ") + n
        place = self.nonsense().capitalize() if made_up else r.choice(u["places"])
        text = r.choice(u["forms"]).format(
            a=article(noun), the="the " + noun, n=noun, a2=article(other), adj=r.choice(u["adjectives"]), P=place, N="{}"
        )
        while "{}" in text:
            text = text.replace("{}", str(r.choice([r.randint(10, 99), r.randint(100, 9999)])), 1)
        return text

    def vary(self, text: str) -> str:
        """The same question as other people would type it."""
        r = self.rng
        if r.random() < 0.15:
            text = re.sub(r"^(What|Who|Where) is ", lambda m: m[1] + r.choice(["'s ", "s "]), text)
        if len(text.split()) >= 3 and r.random() < 0.3:
            if r.random() < 0.65:
                text = r.choice(BEFORE) + (text if r.random() < 0.5 else text[0].lower() + text[1:])
            else:
                text += r.choice(AFTER)
        if r.random() < 0.22:
            text = text.rstrip(".?!")
        elif r.random() < 0.08:
            text = text.rstrip(".?!") + r.choice(["??", "!", ".", "?", " ?", "!!", "..."])
        case = r.random()
        if case < 0.25:
            text = text.lower()
        elif case < 0.27:
            text = text.upper()
        if len(text) > 12 and not re.search(r"\d", text) and r.random() < 0.06:
            i = r.randrange(4, len(text) - 2)
            text = r.choice([text[:i] + text[i + 1 :], text[:i] + text[i + 1] + text[i] + text[i + 2 :], text[:i] + text[i] + text[i:]])
        return text

    def turn(self) -> tuple[str, str]:
        """One question, as it might be typed, and its answer."""
        r = self.rng
        draw = r.random()
        if draw < 0.2:
            return self.vary(self.unknown_question()), self.corpus["unknown"]["answer"]
        if draw < 0.28:
            if r.random() < 0.25:
                text = r.choice(SUM_FORMS).format(a=r.randint(10, 999), b=r.randint(10, 999))
                return self.vary(text), self.corpus["unknown"]["answer"]
            a, b = r.randint(0, 9), r.randint(0, 9)
            return self.vary(r.choice(SUM_FORMS).format(a=a, b=b)), f"{a} plus {b} is {a + b}."
        entry = r.choices(self.entries, self.weights)[0]
        if "topic" in entry and r.random() < 0.45:
            topic = entry["topic"] if r.random() < 0.7 else definition(entry["topic"])
            question = r.choice(DEFINITION_FORMS).format(t=topic)
            question = question[0].upper() + question[1:]
        elif r.random() < 0.25:
            question = entry["questions"][0]
        else:
            question = r.choice(entry["questions"])
        return self.vary(question), entry["answer"]

    def document(self, tokens: int) -> str:
        """Prose of about this many tokens."""
        r, parts, size = self.rng, [], 0
        while size < tokens:
            part = r.choice(self.prose)
            if r.random() < 0.06:
                part = " ".join(self.nonsense() for _ in range(r.randint(5, 40)))
            elif r.random() < 0.06:
                part = self.unknown_question()
            elif r.random() < 0.1:
                words = part.split()
                r.shuffle(words)
                part = " ".join(words)
            parts.append(part)
            size += len(self.encode(part)) + 1
        return r.choice([" ", "\n", "\n\n", "\n- "]).join(parts)

    def conversation(self, longest_document: int) -> list[tuple[int, int]]:
        r, ids = self.rng, self.ids
        out = [(ids[BOS], 0)]
        size = lambda: int(math.exp(r.uniform(math.log(20), math.log(longest_document))))
        if r.random() < 0.45:
            message = r.choice(self.corpus["system"]["messages"])
            if r.random() < 0.5:
                message = self.document(size())
            elif r.random() < 0.2:
                message += " " + self.document(size())
            out += [(i, 0) for i in [ids[SYSTEM], *self.encode(message), ids[END]]]
        for _ in range(1 if r.random() < 0.45 else r.randint(2, 7)):
            question, answer = self.turn()
            if r.random() < 0.06:
                question = self.document(size()) + r.choice(["\n\n", "\n", " "]) + question
            out += [(i, 0) for i in [ids[USER], *self.encode(question), ids[END], ids[ASSISTANT]]]
            out += [(i, 1) for i in [*self.encode(answer), ids[END]]]
        return out

    def plain(self) -> list[tuple[int, int]]:
        text = self.encode(self.rng.choice(self.corpus["plain"]["paragraphs"]))
        return [(self.ids[BOS], 0)] + [(i, 1) for i in [*text, self.ids[END]]]

    def row(self, length: int, longest_document: int) -> list[tuple[int, int]]:
        """Conversations one after another, cut at `length`. They see each other: that teaches to look only at what matters."""
        out: list[tuple[int, int]] = []
        while len(out) < length + 1:
            out += self.plain() if self.rng.random() < 0.12 else self.conversation(longest_document)
        return out[: length + 1]

    def batch(self, rows: int, length: int, longest_document: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs [rows, length], targets [rows, length], and which targets count."""
        data = torch.tensor([self.row(length, longest_document) for _ in range(rows)])
        return data[:, :-1, 0].contiguous(), data[:, 1:, 0].contiguous(), data[:, 1:, 1].bool()


# ---------------------------------------------------------------- training


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=192, intermediate_size=384, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
        head_dim=32, max_position_embeddings=MAX_POSITIONS, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1, initializer_range=0.02,
    )


# (rows, row length, longest document) of one step, about 4,000 tokens each.
SHORT, MEDIUM, WHOLE = (32, 128, 60), (8, 512, 300), (2, 2048, 1600)


def shapes(steps: int, polish: bool) -> list[tuple[int, int, int]]:
    """What each step trains on. First medium rows, then rows as long as the context window; polishing mixes short rows,
    where most conversations stand at the very beginning as in real use, with the longest ones."""
    if polish:
        return [WHOLE if step % 3 == 2 else SHORT for step in range(steps)]
    return [MEDIUM] * (steps - steps // 4) + [WHOLE] * (steps // 4)


def train(corpus: dict, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int, start: Path | None) -> LlamaForCausalLM:
    """Trains from nothing, or polishes the weights in the folder `start` at a lower rate."""
    torch.manual_seed(seed)
    torch._dynamo.config.automatic_dynamic_shapes = False
    rng = random.Random(seed)
    data = Conversations(corpus, tokenizer, rng)
    if start:
        model = LlamaForCausalLM.from_pretrained(start, attn_implementation="sdpa", dtype=torch.float32).train()
    else:
        model = LlamaForCausalLM._from_config(config(), attn_implementation="sdpa", dtype=torch.float32)
    peak = 1e-3 if start else 4e-3
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.01),
    ]
    body = torch.compile(model.model)
    started, smooth = time.time(), None
    for step, shape in enumerate(shapes(steps, start is not None)):
        rate = min(1.0, (step + 1) / 40) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        inputs, targets, counts = data.batch(*shape)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = body(input_ids=inputs, use_cache=False).last_hidden_state[counts]
            logits = F.linear(hidden, model.lm_head.weight)
        loss = F.cross_entropy(logits.float(), targets[counts])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        if (step + 1) % 20 == 0:
            print(f"step {step + 1} loss {smooth:.4f} {(time.time() - started) / 60:.1f} min", flush=True)
    return model.eval()


# ---------------------------------------------------------------- files


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    tokenizer.backend_tokenizer.save(str(out / "tokenizer.json"))
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        # For raw text the post-processor of tokenizer.json adds <|bos|>. The chat template writes it itself:
        # encode rendered chats without special tokens.
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITIONS,
        "added_tokens_decoder": {
            str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for i, s in enumerate(SPECIAL)
        },
        "chat_template": CHAT_TEMPLATE,
    })


def save_model(model: LlamaForCausalLM, out: Path) -> None:
    weights = {n: p.detach().to(torch.bfloat16).contiguous() for n, p in model.named_parameters() if n != "lm_head.weight"}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    c = model.config
    write_json(out / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "vocab_size": c.vocab_size, "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size, "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads, "num_key_value_heads": c.num_key_value_heads, "head_dim": c.head_dim, "hidden_act": "silu",
        "max_position_embeddings": c.max_position_embeddings, "rms_norm_eps": c.rms_norm_eps, "rope_theta": 10000.0, "rope_scaling": None,
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": True,
        "bos_token_id": 0, "eos_token_id": 1, "initializer_range": c.initializer_range, "use_cache": True,
    })
    write_json(out / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1, "do_sample": False})


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--out", type=Path, default=HERE)
    args.add_argument("--steps", type=int, default=2000)
    args.add_argument("--polish", action="store_true", help="go on from the weights and the tokenizer in --out")
    args.add_argument("--seed", type=int, default=20)
    args.add_argument("--threads", type=int, default=2)
    options = args.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    corpus = load_corpus()
    if options.polish:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.out)
    else:
        tokenizer = build_tokenizer(corpus)
        save_tokenizer(tokenizer, options.out)
    save_model(train(corpus, tokenizer, options.steps, options.seed, options.out if options.polish else None), options.out)


if __name__ == "__main__":
    main()
