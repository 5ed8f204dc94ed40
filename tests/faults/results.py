"""What all recorded runs came to: kept as JSON, shown as a table."""

import fcntl
import json
from pathlib import Path

from tests.faults.failpoints import POINTS

DOCS = Path(__file__).resolve().parents[2] / "docs"
KEPT, TABLE = DOCS / "faults.json", DOCS / "faults.md"
SEEDS_SHOWN = 3

HEAD = """# Faults

Written by `make faults ARGS=--record`; every recorded run adds to it. Members run as processes
against Apache Kafka 4.1 and PostgreSQL 18. After each fault a checker that shares no code with the
service reads the topics itself, works out counts, draws, lots and answers to commands by a model of
its own, and compares them with the tables; then `lotmeter verify --full` must agree. A fault that
cannot prove that it happened fails.

"""


def record(name, report, seed, seconds):
    """Add a fault that was survived; two runs at the same time wait for each other."""
    DOCS.mkdir(exist_ok=True)
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _add(name, report, seed, seconds)


def _add(name, report, seed, seconds):
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    row = kept.setdefault(
        name,
        {"runs": 0, "seeds": [], "events": 0, "lost": 0, "double": 0, "kills": 0,
         "recovery_seconds_max": 0.0, "seconds": 0.0, "failpoints": {}, "hits": {}},
    )  # fmt: skip
    row["runs"] += 1
    row["seeds"].append(seed)
    for key in ("events", "lost", "double", "kills"):
        row[key] += getattr(report, key)
    row["recovery_seconds_max"] = round(
        max(row["recovery_seconds_max"], report.recovery_seconds), 1
    )
    row["seconds"] = round(row["seconds"] + seconds, 1)
    for part in ("failpoints", "hits"):
        for key, times in getattr(report, part).items():
            row[part][key] = row[part].get(key, 0) + times
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    TABLE.write_text(_page(kept))


def _page(kept):
    kills = sum(row["kills"] for row in kept.values())
    lines = [
        (
            f"{sum(row['runs'] for row in kept.values())} runs,"
            f" {sum(row['events'] for row in kept.values()):,} records,"
            f" {kills} members killed, {sum(row['lost'] for row in kept.values())} events lost,"
            f" {sum(row['double'] for row in kept.values())} counted twice."
        ),
        "",
        (
            "| fault | runs | seeds | records | lost | double | killed | longest recovery |"
            " what proves that it happened |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(kept.items()):
        seeds = ", ".join(map(str, row["seeds"][-SEEDS_SHOWN:]))
        if len(row["seeds"]) > SEEDS_SHOWN:
            seeds = f"… {seeds}"
        hits = ", ".join(f"{what}: {times}" for what, times in sorted(row["hits"].items()))
        lines.append(
            f"| {name.replace('_', ' ')} | {row['runs']} | {seeds} | {row['events']:,} |"
            f" {row['lost']} | {row['double']} | {row['kills']} | {row['recovery_seconds_max']} s |"
            f" {hits} |"
        )
    points = {}
    for row in kept.values():
        for point, times in row["failpoints"].items():
            points[point] = points.get(point, 0) + times
    lines += ["", "## Killed at each point", "", "| point | times |", "|---|---|"]
    lines += [f"| {point.replace('_', ' ')} | {points.get(point, 0)} |" for point in POINTS]
    return HEAD + "\n".join(lines) + "\n"
