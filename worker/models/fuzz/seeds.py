"""Makes the seeds: one tiny Llama with a tokenizer, in both kinds of file.

python3 seeds.py
"""
import json
import pathlib
import struct

HIDDEN, INNER, VOCAB, HEADS, KV_HEADS = 32, 32, 6, 2, 1
KV = HIDDEN // HEADS * KV_HEADS
HERE = pathlib.Path(__file__).parent / "seeds"

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# Name in a checkpoint, name in GGUF, shape, type in GGUF.
F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8
LAYER = [
    ("input_layernorm", "attn_norm", [HIDDEN], F32),
    ("post_attention_layernorm", "ffn_norm", [HIDDEN], F32),
    ("self_attn.q_proj", "attn_q", [HIDDEN, HIDDEN], F16),
    ("self_attn.k_proj", "attn_k", [KV, HIDDEN], F16),
    ("self_attn.v_proj", "attn_v", [KV, HIDDEN], F16),
    ("self_attn.o_proj", "attn_output", [HIDDEN, HIDDEN], F16),
    ("mlp.gate_proj", "ffn_gate", [INNER, HIDDEN], Q4_0),
    ("mlp.up_proj", "ffn_up", [INNER, HIDDEN], Q8_0),
    ("mlp.down_proj", "ffn_down", [HIDDEN, INNER], Q8_0),
]
TENSORS = [
    ("model.embed_tokens.weight", "token_embd.weight", [VOCAB, HIDDEN], F16),
    ("model.norm.weight", "output_norm.weight", [HIDDEN], F32),
] + [
    (f"model.layers.0.{name}.weight", f"blk.0.{short}.weight", shape, kind)
    for name, short, shape, kind in LAYER
]


def size(shape):
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def stored(count, kind):
    if kind == F32:
        return struct.pack("<f", 0.5) * count
    if kind == F16:
        return struct.pack("<e", 0.25) * count
    return (struct.pack("<e", 0.125) + bytes([0x97] * (16 if kind == Q4_0 else 32))) * (count // 32)


def safetensors():
    header, data = {}, b""
    for name, _, shape, _ in TENSORS:
        content = struct.pack("<e", 0.25) * size(shape)
        header[name] = {
            "dtype": "F16",
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def text(value):
    value = value.encode()
    return struct.pack("<Q", len(value)) + value


def values(kind, items):
    packed = {
        8: lambda it: b"".join(map(text, it)),
        5: lambda it: struct.pack(f"<{len(it)}i", *it),
        6: lambda it: struct.pack(f"<{len(it)}f", *it),
    }
    return struct.pack("<IQ", kind, len(items)) + packed[kind](items)


def gguf(tokenizer, tokens, extra):
    pairs = [
        ("general.architecture", 8, text("llama")),
        ("llama.embedding_length", 4, struct.pack("<I", HIDDEN)),
        ("llama.feed_forward_length", 4, struct.pack("<I", INNER)),
        ("llama.block_count", 4, struct.pack("<I", 1)),
        ("llama.attention.head_count", 4, struct.pack("<I", HEADS)),
        ("llama.attention.head_count_kv", 4, struct.pack("<I", KV_HEADS)),
        ("llama.context_length", 4, struct.pack("<I", 64)),
        ("llama.rope.freq_base", 6, struct.pack("<f", 10000.0)),
        ("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
        ("tokenizer.ggml.model", 8, text(tokenizer)),
        ("tokenizer.ggml.tokens", 9, values(8, tokens)),
        ("tokenizer.ggml.token_type", 9, values(5, [3, 3, 3] + [1] * (len(tokens) - 3))),
        ("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 1)),
        ("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 2)),
        ("tokenizer.ggml.add_bos_token", 7, b"\1"),
        ("tokenizer.chat_template", 8, text("{{ messages[0].content }}")),
    ] + extra
    out = b"GGUF" + struct.pack("<IQQ", 3, len(TENSORS), len(pairs))
    for key, kind, value in pairs:
        out += text(key) + struct.pack("<I", kind) + value
    data = b""
    for _, name, shape, kind in TENSORS:
        out += text(name) + struct.pack("<I", len(shape))
        out += b"".join(struct.pack("<Q", it) for it in reversed(shape))
        out += struct.pack("<IQ", kind, len(data))
        data += stored(size(shape), kind)
        data += bytes(-len(data) % 32)
    return out + bytes(-len(out) % 32) + data


def write(name, content):
    path = HERE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


merges = ("tokenizer.ggml.merges", 9, values(8, ["a b"]))
bpe = gguf("gpt2", ["<unk>", "<s>", "</s>", "a", "b", "ab"], [merges, ("tokenizer.ggml.pre", 8, text("llama-bpe"))])
scores = ("tokenizer.ggml.scores", 9, values(6, [0.0, 0.0, 0.0, -1.0, -2.0, -0.5]))
spm = gguf("llama", ["<unk>", "<s>", "</s>", "\u2581", "a", "\u2581a"], [scores])
for target in ["gguf", "tokenizer"]:
    write(f"{target}/bpe.gguf", bpe)
    write(f"{target}/spm.gguf", spm)
write("config/llama.json", json.dumps(CONFIG, indent=1).encode())
write("safetensors/llama.safetensors", safetensors())
write("safetensors/index.json", json.dumps({"weight_map": {"w": "a.safetensors"}}).encode())
