"""Apache Kafka, started as the fault tests start it, but with memory and compiler for speed."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.kafka import Broker
from tests.faults.programs import Missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JAVA = ("java", "-Xms512m", "-Xmx1g", "-XX:+UseG1GC")


class _Broker(Broker):
    def _java(self, *arguments: Any) -> list[Any]:
        return [*JAVA, "-cp", f"{self.libs}/*", *arguments]


@contextlib.asynccontextmanager
async def apache_kafka() -> AsyncIterator[tuple[str, list[int]]]:
    """Yield the address of a fresh broker, and its process."""
    with tempfile.TemporaryDirectory(prefix="lotmeter-") as home:
        try:
            broker = _Broker(Path(home))
        except Missing as missing:
            raise RuntimeError(str(missing)) from missing
        await broker.start()
        try:
            yield broker.address, [broker._program.process.pid]
        finally:
            await broker.stop()
