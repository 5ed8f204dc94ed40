"""What the gauges and the views say is what the books say."""

import asyncio
import random
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from consumer import gauges, metrics, simulate
from consumer.envelopes import instant_from
from consumer.gauges import ENDING_DAYS, Gauges
from consumer.readers import decoder_for
from consumer.wall_clock import now_instant
from metering.catalog import PLANS, PRODUCTS, shipped_catalog
from metering.meter import Meter
from metering.periods import billing_date_after, billing_date_up_to
from metering.statements import SOURCES
from metering.storage import account_store, book_store, observation_store, schema
from metering.storage.database import create_engine, driver_of, transaction
from metering.storage.observation_store import PlanLimit
from metering.verification import verify

SCENARIOS = Path(__file__).parents[1] / "scenarios"
HOSTILE = ['a"b', "a\\b", "a\nb", "{x='y'}", "채널-1", "🦣" * 255, "a,b", " ", "\u202e", "x" * 255]


@pytest.fixture
async def engine(fresh_database_url):
    engine = create_engine(fresh_database_url, connections=4)
    await schema.migrate(engine, "lotmeter")
    yield engine
    await engine.dispose()


async def feed(engine, scenario):
    read = decoder_for(shipped_catalog(), commands_topic=simulate.COMMANDS)
    meter = Meter(engine, shipped_catalog(), read, group=simulate.GROUP)
    lines = simulate.read_scenario((SCENARIOS / scenario).with_suffix(".ndjson"))
    end = instant_from((SCENARIOS / scenario).with_suffix(".as-of").read_text().strip())
    await simulate._feed(meter, read, lines, simulate._clocks(lines), end)
    return end


def plan_limits():
    catalog = shipped_catalog()
    allowances = {
        (plan, name): catalog.allowance(plan, name) for plan in PLANS for name in PRODUCTS
    }
    return [
        PlanLimit(*key, allowance.limit)
        for key, allowance in allowances.items()
        if allowance.limit is not None
    ]


def standing_of(account, document, product, today):
    """Say how a channel stands by its account and its statement, as the gauges should."""
    lots = [lot for lot in account.lots_of(product) if lot.is_valid(today)]
    windows = [lot.windows[lot.window_of(today)] for lot in lots if lot.product.is_metered]
    drawn = sum(window.own + window.carried + window.borrowed for window in windows)
    quota, bought = (sum(getattr(lot, each) for lot in lots) for each in ("quota", "bought"))
    limit = account.limit_on(shipped_catalog(), product, today)
    usage = 0
    for cycle in document["cycles"]:
        if cycle["starts_on"] <= today.isoformat() <= cycle["ends_on"]:
            usage = float(cycle["products"].get(product, {}).get("usage", 0)) * 1000
    ending = [
        lot.ends_on
        for lot in lots
        if (lot.ends_on - today).days < ENDING_DAYS
        and not account.value_on("renew", today, lot.lot)
    ]
    return (
        drawn / quota if windows and product != "pu" else None,
        1 - sum(lot.pool for lot in lots) / bought if windows else None,
        None if limit is None else usage / limit if limit else float(usage > 0),
        len(ending),
        min(ending, default=None),
    )


@pytest.mark.parametrize(
    "scenario",
    [
        "books-medium-everything-1",
        "books-medium-lots",
        "lots-medium-everything-1",
        "lots-small-limits",
    ],
)
async def test_channels_stand_as_their_accounts_say(engine, scenario):
    end = await feed(engine, scenario)
    async with transaction(engine) as connection:
        zones = dict(await observation_store.channels_after(connection, "", channels_max=10_000))
        accounts = await account_store.load(await driver_of(connection), zones)
        days = {name: accounts[name].day_of(end) for name in zones}
        found = await observation_store.standings(
            connection, list(days.items()), plan_limits(), ending_days=ENDING_DAYS
        )
    documents = await book_store.read_all(engine, shipped_catalog(), clock=end)

    expected = {
        (name, product): standing
        for name, account in accounts.items()
        for product in PRODUCTS
        if (standing := standing_of(account, documents[name], product, days[name]))
        != (None, None, None, 0, None)
    }
    told = {
        (each.channel, each.product): each[2:]
        for each in found
        if each[2:] != (None, None, None, 0, None)
    }
    assert told.keys() == expected.keys()
    for key, standing in expected.items():
        assert told[key] == pytest.approx(standing), key
    assert len(expected) > 2


