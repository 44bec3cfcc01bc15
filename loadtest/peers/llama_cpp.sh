#!/usr/bin/env bash
# Side by side with llama.cpp: builds it for this machine from llama-cpp-python's
# source, writes the same model of about 0.45 B parameters in each encoding, and
# runs it and Kvasir's products in turn. Wants a quiet machine.
#
# usage: loadtest/peers/llama_cpp.sh [THREADS [ROUNDS [wall|cpu]]]
#
# Kvasir's figures are of all products of a forward pass (`--example products`),
# llama.cpp's of whole steps: attention at these lengths is a small part of both.
# Needs python3 with venv, a C++ compiler, and about 4 GB of disk in PEERS
# (target/peers unless set).
set -euo pipefail
cd "$(dirname "$0")/../.."

threads=${1:-$(nproc)}
rounds=${2:-5}
clock=${3:-wall}
peers=${PEERS:-target/peers}
python=$peers/venv/bin/python
scripts=loadtest/peers

mkdir -p "$peers"
if ! "$python" -c 'import llama_cpp, gguf' 2>/dev/null; then
    python3 -m venv "$peers/venv"
    "$python" -m pip install --quiet numpy gguf cmake ninja
    CMAKE_ARGS="-DGGML_NATIVE=ON" "$python" -m pip install --quiet \
        --no-binary llama-cpp-python llama-cpp-python
fi
for encoding in Q8_0 Q4_0 BF16; do
    file=$peers/$encoding.gguf
    if [ ! -f "$file" ]; then
        "$python" "$scripts/llama_model.py" "$file.part" "$encoding"
        mv "$file.part" "$file"
    fi
done
cargo build --quiet --release -p tensor --example products
products=${CARGO_TARGET_DIR:-target}/release/examples/products

for round in $(seq "$rounds"); do
    echo "round $round: kvasir"
    "$products" --threads "$threads" --rounds 1 --clock "$clock"
    for encoding in Q8_0 Q4_0 BF16; do
        echo "round $round: llama.cpp $encoding"
        "$python" "$scripts/llama_bench.py" "$peers/$encoding.gguf" "$threads" 1 "$clock"
    done
done
