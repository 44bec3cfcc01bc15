"""Writes families/: for each model family a tiny config, the list of its tensors, and what transformers computes.

    python make_families.py [NAME...]

Needs torch, transformers (5 or newer) and safetensors. Weights are not stored: a tensor's numbers follow from its name
(see `numbers`), here and in checkpoints/families.rs alike. All of them are exact in bf16 and f16, so the reference, which
is computed in float32, is that of any storage.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

OUT = Path(__file__).parent / "families"
VOCAB, PROMPT_LEN, NEW_TOKENS = 128, 45, 64
PROMPT = torch.tensor([[1] + [(7 * i * i + 3 * i + 5) % (VOCAB - 3) + 3 for i in range(PROMPT_LEN - 1)]])
# Smallest distance between the two best logits on the greedy path: below it, another order of summation may pick another token.
MIN_GAP = 0.01
WINDOW = 16  # prompts and generated tokens go well beyond

BASE = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
            pad_token_id=0, tie_word_embeddings=False)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32,
        "beta_fast": 32.0, "beta_slow": 1.0}
LATENT = dict(num_key_value_heads=4, kv_lora_rank=24, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12,
              n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=32, first_k_dense_replace=1,
              n_shared_experts=2)


def phi_rope(dim: int, original: int) -> dict:
    return {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": original,
            "short_factor": [1.0 + 0.1 * i for i in range(dim)], "long_factor": [1.5 + 0.5 * i for i in range(dim)]}


# name: (seed, config class, fields besides BASE, changes of config.json, storage)
FAMILIES = {
    "mistral-window": (1, tf.MistralConfig, dict(sliding_window=WINDOW, head_dim=16, rope_parameters=ROPE), {}, "F32"),
    "qwen2": (1, tf.Qwen2Config, dict(rope_parameters=ROPE), {}, "BF16"),
    "qwen2-yarn-window": (1, tf.Qwen2Config, dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1,
                                                  rope_parameters={**YARN, "rope_theta": 100.0, "beta_fast": 2.0, "beta_slow": 0.5}), {"layer_types": None}, "F32"),
    "qwen3": (1, tf.Qwen3Config, dict(head_dim=16, tie_word_embeddings=True, rope_parameters=ROPE), {}, "BF16"),
    "qwen3-moe": (1, tf.Qwen3MoeConfig, dict(head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24,
                                             norm_topk_prob=True, mlp_only_layers=[1], rope_parameters=ROPE), {}, "BF16"),
    "qwen3-moe-raw": (1, tf.Qwen3MoeConfig, dict(head_dim=16, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24,
                                                 norm_topk_prob=False, rope_parameters=ROPE), {}, "F32"),
    "granite": (1, tf.GraniteConfig, dict(embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.4,
                                          logits_scaling=0.5, rope_parameters=ROPE), {}, "F32"),
    "granite4-dense": (1, tf.GraniteMoeHybridConfig, dict(
        embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=0.5, num_local_experts=0,
        num_experts_per_tok=0, shared_intermediate_size=56, layer_types=["full_attention"] * 3, position_embedding_type="rope",
        mamba_n_heads=4, mamba_expand=2, rope_parameters=ROPE), {"layer_types": ["attention"] * 3}, "BF16"),
    "granite4-nope": (1, tf.GraniteMoeHybridConfig, dict(
        embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=0.5, num_local_experts=0,
        num_experts_per_tok=0, shared_intermediate_size=56, layer_types=["full_attention"] * 3,
        position_embedding_type=None, mamba_n_heads=4, mamba_expand=2, rope_parameters=ROPE), {"position_embedding_type": "nope"}, "F16"),
    "gemma2": (1, tf.Gemma2Config, dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=WINDOW, attn_logit_softcapping=5.0,
                                        final_logit_softcapping=20.0, tie_word_embeddings=True, rope_parameters=ROPE),
               {"layer_types": None, "tie_word_embeddings": None}, "F32"),
    "gemma3": (1, tf.Gemma3TextConfig, dict(
        num_hidden_layers=7, head_dim=16, query_pre_attn_scalar=24, sliding_window=WINDOW, tie_word_embeddings=True,
        rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}), {"tie_word_embeddings": None}, "BF16"),
    "phi3": (1, tf.Phi3Config, dict(sliding_window=WINDOW, rope_parameters=ROPE), {}, "F32"),
    "phi3-long": (1, tf.Phi3Config, dict(original_max_position_embeddings=32, num_attention_heads=3, num_key_value_heads=3,
                                         rope_parameters=phi_rope(8, 32)), {}, "F32"),
    "phi4-partial": (1, tf.Phi3Config, dict(tie_word_embeddings=True, hidden_size=64, original_max_position_embeddings=256,
                                            rope_parameters={**phi_rope(6, 256), "partial_rotary_factor": 0.75}), {}, "BF16"),
    "mixtral": (1, tf.MixtralConfig, dict(num_local_experts=4, num_experts_per_tok=2, head_dim=16, rope_parameters=ROPE), {}, "BF16"),
    "deepseek-v2-lite": (1, tf.DeepseekV2Config, dict(
        **LATENT, q_lora_rank=None, topk_method="greedy", routed_scaling_factor=1.0, norm_topk_prob=False,
        rope_parameters={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}), {}, "F32"),
    "deepseek-v2": (1, tf.DeepseekV2Config, dict(
        **LATENT, q_lora_rank=20, topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=4.0,
        norm_topk_prob=False, rope_parameters=ROPE), {}, "BF16"),
    "deepseek-v3": (1, tf.DeepseekV3Config, dict(
        **LATENT, q_lora_rank=20, n_group=4, topk_group=2, routed_scaling_factor=2.5, norm_topk_prob=True,
        rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}), {}, "BF16"),
    "gpt-oss": (1, tf.GptOssConfig, dict(head_dim=16, swiglu_limit=1.0, sliding_window=WINDOW, num_local_experts=4, num_experts_per_tok=2,
                                         rope_parameters={**YARN, "truncate": False}), {}, "F32"),
    "gpt-oss-mxfp4": (2, tf.GptOssConfig, dict(hidden_size=64, head_dim=16, sliding_window=WINDOW, num_local_experts=4,
                                               num_experts_per_tok=2, rope_parameters={**YARN, "truncate": False}),
                      {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}, "BF16"),
}


def fnv1a(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def numbers(name: str, seed: int, count: int, levels: int) -> np.ndarray:
    """Whole numbers of -levels to levels: splitmix64 of name, seed and index."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(fnv1a(name) ^ seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        return (z % np.uint64(2 * levels + 1)).astype(np.int64) - levels


