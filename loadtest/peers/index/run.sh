#!/bin/sh
# Kvasir's prefix index beside Dynamo's, in one run: loadtest/peers/index/run.sh
# TRACE [REPETITIONS]. The trace is Mooncake's (JSON lines with `hash_ids`).
# Results are JSON lines on stdout, and a table of medians at the end.
set -eu
trace=$(realpath "${1:?usage: run.sh TRACE [REPETITIONS]}")
repetitions=${2:-5}
here=$(dirname "$(realpath "$0")")
cd "$here"
cargo build --release --quiet
bin=${CARGO_TARGET_DIR:-$here/target}/release
results=$(mktemp)
trap 'rm -f "$results"' EXIT

"$bin/speed" --trace "$trace" --index check
"$bin/speed" --trace "$trace" --index warm-up
for index in kvasir dynamo; do
    "$bin/memory" --trace "$trace" --index "$index" | tee -a "$results"
done
for _ in $(seq "$repetitions"); do
    "$bin/speed" --trace "$trace" --index kvasir | tee -a "$results"
    # Its default number of event threads, and one.
    for threads in 4 1; do
        "$bin/speed" --trace "$trace" --index dynamo --event-threads "$threads" 2>/dev/null | tee -a "$results"
    done
done
exec python3 "$here/table.py" "$results"
