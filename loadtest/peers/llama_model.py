"""Writes a GGUF file of about 0.45 B random parameters: the model that llama.cpp
and Kvasir's products are compared on.

usage: llama_model.py FILE ENCODING, of F32, BF16, F16, Q8_0 and Q4_0
"""

import sys

import gguf
import numpy as np

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, VOCABULARY = 1024, 4096, 24, 16, 8, 32000


def main(path: str, encoding: str) -> None:
    kind = gguf.GGMLQuantizationType[encoding]
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    add_tokenizer(writer)

    def matrix(name: str, rows: int, cols: int) -> None:
        values = random.standard_normal((rows, cols), dtype=np.float32) * (0.5 / cols**0.5)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, dtype=np.float32))

    matrix("token_embd", VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        matrix(f"{block}.attn_q", HIDDEN, HIDDEN)
        matrix(f"{block}.attn_k", HIDDEN * KV_HEADS // HEADS, HIDDEN)
        matrix(f"{block}.attn_v", HIDDEN * KV_HEADS // HEADS, HIDDEN)
        matrix(f"{block}.attn_output", HIDDEN, HIDDEN)
        norm(f"{block}.ffn_norm")
        matrix(f"{block}.ffn_gate", INTERMEDIATE, HIDDEN)
        matrix(f"{block}.ffn_up", INTERMEDIATE, HIDDEN)
        matrix(f"{block}.ffn_down", HIDDEN, INTERMEDIATE)
    norm("output_norm")
    matrix("output", VOCABULARY, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """A vocabulary of bytes and made-up pieces: only its size matters here."""
    special = ["<unk>", "<s>", "</s>"]
    tokens = special + [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += [f"piece{i}" for i in range(VOCABULARY - len(tokens))]
    types = [2, 3, 3] + [6] * 256 + [1] * (VOCABULARY - 259)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(VOCABULARY)])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
