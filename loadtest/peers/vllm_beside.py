"""Kvasir beside vLLM on the CPU: sends the same loads of `kvasir loadtest` to both
in turn, with the same checkpoint, and prints medians, their ratios and the bars.

usage: vllm_beside.py KVASIR VLLM MODEL [--threads N] [--rounds N] [--json FILE]
                    [--concurrency 1,2,4,8,16] [--kvasir-flags ...] [--vllm-flags ...]

MODEL is a folder as vllm_model.py writes it; vllm_cpu.sh makes all of it and calls
this. Each server is started once; while one is measured the other is stopped
(SIGSTOP), and who comes first changes with every round.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile

from vllm_servers import Server

NAME = "peer"
PROMPT_TOKENS = "uniform:224..288"
OUTPUT_TOKENS = 64
# The made-up pieces of the vocabulary, which stand for themselves.
TOKEN_IDS = "300..31000"
KV_GIB = 4
# Sampling is no part of it, and tokens are counted by their ids whatever their text.
EXTRA_BODY = {"temperature": 0, "return_token_ids": True}
# Texts that random weights write soon repeat: the first tokens tell most.
GREEDY_PROMPTS, GREEDY_TOKENS = 8, 4

# Kvasir's over vLLM's: tokens a second at least, latencies at most.
THROUGHPUT_BAR = 1.5
LATENCY_BAR = 1.0


def main() -> None:
    arguments = parse()
    # Servers end with this, whatever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kvasir = stack.enter_context(Server("kvasir", "/ready", folder / "kvasir.log"))
        vllm = stack.enter_context(Server("vllm", "/health", folder / "vllm.log"))
        for server, start in ((kvasir, start_kvasir), (vllm, start_vllm)):
            start(server, arguments)
            print(f"{server.name} was ready after {server.seconds_to_ready:.1f} s", file=sys.stderr)
            load(arguments, server, 16, requests=16, output=8, seed=1)
            server.answer = greedy(server)
            server.pause()
        rounds = [turn(arguments, number, kvasir, vllm) for number in range(arguments.rounds)]
    agreed = agreement(kvasir.answer, vllm.answer)
    if arguments.json:
        whole = {"greedy_tokens_that_agree": agreed, "of": GREEDY_PROMPTS * GREEDY_TOKENS, "threads": arguments.threads,
                 "seconds_to_ready": {it.name: it.seconds_to_ready for it in (kvasir, vllm)},
                 "rounds": rounds}
        pathlib.Path(arguments.json).write_text(json.dumps(whole, indent=1) + "\n")
    print(table(rounds, arguments.concurrency))
    print(f"\n{agreed} of {GREEDY_PROMPTS * GREEDY_TOKENS} greedy tokens agree.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kvasir")
    parser.add_argument("vllm", help="the program")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--concurrency", type=lambda text: [int(it) for it in text.split(",")],
                        default=[1, 2, 4, 8, 16])
    parser.add_argument("--kvasir-flags", type=shlex.split, default=[])
    parser.add_argument("--vllm-flags", type=shlex.split, default=[])
    return parser.parse_args()


def start_kvasir(server: Server, arguments: argparse.Namespace) -> None:
    command = [arguments.kvasir, "up", "--model", arguments.model, "--served-model-name", NAME]
    command += ["--workers", "1", "--threads", str(arguments.threads), "--port", str(server.port)]
    command += ["--kv-memory", f"{KV_GIB}GiB", "--log-level", "warn"]
    # As vLLM, which refuses nobody for having waited.
    command += ["--max-queue-wait", "10m", *arguments.kvasir_flags]
    server.start(command, {})


def start_vllm(server: Server, arguments: argparse.Namespace) -> None:
    command = [arguments.vllm, "serve", arguments.model, "--served-model-name", NAME]
    command += ["--host", "127.0.0.1", "--port", str(server.port), "--dtype", "bfloat16"]
    command += ["--disable-log-stats", "--disable-uvicorn-access-log", *arguments.vllm_flags]
    # Left alone it keeps one processor free, of two.
    processors = os.environ.get("VLLM_CPU_OMP_THREADS_BIND", f"0-{arguments.threads - 1}")
    environment = {
        "VLLM_CPU_OMP_THREADS_BIND": processors,
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "LD_PRELOAD": os.environ.get("PRELOAD_VLLM", ""),
    }
    server.start(command, environment)


def turn(arguments: argparse.Namespace, number: int, *servers: Server) -> dict:
    """Each server once, at every concurrency; their figures."""
    figures = {}
    for server in servers if number % 2 == 0 else reversed(servers):
        print(f"round {number + 1} of {arguments.rounds}: {server.name}, "
              f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        server.resume()
        # Back in memory and caches.
        greedy(server)
        figures[server.name] = {
            str(concurrency): load(arguments, server, concurrency, requests=max(3, 2 * concurrency),
                                   output=OUTPUT_TOKENS, seed=100 * (number + 1) + concurrency)
            for concurrency in arguments.concurrency
        }
        server.pause()
        said = (f"{it['tokens_per_second']:.1f}" for it in figures[server.name].values())
        print(f"  {' '.join(said)} tokens/s", file=sys.stderr)
    return figures


def load(arguments: argparse.Namespace, server: Server, concurrency: int, *, requests: int,
         output: int, seed: int) -> dict:
    """The figures that are compared; a seed is of prompts that no cache has."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [arguments.kvasir, "loadtest", "run", "--url", server.url, "--model", NAME, "--quiet"]
        command += ["--prompt-format", "tokens", "--token-ids", TOKEN_IDS]
        command += ["--input-tokens", PROMPT_TOKENS, "--output-tokens", str(output)]
        command += ["--extra-body", json.dumps(EXTRA_BODY), "--seed", str(seed)]
        command += ["--concurrency", str(concurrency), "--requests", str(requests)]
        # Its status also tells of a generator that was late, by microseconds here.
        done = subprocess.run([*command, "--json", report.name], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        try:
            figures = json.load(report)["figures"]
        except ValueError:
            sys.exit(f"{server.name} could not be measured:\n{done.stdout}")
    outcomes = figures["requests"]["outcomes"]
    if outcomes != {"complete": requests}:
        server.fail(f"answered {requests} requests with {outcomes}")
    latency = figures["latency_ms"]
    return {
        "tokens_per_second": figures["per_second"]["output_tokens"],
        "ttft_p50": latency["ttft"]["p50"],
        "ttft_p99": latency["ttft"]["p99"],
        "itl_p50": latency["itl"]["p50"],
        "itl_p99": latency["itl"]["p99"],
    }


def greedy(server: Server) -> list[list[int]]:
    """What the model says to prompts that are always the same."""
    prompts = [[300 + (97 * i + 1009 * number) % 30000 for i in range(64)] for number in range(GREEDY_PROMPTS)]
    body = {"model": NAME, "prompt": prompts, "max_tokens": GREEDY_TOKENS, "ignore_eos": True, **EXTRA_BODY}
    choices = server.post("/v1/completions", body)["choices"]
    return [it["token_ids"] for it in sorted(choices, key=lambda it: it["index"])]


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> int:
    """Tokens of each answer up to the first that differs: what follows is another text's."""
    def before_difference(pairs: list[tuple[int, int]]) -> int:
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))

    return sum(before_difference(list(zip(a, b))) for a, b in zip(ours, theirs))


