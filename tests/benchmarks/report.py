"""What was measured, for people and for programs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from metering import settlement

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scale.md"
PRINTED_WIDTH = 150
LIBRARIES = ("aiokafka", "asyncpg", "orjson", "msgspec")

Document = dict[str, Any]
Rows = list[tuple[str, ...]]


def opened() -> Document:
    """Begin a document with what it was measured on."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": {
            "cores": os.cpu_count(),
            "model": _model(),
            "memory_gibibytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30,
            "python": platform.python_version(),
            "rules_are": "interpreted" if settlement.__file__.endswith(".py") else "compiled",
            **{name: version(name) for name in LIBRARIES},
        },
        "scenarios": [],
        "delays": [],
    }


def write(path: Path, document: Document) -> None:
    """Write it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def show(document: Document) -> None:
    """Print the tables."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PRINTED_WIDTH)
    for title, rows in tables(document).items():
        table = Table(title=title)
        for place, heading in enumerate(rows[0]):
            table.add_column(heading, justify="right" if place else "left")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)


def record(document: Document) -> None:
    """Put the tables into the page that is about them, between its marks."""
    page = PAGE.read_text()
    for title, rows in tables(document).items():
        begin, end = f"<!-- {title} -->\n", f"<!-- end of {title} -->\n"
        before, _, rest = page.partition(begin)
        if end not in rest:
            raise RuntimeError(f"{PAGE.name} has no place for {title}: it needs {begin}{end}")
        after = rest.partition(end)[2]
        page = before + begin + _markdown(rows) + end + after
    PAGE.write_text(page)


def tables(document: Document) -> dict[str, Rows]:
    """Lay out what was measured."""
    found = {}
    if scenarios := document["scenarios"]:
        found = {"rates": _rates(scenarios), "costs": _costs(scenarios)}
    if "limits" in document:
        found["limits"] = _limits(document)
    if delays := document["delays"]:
        found["delays"] = _delays(delays)
    machine = document["machine"]
    found["machine"] = [
        ("measured", document["measured_at"]),
        ("commit", document["commit"]),
        *((name.replace("_", " "), str(value)) for name, value in machine.items()),
    ]
    return found


def _rates(scenarios: list[Document]) -> Rows:
    return [
        ("scenario", "broker", "events", "events/s", "of the raw insert", "raw insert/s",
         "slowest", "fastest"),
        *(
            (
                each["name"], each["broker"], f"{each['events']:,}", f"{each['rate']:,}",
                f"{each['ratio']:.2f}", f"{each['raw_insert']:,}",
                f"{min(each['rates']):,}", f"{max(each['rates']):,}",
            )
            for each in scenarios
        ),
    ]  # fmt: skip


def _costs(scenarios: list[Document]) -> Rows:
    def of(each: Document, kind: str, role: str, form: str) -> str:
        found = each[kind].get(role)
        return "" if not found else format(found, form)

    seconds, mebibytes = "cpu_seconds_per_100000", "peak_mebibytes"
    return [
        ("scenario", "broker", "CPU s a 100,000: consumer", "PostgreSQL", "broker", "others",
         "peak MiB: consumer", "PostgreSQL", "broker",
         "bytes an event", "in the database", "in its log"),
        *(
            (
                each["name"], each["broker"],
                of(each, seconds, "consumer", ".2f"), of(each, seconds, "postgres", ".2f"),
                of(each, seconds, "broker", ".2f"), of(each, seconds, "other", ".2f"),
                of(each, mebibytes, "consumer", "d"), of(each, mebibytes, "postgres", "d"),
                of(each, mebibytes, "broker", "d"),
                str(each["bytes_an_event"]), str(each["database_bytes_an_event"]),
                str(each["log_bytes_an_event"]),
            )
            for each in scenarios
        ),
    ]  # fmt: skip


def _limits(document: Document) -> Rows:
    limits, usual = document["limits"], document["scenarios"][0]
    rates = {
        "lotmeter": usual["rate"],
        "aiokafka reading alone": limits["reading_alone"],
        "raw insert by arrays": usual["raw_insert"],
        "raw insert by COPY": limits["insert_by_copy"],
        "a plain consumer": limits["plain_consumer"],
    }
    return [
        ("what", "a second", "lotmeter is"),
        *(
            (name, f"{rate:,.0f}", f"{usual['rate'] / rate:.2f} of it")
            for name, rate in rates.items()
        ),
    ]


def _delays(delays: list[Document]) -> Rows:
    return [
        ("stream", "broker", "events/s", "p50", "p99", "longest"),
        *(
            (
                each["name"], each["broker"], f"{each['rate']:,.0f}",
                *(f"{each[key]:.2f} s" for key in ("p50", "p99", "longest")),
            )
            for each in delays
        ),
    ]  # fmt: skip


def _markdown(rows: Rows) -> str:
    rule = ("---", *("---:" for _ in rows[0][1:]))
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], rule, *rows[1:]))


def _model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
