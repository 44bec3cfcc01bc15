"""Medians (least, most) of the results that run.sh collected, side by side."""

import json
import statistics
import sys

FIGURES = [
    ("lookups per second of CPU", "lookups_per_cpu_second"),
    ("lookup p50 beside updates, us", "lookup_us_p50"),
    ("lookup p99 beside updates, us", "lookup_us_p99"),
    ("update applied, open loop, p50, us", "apply_us_p50"),
    ("update applied, open loop, p99, us", "apply_us_p99"),
    ("drained block ops per second", "drained_block_ops_per_second"),
    ("drained block ops per second of CPU", "drained_block_ops_per_cpu_second"),
    ("bytes per block membership", "bytes_per_membership"),
]

with open(sys.argv[1]) as results:
    rows = [json.loads(line) for line in results]


def cell(index, threads, figure):
    chosen = [r for r in rows if r["index"] == index and r.get("event_threads", threads) == threads]
    values = [r[figure] for r in chosen if figure in r]
    if not values:
        return "-"
    return f"{statistics.median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"


print("| | Kvasir | Dynamo, 4 event threads | Dynamo, 1 event thread |")
print("|---|---|---|---|")
for name, figure in FIGURES:
    cells = [cell("kvasir", 4, figure), cell("dynamo", 4, figure), cell("dynamo", 1, figure)]
    print(f"| {name} | {' | '.join(cells)} |")
