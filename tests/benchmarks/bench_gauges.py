"""How long one look at many channels takes, and how long a scrape: python -m
tests.benchmarks.bench_gauges [CHANNELS].
"""

import asyncio
import statistics
import sys
import time
from types import SimpleNamespace

from prometheus_client import REGISTRY, generate_latest
from sqlalchemy import text

from consumer import metrics
from consumer.embedded import embedded_postgres
from consumer.gauges import Gauges
from metering.catalog import shipped_catalog
from metering.storage import observation_store, schema
from metering.storage.database import create_engine, driver_of, transaction

CHANNELS = 100_000
SCRAPES = 20

# Four products, two years of lots, a month of usage; a fifth of the channels is on a plan with
# limits, a tenth has limits of its own.
FILL = """
INSERT INTO channel
    (channel, time_zone, registered_on, first_cycle_on, open_from, settled_on, due_at, closes_at)
SELECT 'channel-' || n, 'Asia/Seoul', current_date - 700, current_date - 700,
    billing_date_up_to(current_date, 1 + n % 27), current_date, 4e15, 4e15
FROM generate_series(1, {channels}) AS n;
INSERT INTO setting SELECT channel, name, '', 0, -1, '0001-01-01', CASE name
    WHEN 'plan' THEN CASE hashtext(channel) % 5 WHEN 0 THEN '"early_stage"' ELSE '"growth"' END
    WHEN 'billing_day' THEN extract(day FROM open_from)::text ELSE 'null' END
FROM channel, unnest(ARRAY['plan', 'billing_day', 'trial_ends_on']) AS name;
INSERT INTO setting SELECT channel, 'limit', 'workflow', 1, 1, current_date - 99, '5000'
FROM channel WHERE hashtext(channel) % 10 = 1;
INSERT INTO lot SELECT channel, 'lot-' || number, product, 1000000, began_on,
    (began_on + interval '12 months')::date - 1, NULL, NULL, false, true, false, 0, 0
FROM channel, unnest(ARRAY['workflow', 'marketing', 'mu', 'pu', 'workflow'])
    WITH ORDINALITY AS bought (product, number),
    LATERAL (SELECT current_date - abs(hashtext(channel || product || number)) % 700 AS began_on);
INSERT INTO setting SELECT channel, 'renew', lot, 2, 2, starts_on, 'true' FROM lot;
INSERT INTO lot_window SELECT channel, lot, number,
    (starts_on + make_interval(months => number))::date, quota, 2 * quota,
    abs(hashtext(channel || lot || number)) % 1100000, 0, 0, 0, 0, 0
FROM lot, generate_series(0, CASE product WHEN 'pu' THEN 0 ELSE 11 END) AS number;
INSERT INTO daybook SELECT channel, current_date - day, '[]', '[]',
    '[["workflow","own","lot-1",0,0],["marketing","own","lot-2",0,0],["mu","own","lot-3",0,0],'
    '["pu","own","lot-4",0,0]]', '[100000,100000,100000,100000]'
FROM channel, generate_series(0, 29) AS day WHERE day % 2 = 0;
INSERT INTO parked (channel, digest, at, position, read_at_offset, clock, topic, value, headers)
SELECT 'channel-' || n, decode(md5(n::text), 'hex'), 4e15, 1, n, 1, 't', repeat('x', 300)::bytea, ''
FROM generate_series(1, 100000) AS n;
ANALYZE
"""


async def fill(engine, channels):
    for statement in FILL.format(channels=channels).split(";\n"):
        async with transaction(engine) as connection:
            await connection.execute(text("SET LOCAL statement_timeout = 0"))
            await (await driver_of(connection)).execute(statement, timeout=1_800)


async def look(engine):
    settings = SimpleNamespace(group="g", gauge_seconds=1, usage_ratio_channels_max=20)
    gauges = Gauges(engine, shipped_catalog(), settings=settings, observer="bench")
    looks, slices = [], []
    for _ in range(5):
        since = time.perf_counter()
        await gauges.look()
        looks.append(time.perf_counter() - since)
    while gauges._tour is not None:
        since = time.perf_counter()
        await gauges._go_on(gauges._tour)
        slices.append(time.perf_counter() - since)
    await gauges.look()
    return looks, slices


async def main(channels):
    metrics.prepare(["usage.mu", "usage.seat", "usage.workflow", "usage.message"])
    async with embedded_postgres() as url:
        engine = create_engine(url, connections=2)
        await schema.migrate(engine, "lotmeter")
        await fill(engine, channels)
        looks, slices = await look(engine)
        async with transaction(engine) as connection:
            _, document = await observation_store.read(connection)
        await engine.dispose()
    scrapes = []
    for _ in range(SCRAPES):
        since = time.perf_counter()
        page = generate_latest(REGISTRY)
        scrapes.append(time.perf_counter() - since)
    series = sum(not line.startswith(b"#") for line in page.splitlines())
    print(f"{channels:,} channels, {sum(row[2] for row in document['exhausted']):,} exhaustions")
    print(f"what is known at once: {1000 * statistics.median(looks):.1f} ms")
    print(
        f"all channels: {sum(slices):.1f} s of the database in {len(slices)} slices,"
        f" the slowest {1000 * max(slices):.0f} ms; paced, one look in {10 * sum(slices):.0f} s"
    )
    print(f"scrape: {1000 * statistics.median(scrapes):.1f} ms, {series:,} series")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else CHANNELS))
