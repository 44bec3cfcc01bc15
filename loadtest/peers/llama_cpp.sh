#!/usr/bin/env bash
# Side by side with llama.cpp: builds it for this machine from llama-cpp-python's
# source, writes the same model of about 0.45 B parameters in each encoding, and
# runs it and `kvasir worker bench` in turn. Wants a quiet machine.
#
# usage: loadtest/peers/llama_cpp.sh [THREADS [ROUNDS [OPTION...]]], with
# options of llama_beside.py
#
# Needs python3 with venv, a C++ compiler, and about 4 GB of disk in PEERS
# (target/peers unless set).
set -euo pipefail
cd "$(dirname "$0")/../.."

threads=${1:-$(nproc)}
rounds=${2:-5}
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
cargo build --quiet --release -p kvasir
"$python" "$scripts/llama_beside.py" "${CARGO_TARGET_DIR:-target}/release/kvasir" "$peers" \
    --threads "$threads" --rounds "$rounds" "${@:3}"
