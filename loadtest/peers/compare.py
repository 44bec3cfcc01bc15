#!/usr/bin/env python3
"""Holds `kvasir loadtest` against wrk (requests) and AIPerf (streams), side by side.

All drive the same built-in null server on this machine, in turns within one
run, so that whatever else the machine does meets them alike. Medians of the
rounds and their ratios are printed. wrk must be installed; AIPerf is put into a
virtual environment of its own.

    python3 loadtest/peers/compare.py --kvasir target/release/kvasir
"""

import argparse
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
AIPERF = "aiperf==0.13.0"
TOKENIZER = HERE.parent.parent / "worker" / "demo-model"
CONCURRENCY = 64
CHUNKS = 128


def main():
    flags = read_flags()
    kvasir = str(pathlib.Path(flags.kvasir).resolve())
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: install it, on Debian by `apt-get install wrk`")
    aiperf = None if flags.without_aiperf else prepare_aiperf(pathlib.Path(flags.venv))
    whole = {"wrk": wrk, "kvasir loadtest": kvasir_whole}
    streams = {"kvasir loadtest": kvasir_streams}
    if aiperf:
        streams = {"AIPerf": aiperf_streams} | streams
    tools = argparse.Namespace(kvasir=kvasir, aiperf=aiperf, seconds=flags.seconds)
    with NullServer(kvasir) as url:
        rates = measure("requests/s, not streamed", whole, tools, url, flags.rounds)
    with NullServer(kvasir, "--one-by-one") as url:
        chunks = measure("chunks/s, streamed", streams, tools, url, flags.rounds)
    print()
    show("requests/s, not streamed", rates)
    show(f"chunks/s, streamed, {CHUNKS} to an answer, each sent alone", chunks)


def read_flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kvasir", default="target/release/kvasir", help="the binary")
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are taken")
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--venv", default="target/peers-venv", help="where AIPerf is put")
    parser.add_argument("--without-aiperf", action="store_true", help="only wrk")
    return parser.parse_args()


def prepare_aiperf(venv):
    """The program, installed if it is not."""
    program = venv / "bin" / "aiperf"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = venv / "bin" / "pip"
        subprocess.run([pip, "install", "--quiet", AIPERF], check=True)
    return str(program.resolve())


class NullServer:
    """`kvasir loadtest null-server`; gives its URL."""

    def __init__(self, kvasir, *flags):
        self.command = [kvasir, "loadtest", "null-server", *flags]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        return self.process.stdout.readline().strip()

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def measure(what, drivers, tools, url, rounds):
    """Rates by tool, a round after the other, each tool once in a round."""
    rates = {name: [] for name in drivers}
    for number in range(1, rounds + 1):
        for name, drive in drivers.items():
            rate = drive(tools, url)
            rates[name].append(rate)
            print(f"round {number} of {rounds}: {name}: {rate:,.0f} {what}", flush=True)
    return rates


def show(what, rates):
    medians = {name: statistics.median(values) for name, values in rates.items()}
    own = medians["kvasir loadtest"]
    print(what)
    for name, values in rates.items():
        low, high = min(values), max(values)
        ratio = "" if name == "kvasir loadtest" else f"   kvasir is {own / medians[name]:.2f} times"
        print(f"  {name:<18}{medians[name]:>12,.0f}   ({low:,.0f} to {high:,.0f}){ratio}")


def wrk(tools, url):
    command = ["wrk", "-t2", f"-c{CONCURRENCY}", f"-d{tools.seconds}s", "-s", HERE / "chat.lua"]
    text = output([*command, f"{url}/v1/chat/completions"])
    if "Non-2xx" in text or "Socket errors" in text:
        sys.exit(f"wrk was refused:\n{text}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])


def kvasir_whole(tools, url):
    return kvasir(tools, url, r"([\d,.]+) requests/s", "--no-stream", "--output-tokens", "1")


def kvasir_streams(tools, url):
    return kvasir(tools, url, r"([\d,.]+) output tokens/s", "--output-tokens", str(CHUNKS))


def kvasir(tools, url, figure, *flags):
    command = [tools.kvasir, "loadtest", "run", "--url", url, "--model", "null", "--quiet"]
    command += ["--prompt-format", "chat", "--input-tokens", "4"]
    command += ["--concurrency", str(CONCURRENCY), "--duration", f"{tools.seconds}s"]
    text = output([*command, *flags])
    return float(re.search(figure, text)[1].replace(",", ""))


def aiperf_streams(tools, url):
    with tempfile.TemporaryDirectory() as folder:
        command = [tools.aiperf, "profile", "--url", url, "--model", "null", "--streaming"]
        command += ["--endpoint-type", "chat", "--tokenizer", str(TOKENIZER)]
        command += ["--use-server-token-count", "--ui", "none", "--random-seed", "1"]
        command += ["--isl", "4", "--osl", str(CHUNKS), "--concurrency", str(CONCURRENCY)]
        command += ["--benchmark-duration", str(tools.seconds)]
        output([*command, "--output-artifact-dir", folder])
        [export] = pathlib.Path(folder).rglob("profile_export_aiperf.json")
        return json.loads(export.read_text())["output_token_throughput"]["avg"]


def output(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # A generator that could not keep up still tells what it reached.
    if done.returncode not in (0, 1):
        sys.exit(f"{command[0]} failed:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
