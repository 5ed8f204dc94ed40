"""The books held against what was sent, and proved: a rate of wrong books is worth nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import asyncpg

from consumer.settings import PREFIX, Settings
from metering.storage.database import create_engine
from metering.verification import verify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.benchmarks.workload import Manifest

_OUTCOMES = """
SELECT coalesce(sum(applied), 0)::bigint AS applied,
    coalesce(sum(duplicate), 0)::bigint AS duplicates,
    coalesce(sum(parked + b.rejected), 0)::bigint AS set_aside,
    (SELECT count(*) FROM lotmeter.event WHERE state = 2) AS voided
FROM lotmeter.batch b JOIN lotmeter.position p ON p.number = b.position WHERE topic <> $1
"""
_USAGE = """
SELECT channel, product, sum(quantity)::bigint AS quantity FROM lotmeter.fill
WHERE source IN ('included', 'own', 'carried', 'borrowed', 'postpaid')
GROUP BY channel, product HAVING sum(quantity) > 0
"""
_SOURCES = """
SELECT source, sum(quantity)::bigint / 1000 AS units FROM lotmeter.fill GROUP BY source ORDER BY 1
"""


class WrongBooks(Exception):
    """The books are not what was sent."""


async def check(url: str, environ: Mapping[str, str], manifest: Manifest) -> dict[str, int]:
    """Hold the books against all that was ever sent; returns the units by source. Raises
    WrongBooks.
    """
    connection = await asyncpg.connect(url)
    try:
        outcomes = dict(await connection.fetchrow(_OUTCOMES, environ[f"{PREFIX}COMMANDS_TOPIC"]))
        usage = await connection.fetch(_USAGE)
        sources = {row["source"]: row["units"] for row in await connection.fetch(_SOURCES)}
    finally:
        await connection.close()
    expected = {
        "applied": manifest.records - manifest.duplicates,
        "duplicates": manifest.duplicates,
        "set_aside": 0,
        "voided": manifest.voided,
    }
    if outcomes != expected:
        raise WrongBooks(f"sent {expected}, found {outcomes}")
    sent = manifest.totals()
    found = {(row["channel"], row["product"]): row["quantity"] for row in usage}
    if found != sent:
        wrong = sorted(key for key in sent.keys() | found if sent.get(key) != found.get(key))
        some = [(*key, sent.get(key), found.get(key)) for key in wrong[:3]]
        raise WrongBooks(f"{len(wrong)} totals are not what was sent, for example {some}")
    return sources


async def prove(url: str, environ: dict[str, str]) -> float:
    """Have the product prove its books; returns the seconds that took. Raises WrongBooks."""
    engine = create_engine(url, connections=2)
    began = time.monotonic()
    try:
        report = await verify(engine, Settings.from_environ(environ).read_catalog())
    finally:
        await engine.dispose()
    if not report.is_ok:
        raise WrongBooks("; ".join(report.differences[:5]))
    return time.monotonic() - began
