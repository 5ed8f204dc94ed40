"""Prove the books: hold what is booked against the records of events and commands, counted again.

What it cannot know: whether Kafka held other records than those that were read (holes and
duplicates leave no record), who sent a record (of an identity only its digest is kept) and the
wording of what was refused, rejected or parked; the seat, price and destination of a message beyond
what was counted; thresholds that were crossed and undone; by whom and when a row was written; and
whether the allowances of plans were others when a cycle closed, as the catalog keeps no dates for
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from metering.periods import ONE_DAY
from metering.proof import Proof
from metering.storage import evidence_store
from metering.storage.database import driver_of, transaction
from metering.storage.tables import verification

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from metering.catalog import Catalog

# Where so much is wrong, more sentences help nobody.
DIFFERENCES_MAX = 100

# Channels that are counted again at a time, so that memory stays bounded however many there are.
CHANNELS_MAX = 200


@dataclass(slots=True)
class Report:
    """What a proof came to."""

    is_ok: bool = True
    checked: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    from_on: date | None = None  # The first day that was counted again; None if there is none.


async def verify(
    engine: AsyncEngine,
    catalog: Catalog,
    *,
    full: bool = False,
    keep: bool = True,
    progress: Callable[[int], Any] | None = None,
) -> Report:
    """Prove the open days and what closed cycles say of themselves; in full, all that is kept."""
    report, more = Report(), 0
    async with engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="REPEATABLE READ")
        async with connection.begin():
            driver = await driver_of(connection)
            await driver.execute(_PATIENCE)
            report.checked = await evidence_store.count(driver)
            async for sentence in _differences(driver, catalog, report, full, progress):
                if len(report.differences) < DIFFERENCES_MAX:
                    report.differences.append(sentence)
                else:
                    more += 1
    report.is_ok = not report.differences
    if more:
        report.differences.append(f"and {more} more")
    if keep:
        async with transaction(engine) as connection:
            await connection.execute(
                sa.insert(verification).values(
                    is_ok=report.is_ok,
                    is_full=full,
                    checked=report.checked,
                    differences=report.differences,
                )
            )
    return report


# Proving takes as long as it takes, and counting goes on between two statements.
_PATIENCE = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"


async def _differences(
    driver: Any, catalog: Catalog, report: Report, full: bool, progress: Callable[[int], Any] | None
) -> AsyncIterator[str]:
    kept_from = await evidence_store.kept_from(driver)
    async for sentence in evidence_store.find_faults(
        driver, is_full=full, is_gone=kept_from is not None
    ):
        yield sentence
    horizon = timedelta(microseconds=catalog.rules.horizon) + 2 * ONE_DAY

    def start_of(row: Any) -> date:
        first_on: date = row["first_cycle_on"]
        is_kept = kept_from is None or first_on - kept_from > horizon
        return first_on if full and is_kept else row["open_from"]

    partly: list[date] = []
    after, done = "", 0
    while channels := await evidence_store.read(
        driver, after=after, channels_max=CHANNELS_MAX, start_of=start_of, reach=2 * horizon
    ):
        for evidence in channels:
            if evidence.start > evidence.row["first_cycle_on"]:
                partly.append(evidence.start)
            report.from_on = min(report.from_on or evidence.start, evidence.start)
            try:
                for sentence in Proof(evidence, catalog).differences():
                    yield f"{evidence.row['channel']}: {sentence}"
            except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
                yield f"{evidence.row['channel']}: its books make no sense: {error!r}"
        after, done = channels[-1].row["channel"], done + len(channels)
        if progress is not None:
            progress(done)
    report.from_on = max(partly, default=report.from_on)