def table(rounds: list[dict], concurrency: list[int]) -> str:
    lines = [
        "| at a time | | Kvasir | vLLM | ratio (lowest to highest) | bar | |",
        "|---:|---|---:|---:|---:|---:|---|",
    ]
    for each in concurrency:
        lines.append(row(rounds, each, "tokens_per_second", "tokens/s", THROUGHPUT_BAR))
        lines.append(row(rounds, each, "ttft_p50", "first token p50, ms", None))
        lines.append(row(rounds, each, "ttft_p99", "first token p99, ms", LATENCY_BAR))
        lines.append(row(rounds, each, "itl_p99", "between tokens p99, ms", LATENCY_BAR))
    return "\n".join(lines)


def row(rounds: list[dict], concurrency: int, figure: str, title: str, bar: float | None) -> str:
    ours, theirs = ([turn[name][str(concurrency)][figure] for turn in rounds] for name in ("kvasir", "vllm"))
    ratios = [a / b for a, b in zip(ours, theirs)]
    ratio = statistics.median(ratios)
    at_least = figure == "tokens_per_second"
    holds = bar is None or (ratio >= bar if at_least else ratio <= bar)
    verdict = "" if bar is None else ("holds" if holds else "**missed**")
    shown = "" if bar is None else f"{'at least' if at_least else 'at most'} {bar}"
    return (
        f"| {concurrency} | {title} | {statistics.median(ours):.1f} | {statistics.median(theirs):.1f} "
        f"| {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {shown} | {verdict} |"
    )


if __name__ == "__main__":
    main()