@pytest.mark.parametrize(
    "scenario", ["books-medium-everything-1", "books-medium-lots", "lots-medium-everything-1"]
)
async def test_the_views_say_what_statement_and_lots_say(engine, scenario):
    end = await feed(engine, scenario)
    documents = await book_store.read_all(engine, shipped_catalog(), clock=end)
    async with transaction(engine) as connection:
        views = {
            view: (await connection.execute(text(f"SELECT * FROM {view}"))).mappings().all()
            for view in ("channel_cycle_usage", "channel_lot", "channel_lot_month")
        }

    usage = {
        (name, cycle["starts_on"], cycle["ends_on"], cycle["closed"], product): [
            float(sums[column]) for column in ("usage", *SOURCES)
        ]
        for name, document in documents.items()
        for cycle in document["cycles"]
        for product, sums in cycle["products"].items()
        if sums["usage"] != "0"
    }
    assert {
        (
            row["channel"], row["starts_on"].isoformat(), row["ends_on"].isoformat(),
            row["is_closed"], row["product"],
        ): [float(row[column]) for column in ("usage", *SOURCES)]
        for row in views["channel_cycle_usage"]
        if row["usage"]
    } == usage  # fmt: skip
    assert {key[3] for key in usage} == {True, False}
    lots = {
        (name, lot["lot"]): (
            lot["product"], float(lot["quantity"]), lot["starts_on"], lot["ends_on"], lot["state"],
            lot["renew"], float(lot["pool"]),
        )
        for name, document in documents.items()
        for lot in document["lots"]
    }  # fmt: skip
    assert {
        (row["channel"], row["lot"]): (
            row["product"], float(row["quantity"]), row["starts_on"].isoformat(),
            row["ends_on"].isoformat(), row["state"], row["renew"], float(row["pool"]),
        )
        for row in views["channel_lot"]
    } == lots  # fmt: skip
    columns = ("own", "carried", "borrowed", "minimum", "lent")
    months = {
        (name, lot["lot"], window["starts_on"]): [float(window[column]) for column in columns]
        for name, document in documents.items()
        for lot in document["lots"]
        for window in lot["windows"]
    }
    told = {
        (row["channel"], row["lot"], row["starts_on"].isoformat()): row
        for row in views["channel_lot_month"]
    }
    assert months
    for key, quantities in months.items():
        assert [float(told[key][column]) for column in columns] == quantities, key
        row = told[key]
        following = told.get((*key[:2], (row["ends_on"] + timedelta(days=1)).isoformat()))
        assert row["number"] == 11 or following["number"] == row["number"] + 1


async def test_billing_dates_are_the_same_in_sql(engine):
    draw = random.Random(1)
    pairs = [
        (date(2023, 1, 1) + timedelta(days=draw.randrange(1_500)), draw.choice([*range(1, 28), 31]))
        for _ in range(2_000)
    ]
    async with transaction(engine) as connection:
        rows = await (await driver_of(connection)).fetch(
            "SELECT billing_date_up_to(day, billing_day), billing_date_after(day, billing_day)"
            " FROM unnest($1::date[], $2::int[]) WITH ORDINALITY AS pair (day, billing_day, number)"
            " ORDER BY number",
            *zip(*pairs, strict=True),
        )

    assert [tuple(row) for row in rows] == [
        (billing_date_up_to(*pair), billing_date_after(*pair)) for pair in pairs
    ]


PUT_CHANNELS = """
INSERT INTO channel (channel, time_zone, registered_on, first_cycle_on, open_from, settled_on)
SELECT name, 'Asia/Seoul', $2::date, $2, $2, $2 FROM unnest($1::text[]) AS name
"""
PUT_LOTS = """
INSERT INTO lot SELECT name, 'l-1', 'workflow', 1000, $2::date, $2::date + 364, NULL, NULL,
    false, true, false, 0, 0 FROM unnest($1::text[]) AS name
"""
PUT_WINDOWS = """
INSERT INTO lot_window SELECT name, 'l-1', number, $2::date + 31 * number, 1000, 2000,
    CASE number WHEN 0 THEN $3::bigint ELSE 0 END, 0, 0, 0, 0, 0
FROM unnest($1::text[]) AS name, generate_series(0, 11) AS number
"""