def law(name: str, shape: list[int], dtype: str, gemma: bool) -> dict:
    """value = base + step * number; the defaults of norms and biases would let a missing operation pass."""
    base, step, levels = 0.0, 2.0**-8, 100
    if name.endswith("_blocks"):
        dtype, base, step, levels = "U8", 128, 1, 127
    elif name.endswith("_scales"):
        dtype, base, step, levels = "U8", 124, 1, 1
    elif name.endswith("layernorm.weight") or name.endswith("norm.weight"):
        # Gemma scales embeddings up; without strong updates it would repeat its input.
        gemma_base = 3.0 if ".post_" in name else 0.0
        base, step, levels = (gemma_base if gemma else 1.0), 2.0**-6, 32
    elif name.endswith(("bias", "sinks")):
        step, levels = 2.0**-7, 60
    elif name.endswith("embed_tokens.weight"):
        levels = 127
    return dict(name=name, dtype=dtype, shape=shape, base=base, step=step, levels=levels)


def tensor(entry: dict, seed: int) -> torch.Tensor:
    count = int(np.prod(entry["shape"]))
    values = entry["base"] + entry["step"] * numbers(entry["name"], seed, count, entry["levels"])
    kind = {"U8": np.uint8}.get(entry["dtype"], np.float32)
    return torch.from_numpy(values.astype(kind).reshape(entry["shape"]))


