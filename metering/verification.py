"""Prove the books: hold what is booked against the records of events and commands, counted again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from metering.storage import evidence_store
from metering.storage.database import driver_of, transaction
from metering.storage.tables import verification

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from sqlalchemy.ext.asyncio import AsyncEngine

    from metering.catalog import Catalog

# Where so much is wrong, more sentences help nobody.
DIFFERENCES_MAX = 100


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
    report = Report()
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        async with connection.begin():
            driver = await driver_of(connection)
            report.checked = await evidence_store.count(driver)
            found = [
                sentence async for sentence in evidence_store.find_faults(driver, is_full=full, gone=False)
            ]
    report.differences = found[:DIFFERENCES_MAX]
    report.is_ok = not found
    if len(found) > DIFFERENCES_MAX:
        report.differences.append(f"and {len(found) - DIFFERENCES_MAX} more")
    if keep:
        async with transaction(engine) as connection:
            await connection.execute(
                sa.insert(verification).values(
                    is_ok=report.is_ok, is_full=full, checked=report.checked, differences=report.differences
                )
            )
    return report
