"""Tokens a second of llama.cpp on a GGUF file, as one line of JSON: decode at
batch 1, 8 and 32, and prefill of prompts of 512 and 4,096 tokens, or of as many as
PROMPTS says (512,4096).

usage: llama_bench.py FILE THREADS [ROUNDS [wall|cpu [PROMPTS]]]

`cpu` counts the process' time on processors: with one thread, what other
processes take doesn't count.
"""

import ctypes
import json
import statistics
import sys
import time

import llama_cpp as ll

STEPS = 16
MOST_PROMPT_TOKENS = 4096
BATCHES = (1, 8, 32)


class Model:
    def __init__(self, path: str, threads: int, clock: str) -> None:
        self.clock = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
        ll.llama_backend_init()
        ll.llama_log_set(SILENT, None)
        parameters = ll.llama_model_default_params()
        parameters.use_mmap = True
        self.model = ll.llama_model_load_from_file(path.encode(), parameters)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        parameters = ll.llama_context_default_params()
        parameters.n_ctx = 8192
        parameters.n_batch = 4096
        parameters.n_ubatch = 512
        parameters.n_seq_max = max(BATCHES)
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = ll.llama_init_from_model(self.model, parameters)
        self.batch = ll.llama_batch_init(MOST_PROMPT_TOKENS, 0, 1)

    def run(self, tokens: list[tuple[int, int, bool]]) -> None:
        """One step of (position, sequence, whether logits are wanted)."""
        self.batch.n_tokens = len(tokens)
        for i, (position, sequence, logits) in enumerate(tokens):
            self.batch.token[i] = 300 + (position * 7 + sequence) % 30000
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = logits
        if ll.llama_decode(self.context, self.batch):
            sys.exit("llama.cpp failed in a step")

    def clear(self) -> None:
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)

    def decode(self, batch: int) -> float:
        self.clear()
        self.run([(0, sequence, True) for sequence in range(batch)])
        start = self.clock()
        for step in range(1, STEPS + 1):
            self.run([(step, sequence, True) for sequence in range(batch)])
        return batch * STEPS / (self.clock() - start)

    def prefill(self, length: int) -> float:
        self.clear()
        start = self.clock()
        self.run([(i, 0, i + 1 == length) for i in range(length)])
        return length / (self.clock() - start)


@ll.llama_log_callback
def SILENT(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    pass


def main(
    path: str, threads: str, rounds: str = "1", clock: str = "wall", prompts: str = "512,4096"
) -> None:
    lengths = [min(int(length), MOST_PROMPT_TOKENS) for length in prompts.split(",")]
    model = Model(path, int(threads), clock)
    model.decode(1)
    figures: dict[str, list[float]] = {}
    for _ in range(int(rounds)):
        for batch in BATCHES:
            figures.setdefault(f"decode_{batch}", []).append(model.decode(batch))
        for length in lengths:
            figures.setdefault(f"prefill_{length}", []).append(model.prefill(length))
    print(json.dumps({name: round(statistics.median(all), 1) for name, all in figures.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