def stored_tensors(model: torch.nn.Module, storage: str, mxfp4: bool, gemma: bool) -> list[dict]:
    """What a checkpoint of this model has, as transformers itself writes it."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "pt") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
    entries = []
    for name, shape in sorted(shapes.items()):
        if mxfp4 and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = shape
            entries.append(law(name + "_blocks", [experts, outputs, inputs // 32, 16], storage, gemma))
            entries.append(law(name + "_scales", [experts, outputs, inputs // 32], storage, gemma))
        else:
            entries.append(law(name, shape, "F32" if name.endswith("correction_bias") else storage, gemma))
    return entries


def reload(model: torch.nn.Module, config, entries: list[dict], seed: int) -> torch.nn.Module:
    """The model with the numbers of these tensors, through its own loading code."""
    tensors = {entry["name"]: tensor(entry, seed) for entry in entries}
    for name in [name for name in tensors if name.endswith("_blocks")]:
        packed = [tensors.pop(name), tensors.pop(name.replace("_blocks", "_scales"))]
        tensors[name.removesuffix("_blocks")] = convert_moe_packed_tensors(*packed, dtype=torch.float32).contiguous()
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        loaded, report = type(model).from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"], report
    return loaded.eval()


@torch.no_grad()
def greedy(model: torch.nn.Module) -> tuple[torch.Tensor, float]:
    """Prompt and NEW_TOKENS tokens, each from a full pass without a cache and without regard to eos; and the smallest gap met."""
    ids, gap = PROMPT, float("inf")
    for _ in range(NEW_TOKENS):
        best = model(ids, use_cache=False).logits[0, -1].topk(2)
        gap = min(gap, (best.values[0] - best.values[1]).item())
        ids = torch.cat([ids, best.indices[None, :1]], 1)
    return ids[0], gap


def make(name: str) -> None:
    seed, config_class, fields, changes, storage = FAMILIES[name]
    config = config_class(**(BASE | fields))
    config._attn_implementation = "eager"
    model = tf.AutoModelForCausalLM.from_config(config).float().eval()
    config.architectures = [type(model).__name__]
    entries = stored_tensors(model, storage, "quantization_config" in changes, name.startswith("gemma"))
    for seed in range(seed, seed + 40):
        model = reload(model, config, entries, seed)
        ids, gap = greedy(model)
        distinct = len(set(ids[PROMPT_LEN:].tolist()))
        if gap > MIN_GAP and distinct > 8:
            break
    else:
        raise SystemExit(f"{name}: no seed has a gap of {MIN_GAP} (last {gap:.4f}, {distinct} distinct)")
    with torch.no_grad():
        logits = model(PROMPT, use_cache=False).logits[0]
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written = json.loads(config.to_json_string(use_diff=False)) | changes
    keep = {key: value for key, value in written.items() if value is not None and key not in IGNORED}
    (folder / "config.json").write_text(json.dumps(keep, indent=1, sort_keys=True) + "\n")
    lines = ",\n".join(json.dumps(entry, sort_keys=True) for entry in entries)
    (folder / "tensors.json").write_text(f'{{"seed": {seed}, "tensors": [\n{lines}\n]}}\n')
    save_file({"prompt": PROMPT[0].contiguous(), "logits": logits.float().contiguous(), "greedy": ids.contiguous()},
              folder / "reference.safetensors", metadata={"min_gap": f"{gap:.4f}"})
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:20} {size / 1000:6.1f} kB, seed {seed}, max |logit| {logits.abs().max():.2f}, min gap {gap:.4f}, {distinct} distinct of {NEW_TOKENS}", flush=True)


# Of no concern to inference, or changing with every release.
IGNORED = {"transformers_version", "_name_or_path", "id2label", "label2id", "chunk_size_feed_forward", "is_encoder_decoder",
           "output_attentions", "output_hidden_states", "return_dict", "problem_type", "dtype", "initializer_range", "use_cache"}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for family in sys.argv[1:] or FAMILIES:
        make(family)
