"""Where the time goes: the calls of a member, and the statements of PostgreSQL.

A profiler costs what it measures: rates of a run with a profile are not to be compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

# Kept by the database server itself; it must know when it starts.
SERVER_SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track_utility": "on",
}
SAMPLES_A_SECOND = 200
LINES_MAX = 60

_STATEMENTS = """
SELECT calls, round(total_exec_time) AS ms, rows, wal_bytes, left(regexp_replace(query, '\\s+', ' ',
    'g'), 160) AS query
FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname =
    current_database()) ORDER BY total_exec_time DESC LIMIT 40
"""
_LINE = "{ms:>8} ms {calls:>6} calls {rows:>9} rows {kibibytes:>8} KiB of log  {query}"


def sampler() -> str | None:
    """Find py-spy, which looks at a process from outside (pip install py-spy)."""
    return shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))


def options_of_member(folder: Path) -> list[str]:
    """Say how Python is to run a member: with its own profiler, where there is no better one."""
    if sampler() is not None:
        return []
    return ["-m", "cProfile", "-o", str(folder / "member.cprofile")]


@contextlib.asynccontextmanager
async def sampling(
    process: int, books: asyncpg.Connection, folder: Path | None
) -> AsyncIterator[None]:
    """Look at a member and at the statements while a block runs, if a folder says where to."""
    if folder is None:
        yield
        return
    stacks, program = folder / "member.stacks", sampler()
    await books.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA public")
    await books.execute("SELECT public.pg_stat_statements_reset()")
    looking = None
    if program is not None:
        looking = await asyncio.create_subprocess_exec(
            program, "record", "--pid", str(process), "--rate", str(SAMPLES_A_SECOND),
            "--format", "raw", "--output", str(stacks), "--duration", "3600",
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    try:
        yield
    finally:
        if looking is not None:
            looking.send_signal(signal.SIGINT)
            await looking.wait()
            (folder / "member.txt").write_text(digest_of(stacks.read_text()))
        rows = await books.fetch(_STATEMENTS)
        lines = [_LINE.format(**row, kibibytes=row["wal_bytes"] // 1024) for row in rows]
        (folder / "statements.txt").write_text("\n".join(lines) + "\n")


def digest_of(stacks: str) -> str:
    """Sum samples up by function: in itself, and with what it calls."""
    alone, within = Counter[str](), Counter[str]()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        names = [frame.strip() for frame in frames.split(";")]
        alone[names[-1]] += int(count)
        within.update(dict.fromkeys(names, int(count)))
    total = max(1, alone.total())
    parts = []
    for title, found in (("in itself", alone), ("with what it calls", within)):
        parts.append(f"share of samples, {title}")
        parts += [f"{100 * n / total:6.1f} %  {name}" for name, n in found.most_common(LINES_MAX)]
    return "\n".join(parts) + "\n"
