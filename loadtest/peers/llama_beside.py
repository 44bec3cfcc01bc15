"""Kvasir beside llama.cpp: runs `kvasir worker bench` and llama_bench.py in turn
on the same GGUF files, and prints medians, their ratios and the bars.

usage: llama_beside.py KVASIR FOLDER [--threads N] [--rounds N] [--json FILE]
                    [--encodings Q8_0,Q4_0,BF16] [--prompts 512,4096]

FOLDER holds Q8_0.gguf and so on, as llama_model.py writes them; llama_cpp.sh
makes all of it and calls this. In each round each side measures once, so what
else the machine does falls on both.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
BATCHES = ("1", "8", "32")
# Kvasir's tokens a second over llama.cpp's, at least.
BARS = {
    "decode_1": {"Q8_0": 1.2, "Q4_0": 1.4, "BF16": 1.0},
    "decode_8": {"Q8_0": 2.5, "Q4_0": 2.5, "BF16": 2.5},
    "decode_32": {"Q8_0": 2.5, "Q4_0": 2.5, "BF16": 2.5},
    "prefill_512": {"Q8_0": 3.0, "Q4_0": 3.0, "BF16": 5.0},
    "prefill_4096": {"Q8_0": 3.0, "Q4_0": 3.0, "BF16": 5.0},
}
# Of the read bandwidth that is measured in the same round.
READ_BAR = 0.8


def main() -> None:
    arguments = parse()
    rounds = []
    for number in range(arguments.rounds):
        print(f"round {number + 1} of {arguments.rounds}: load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        rounds.append({encoding: turn(arguments, encoding) for encoding in arguments.encodings})
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rounds, indent=1) + "\n")
    print(table(rounds, arguments.encodings))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kvasir")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    parser.add_argument("--encodings", type=lambda text: text.split(","), default=["Q8_0", "Q4_0", "BF16"])
    parser.add_argument("--prompts", type=lambda text: text.split(","), default=["512", "4096"])
    return parser.parse_args()


def turn(arguments: argparse.Namespace, encoding: str) -> dict:
    """Each side once; Kvasir's report, and llama.cpp's tokens a second."""
    model = str(arguments.folder / f"{encoding}.gguf")
    threads = str(arguments.threads)
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [arguments.kvasir, "worker", "bench", "--model", model, "--threads", threads]
        command += ["--rounds", "1", "--batch", ",".join(BATCHES)]
        command += ["--prompt", ",".join(arguments.prompts), "--json", report.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        ours = json.load(report)
    command = [sys.executable, str(HERE / "llama_bench.py"), model, threads]
    command += ["1", "wall", ",".join(arguments.prompts)]
    theirs = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {"kvasir": ours, "llama.cpp": theirs}


def table(rounds: list[dict], encodings: list[str]) -> str:
    lines = [
        "| model | phase | Kvasir, tokens/s | llama.cpp, tokens/s | ratio (lowest to highest) | bar | of read bandwidth |  |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for encoding in encodings:
        turns = [each[encoding] for each in rounds]
        for index, phase in enumerate(turns[0]["kvasir"]["phases"]):
            lines.append(row(encoding, phase["phase"], turns, index))
    return "\n".join(lines)


def row(encoding: str, phase: str, turns: list[dict], index: int) -> str:
    figures = [turn["kvasir"]["phases"][index] for turn in turns]
    ours = [it["tokens_per_second"] for it in figures]
    theirs = [turn["llama.cpp"][phase] for turn in turns]
    ratios = [a / b for a, b in zip(ours, theirs)]
    ratio, bar = statistics.median(ratios), BARS.get(phase, {}).get(encoding)
    read = statistics.median(it["read_share"] for it in figures)
    verdict = "" if bar is None else ("holds" if ratio >= bar else "**missed**")
    if phase == "decode_1":
        verdict += ", " + ("holds" if read >= READ_BAR else "**missed**") + f" ({READ_BAR:.0%})"
    return (
        f"| {encoding} | {phase.replace('_', ' ')} | {statistics.median(ours):.1f} | {statistics.median(theirs):.1f} "
        f"| {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {bar if bar else ''} "
        f"| {f'{read:.0%}' if phase.startswith('decode') else ''} | {verdict} |"
    )


if __name__ == "__main__":
    main()