async def put_channels(engine, names, *, drawn):
    """Register channels, each with a lot of which the running window gave something."""
    started_on = datetime.now(UTC).date() - timedelta(days=2)
    async with transaction(engine) as connection:
        driver = await driver_of(connection)
        await driver.execute(PUT_CHANNELS, names, started_on)
        await driver.execute(PUT_LOTS, names, started_on)
        await driver.execute(PUT_WINDOWS, names, started_on, drawn)


def settings(**changes):
    return SimpleNamespace(
        **{"group": "g", "gauge_seconds": 15, "usage_ratio_channels_max": 20} | changes
    )


async def look_around(engine, **changes):
    """Look at all channels once, and then at what was seen."""
    looker = Gauges(engine, shipped_catalog(), settings=settings(**changes), observer="one")
    await looker.look()
    while looker._tour is not None:
        await looker._go_on(looker._tour)
    await looker.look()


def sample(name, **labels):
    return REGISTRY.get_sample_value(name, labels)


async def test_channels_are_shown_by_their_own_names_whatever_these_are(engine):
    await put_channels(engine, HOSTILE, drawn=1_000)
    await put_channels(engine, ["harmless"], drawn=10)

    await look_around(engine)

    for name in HOSTILE:
        labels = {"channel": name, "product": "workflow"}
        assert sample("lotmeter_channel_usage_ratio", what="quota", **labels) == 1
        assert sample("lotmeter_channel_usage_ratio", what="maximum", **labels) == 0.5
    exhausted = {"product": "workflow", "what": "quota"}
    assert sample("lotmeter_channels_exhausted", **exhausted) == len(HOSTILE)
    assert sample("lotmeter_channels_exhausted", product="mu", what="limit") == 0


async def test_a_look_goes_on_slice_by_slice_to_the_last_channel(engine, monkeypatch):
    monkeypatch.setattr(gauges, "CHANNELS_MAX", 7)
    await put_channels(engine, [f"c-{number}" for number in range(50)], drawn=2_000)

    await look_around(engine, usage_ratio_channels_max=5)

    assert sample("lotmeter_channels_exhausted", product="workflow", what="maximum") == 50
    shown = [labels for labels in metrics.USAGE_RATIO._values if labels[2] == "maximum"]
    assert len(shown) == 5


async def test_one_member_looks_and_all_show_it(engine):
    await put_channels(engine, ["c-1"], drawn=1_500)
    one, other = (
        Gauges(engine, shipped_catalog(), settings=settings(), observer=name)
        for name in ("one", "other")
    )

    await one.look()
    await other.look()

    assert one._tour is not None
    assert other._tour is None
    while one._tour is not None:
        await one._go_on(one._tour)
    metrics.USAGE_RATIO.replace({})
    await other.look()
    assert other._tour is None
    labels = {"channel": "c-1", "product": "workflow", "what": "quota"}
    assert sample("lotmeter_channel_usage_ratio", **labels) == 1.5


async def test_a_member_that_died_looking_is_replaced(engine):
    one, other = (
        Gauges(engine, shipped_catalog(), settings=settings(gauge_seconds=1), observer=name)
        for name in ("one", "other")
    )
    await one.look()
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE observation SET busy_at = now() - interval '4 s'"))

    await other.look()

    assert other._tour is not None
    # The first one was only slow: it sees that it was replaced and writes nothing.
    await one._go_on(one._tour)
    assert one._tour is None
    async with transaction(engine) as connection:
        assert (await observation_store.read(connection))[0] is None


