"""Writes the tiny random checkpoints in fixtures/, each with reference logits and greedy ids.

    python make_fixtures.py [OUT]

Needs torch, transformers (5 or newer) and safetensors. Deterministic: every fixture has its own seed. The
references are computed in float32 from what is on disk, so a 16 bit checkpoint is tested with its rounded weights.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "fixtures"
VOCAB, PROMPT_LEN, NEW_TOKENS = 128, 45, 64  # 45 = two full blocks of 16 and a partial one
PROMPT = torch.tensor([[1] + [(7 * i * i + 3 * i + 5) % (VOCAB - 3) + 3 for i in range(PROMPT_LEN - 1)]])
# Smallest distance between the two best logits on the greedy path: below it, another order of summation may pick another token.
MIN_GAP = 0.02

LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)


def llama(**kwargs) -> LlamaConfig:
    base = dict(vocab_size=VOCAB, num_hidden_layers=2, max_position_embeddings=256, rms_norm_eps=1e-5, initializer_range=0.2, bos_token_id=1, eos_token_id=2)
    return LlamaConfig(**(base | kwargs))


def older_spelling(config: dict) -> dict:
    """The names that transformers wrote before version 5."""
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    return config


def without_head_dim(config: dict) -> dict:
    """Configs of the first Llama models leave head_dim to be derived."""
    del config["head_dim"]
    return older_spelling(config)


# name: (seed, config, dtype on disk, edit of config.json, generation_config eos, largest shard)
FIXTURES = {
    "llama2-mha": (
        12, llama(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False,
                 rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        torch.float32, without_head_dim, 2, None,
    ),
    "llama3-gqa-tied-sharded": (
        11, llama(hidden_size=64, intermediate_size=80, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                 rope_parameters={"rope_theta": 500000.0, **LLAMA3}),
        torch.float32, older_spelling, 2, "150KB",
    ),
    "llama-bias-bf16": (
        4, llama(hidden_size=48, intermediate_size=80, num_attention_heads=4, num_key_value_heads=2, head_dim=16, attention_bias=True, mlp_bias=True,
                 tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 20000.0}),
        torch.bfloat16, None, 2, None,
    ),
    "llama3-gqa-f16": (
        2, llama(hidden_size=64, intermediate_size=80, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
                 rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
        torch.float16, None, [2, 3], None,
    ),
}


def randomise(model: LlamaForCausalLM) -> None:
    """The default init leaves norms at 1 and biases at 0: a missing multiply or addition would pass."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(".bias"):
                p.normal_(0.0, 0.3)
            elif p.dim() == 1:
                p.uniform_(0.5, 1.5)


def rewrite_json(path: Path, edit) -> None:
    path.write_text(json.dumps(edit(json.loads(path.read_text())), indent=2, sort_keys=True) + "\n")


def load(path: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def greedy(model: LlamaForCausalLM) -> tuple[torch.Tensor, float]:
    """Prompt and NEW_TOKENS tokens, each from a full pass without a cache and without regard to eos; and the smallest gap met."""
    ids, gap = PROMPT, float("inf")
    for _ in range(NEW_TOKENS):
        best = model(ids, use_cache=False).logits[0, -1].topk(2)
        gap = min(gap, (best.values[0] - best.values[1]).item())
        ids = torch.cat([ids, best.indices[None, :1]], 1)
    return ids[0], gap


def make(name: str) -> None:
    seed, config, dtype, edit, eos, shard = FIXTURES[name]
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).float().eval()
    randomise(model)
    model.generation_config.eos_token_id = eos
    model.to(dtype).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    drop_version = lambda c: {k: v for k, v in c.items() if k != "transformers_version"}  # else every upgrade changes the files
    rewrite_json(folder / "config.json", drop_version)
    rewrite_json(folder / "generation_config.json", drop_version)
    if shard:
        assert len(list(folder.glob("model-*.safetensors"))) == 2
        shutil.copy(folder / "config.json", folder / "config.transformers5.json")
    if edit:
        rewrite_json(folder / "config.json", edit)

    model = load(folder)
    with torch.no_grad():
        logits = model(PROMPT, use_cache=False).logits[0]
    ids, gap = greedy(model)
    with torch.no_grad():
        cached = model.generate(PROMPT, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)[0]
    assert torch.equal(ids, cached), f"{name}: decoding with a cache differs"
    assert gap > MIN_GAP, f"{name}: gap {gap:.4f}, take another seed"
    scaling_matters = ""
    if shard:
        plain = load(folder)
        plain.config.rope_parameters = {"rope_type": "default", "rope_theta": 500000.0}
        plain = LlamaForCausalLM.from_pretrained(folder, config=plain.config, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            change = (plain(PROMPT, use_cache=False).logits[0] - logits).abs().max().item()
        assert change > 0.5, "the scaling of the positions must matter"
        scaling_matters = f", without position scaling logits change by up to {change:.2f}"
        again = json.loads((folder / "config.transformers5.json").read_text())["rope_parameters"]
        assert again == model.config.rope_parameters
    save_file(
        {"prompt": PROMPT[0].contiguous(), "logits": logits.float().contiguous(), "greedy": ids.contiguous()},
        folder / "reference.safetensors",
        metadata={"min_gap": f"{gap:.4f}"},  # one entry: several come out in random order
    )
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.iterdir())
    distinct = len(set(ids[PROMPT_LEN:].tolist()))
    print(f"{name:26} {size / 1000:6.1f} kB, max |logit| {logits.abs().max():.2f}, min gap {gap:.4f}, {distinct} distinct of {NEW_TOKENS} greedy tokens{scaling_matters}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for fixture in FIXTURES:
        make(fixture)
