"""The servers that all faults of a run share, and the wires to them that can be cut."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer

from tests.faults.kafka import Broker
from tests.faults.postgres import Postgres
from tests.faults.proxy import Proxy


@dataclass
class Servers:
    """What all faults of a run share: a broker, a database server, and wires to them.

    All members but those of whom it is said otherwise use the first wire.
    """

    home: Path
    broker: Broker
    postgres: Postgres
    to_broker: list[Proxy]
    to_postgres: list[Proxy]


@contextlib.asynccontextmanager
async def servers(home):
    """Run the servers."""
    async with Proxy() as wire, Proxy() as other_wire, Proxy() as line, Proxy() as other_line:
        to_broker, to_postgres = [wire, other_wire], [line, other_line]
        broker = await asyncio.to_thread(Broker, home, wires=[wire.port, other_wire.port])
        postgres = Postgres(home)
        for proxy, port in zip(to_broker, broker.wire_ports, strict=True):
            proxy.target_port = port
        for proxy in to_postgres:
            proxy.target_port = postgres.port
        try:
            await asyncio.gather(broker.start(), _create_and_start(postgres))
            yield Servers(home, broker, postgres, to_broker, to_postgres)
        finally:
            await broker.stop()
            await postgres.stop()


async def _create_and_start(postgres):
    await postgres.create()
    await postgres.start()


@contextlib.asynccontextmanager
async def producing(address, **options):
    """Yield a producer that never writes twice nor out of order."""
    producer = AIOKafkaProducer(
        bootstrap_servers=address, enable_idempotence=True, max_request_size=4 << 20,
        linger_ms=5, request_timeout_ms=20_000, **options,
    )  # fmt: skip
    await producer.start()
    try:
        yield producer
    finally:
        await asyncio.wait_for(producer.stop(), 10)