async def test_what_is_known_at_once_is_shown(engine):
    now = now_instant()
    async with transaction(engine) as connection:
        driver = await driver_of(connection)
        await driver.execute(
            "INSERT INTO position (consumer_group, topic, topic_partition, cluster_id,"
            " start_offset, next_offset, epoch, owner, read_up_to)"
            " SELECT 'g', 't', number, '', 0, 0, 1, '', 1000000 * (100 + number)"
            " FROM generate_series(1, 3) AS number"
        )
        await driver.execute(
            "INSERT INTO channel (channel, due_at) VALUES ('c', $1)", now - 90_000_000
        )
        await driver.execute(
            "INSERT INTO parked (channel, digest, at, position, read_at_offset, clock, topic,"
            " value, headers) VALUES ('c', 'd', $1, 1, 1, 1, 't', 'v', 'h')", now,
        )  # fmt: skip
    await verify(engine, shipped_catalog())

    await look_around(engine)

    assert sample("lotmeter_read_up_to_timestamp_seconds") == 101
    assert sample("lotmeter_parked") == 1
    assert 90 <= sample("lotmeter_due_overdue_seconds") < 150
    # The rows above are not what a meter writes, and the proof finds them out.
    assert sample("lotmeter_verified_ok", scope="quick") == 0
    assert sample("lotmeter_verified_timestamp_seconds", scope="quick") * 1e6 >= now - 1e6


@pytest.mark.parametrize("table", ["observation", "lot_window"])
async def test_gauges_that_cannot_look_go_on_trying(engine, monkeypatch, table):
    await put_channels(engine, ["c-1"], drawn=1_000)
    monkeypatch.setattr(gauges, "backoff_seconds", lambda _: 0.01)
    looker = Gauges(engine, shipped_catalog(), settings=settings(gauge_seconds=1), observer="one")
    async with transaction(engine) as connection:
        await connection.execute(text(f"ALTER TABLE {table} RENAME TO hidden"))
    before = sample("lotmeter_database_errors_total", reason="schema") or 0
    running = asyncio.create_task(looker.run())
    async with asyncio.timeout(20):
        while (sample("lotmeter_database_errors_total", reason="schema") or 0) < before + 2:
            await asyncio.sleep(0.01)
        async with transaction(engine) as connection:
            await connection.execute(text(f"ALTER TABLE hidden RENAME TO {table}"))
        seen_at = None
        while seen_at is None:
            async with transaction(engine) as connection:
                seen_at, _ = await observation_store.read(connection)

    looker.stop()

    async with asyncio.timeout(5):
        await running


async def test_a_look_leaves_the_database_to_others_nine_tenths_of_the_time(engine, monkeypatch):
    monkeypatch.setattr(gauges, "CHANNELS_MAX", 5)
    await put_channels(engine, [f"c-{number}" for number in range(50)], drawn=1_000)
    looker = Gauges(engine, shipped_catalog(), settings=settings(), observer="one")
    busy, rests, go_on = [], [], looker._go_on

    async def go_on_and_measure(tour):
        since = time.monotonic()
        await go_on(tour)
        busy.append(time.monotonic() - since)

    async def rest_not(seconds):
        rests.append(seconds)
        if looker._tour is None:
            looker.stop()

    monkeypatch.setattr(looker, "_go_on", go_on_and_measure)
    monkeypatch.setattr(looker, "_rest", rest_not)
    await looker.run()

    assert len(busy) > 10
    assert all(rest >= 9 * seconds for rest, seconds in zip(rests, busy, strict=True))


async def test_the_app_role_may_look_and_the_reader_may_read_the_views(engine, fresh_database_url):
    name = fresh_database_url.rpartition("_")[2]
    app, reader = f"app_{name}", f"reader_{name}"
    await schema.grant(engine, "lotmeter", app=app, reader=reader, create_roles=True)
    owner = await asyncpg.connect(fresh_database_url)
    try:
        for role in (app, reader):
            await owner.execute(f"ALTER ROLE {role} PASSWORD 'only-here'")
        place = fresh_database_url.rpartition("@")[2]
        await put_channels(engine, ["c-1"], drawn=1_000)
        as_app = create_engine(f"postgresql://{app}:only-here@{place}", connections=1)
        await look_around(as_app)
        await as_app.dispose()
        as_reader = create_engine(f"postgresql://{reader}:only-here@{place}", connections=1)
        async with transaction(as_reader) as connection:
            for view in ("cycle_usage", "daily_usage", "lot", "lot_month"):
                await connection.execute(text(f"SELECT * FROM channel_{view}"))
        await as_reader.dispose()
    finally:
        for role in (app, reader):
            await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await owner.close()

    assert sample("lotmeter_channels_exhausted", product="workflow", what="quota") == 1
