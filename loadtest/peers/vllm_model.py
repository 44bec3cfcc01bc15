"""Writes a checkpoint in Hugging Face layout of about 0.44 B random parameters in
bf16: the model that vLLM and Kvasir are compared on, of the same dimensions as
llama_model.py's.

usage: vllm_model.py FOLDER
"""

import json
import pathlib
import sys

import numpy as np
import tokenizers
import torch
from safetensors.torch import save_file

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, VOCABULARY = 1024, 4096, 24, 16, 8, 32000
CONTEXT = 8192
SPECIAL = ["<unk>", "<s>", "</s>"]

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HIDDEN // HEADS,
    "hidden_act": "silu",
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def main(folder: str) -> None:
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    write(path / "config.json", CONFIG)
    write(path / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    write(path / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    })
    tokenizer().save(str(path / "tokenizer.json"))
    save_file(tensors(), path / "model.safetensors", {"format": "pt"})


def write(path: pathlib.Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def tokenizer() -> tokenizers.Tokenizer:
    """A vocabulary of bytes and made-up pieces: only its size matters here."""
    pieces = SPECIAL + sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pieces += [f"piece{i}" for i in range(VOCABULARY - len(pieces))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    it = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    it.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    it.decoder = tokenizers.decoders.ByteLevel()
    it.add_special_tokens(SPECIAL)
    return it


def tensors() -> dict[str, torch.Tensor]:
    random = np.random.default_rng(1)
    all: dict[str, torch.Tensor] = {}

    def add(name: str, values: np.ndarray) -> None:
        all[f"{name}.weight"] = torch.from_numpy(values).to(torch.bfloat16)

    def matrix(name: str, rows: int, cols: int) -> None:
        add(name, random.standard_normal((rows, cols), dtype=np.float32) * (0.5 / cols**0.5))

    def norm(name: str) -> None:
        add(name, np.ones(HIDDEN, dtype=np.float32))

    matrix("model.embed_tokens", VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        block = f"model.layers.{layer}"
        norm(f"{block}.input_layernorm")
        matrix(f"{block}.self_attn.q_proj", HIDDEN, HIDDEN)
        matrix(f"{block}.self_attn.k_proj", HIDDEN * KV_HEADS // HEADS, HIDDEN)
        matrix(f"{block}.self_attn.v_proj", HIDDEN * KV_HEADS // HEADS, HIDDEN)
        matrix(f"{block}.self_attn.o_proj", HIDDEN, HIDDEN)
        norm(f"{block}.post_attention_layernorm")
        matrix(f"{block}.mlp.gate_proj", INTERMEDIATE, HIDDEN)
        matrix(f"{block}.mlp.up_proj", INTERMEDIATE, HIDDEN)
        matrix(f"{block}.mlp.down_proj", HIDDEN, INTERMEDIATE)
    norm("model.norm")
    matrix("lm_head", VOCABULARY, HIDDEN)
    return all


if __name__ == "__main__":
    main(*sys.argv[1:])
