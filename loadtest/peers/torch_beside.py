"""Kvasir beside transformers on torch: prompts in bf16, of the same checkpoint,
in turn; prints medians, their ratios and the bar.

usage: torch_beside.py KVASIR MODEL [--threads N] [--rounds N] [--prompts 512]

Needs torch and transformers, as vLLM's environment has them (vllm_cpu.sh); MODEL
is a checkpoint as vllm_model.py writes it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

# Kvasir's tokens a second over torch's, at least.
BAR = 0.8


def main() -> None:
    arguments = parse()
    # Not needed to read --help.
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.bfloat16, attn_implementation="sdpa"
    )

    def theirs(prompt: int) -> float:
        tokens = torch.arange(prompt)[None] * 7 % 30000 + 300
        with torch.inference_mode():
            start = time.perf_counter()
            # Logits of the last token only, as for a prompt that is answered.
            model(tokens, use_cache=True, logits_to_keep=1)
            return prompt / (time.perf_counter() - start)

    print("| prompt | Kvasir, tokens/s | torch, tokens/s | ratio (lowest to highest) | bar | |")
    print("|---:|---:|---:|---:|---:|---|")
    for prompt in arguments.prompts:
        theirs(prompt)
        turns = [(ours(arguments, prompt), theirs(prompt)) for _ in range(arguments.rounds)]
        ratios = [a / b for a, b in turns]
        ratio = statistics.median(ratios)
        print(
            f"| {prompt} | {statistics.median(it[0] for it in turns):.1f} "
            f"| {statistics.median(it[1] for it in turns):.1f} "
            f"| {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {BAR} "
            f"| {'holds' if ratio >= BAR else '**missed**'} |"
        )


def ours(arguments: argparse.Namespace, prompt: int) -> float:
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [arguments.kvasir, "worker", "bench", "--model", arguments.model, "--rounds", "1"]
        command += ["--threads", str(arguments.threads), "--batch", "1", "--prompt", str(prompt)]
        subprocess.run([*command, "--json", report.name], check=True, stdout=subprocess.DEVNULL)
        phases = json.load(report)["phases"]
    return next(it["tokens_per_second"] for it in phases if it["phase"] == f"prefill_{prompt}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kvasir")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=lambda text: [int(it) for it in text.split(",")], default=[512])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
