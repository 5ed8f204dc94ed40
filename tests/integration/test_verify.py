"""Whoever changes, deletes or adds a row of the books is found out, and the place is named."""

from pathlib import Path

import asyncpg
import pytest

from consumer import simulate
from consumer.envelopes import instant_from
from consumer.readers import decoder_for
from metering.catalog import shipped_catalog
from metering.meter import Meter
from metering.storage import schema
from metering.storage.database import create_engine
from metering.verification import verify

SCENARIOS = Path(__file__).parents[1] / "scenarios"

# What is changed in each table, consistently with its types and constraints.
CHANGES = {
    "position": "start_offset = start_offset - 1",
    "batch": "applied = applied - 1, rejected = rejected + 1",
    "channel": "registered_on = registered_on + 1",
    "event": "quantity = quantity + 1000",
    "command": "kind = 'Refund'",
    "setting": "on_day = on_day + 1",
    "lot": "price = coalesce(price, 0) + 1",
    "lot_window": "quota = quota + 1000",
    "reservation": "made_on = made_on + 1",
    "tally": "quantity = quantity + 1000",
    "reading": "last_level = last_level + 1",
    "level": "level = level + 1",
    "fill": "quantity = quantity + 1000",
    "entry": "quantity = quantity + 1000",
    "notice": "on_day = on_day + 40",
    "cycle": "document = replace(document, '0', '1')",
    "reject": "reason = 'nonsense'",
}
# The sums of a day stand in one row: they are taken out, changed, and put back.
PUT_BACK = {
    "tally": "tallies, tallied) = (SELECT coalesce(json_agg(json_build_array(product, kind))::text,"
    " '[]'), coalesce(json_agg(json_build_array(quantity, messages))::text, '[]')",
    "fill": "fills, filled) = (SELECT coalesce(json_agg(json_build_array(product, source, lot,"
    " window_number, quota_number))::text, '[]'), coalesce(json_agg(quantity)::text, '[]')",
}


def on_rows_of(table, statements):
    """Make statements about rows of a table of statements about them; `:table` is its name."""
    if table not in PUT_BACK:
        return [statement.replace(":table", table) for statement in statements]
    return [
        f"CREATE TEMP TABLE taken_out AS SELECT * FROM {table}",
        *(statement.replace(":table", "taken_out") for statement in statements),
        (
            "INSERT INTO daybook SELECT DISTINCT channel, on_day, '[]', '[]', '[]', '[]'"
            " FROM taken_out ON CONFLICT DO NOTHING"
        ),
        (
            f"UPDATE daybook AS d SET ({PUT_BACK[table]} FROM taken_out AS t"
            " WHERE t.channel = d.channel AND t.on_day = d.on_day)"
        ),
        "DROP TABLE taken_out",
    ]


# What makes a copy of a row another one.
COPIES = {
    "position": "topic = topic || '2', number = number + 1000",
    "batch": "from_offset = from_offset + 100000, to_offset = to_offset + 100000",
    "channel": "channel = channel || '2'",
    "event": "digest = decode(md5('x'), 'hex'), read_at_offset = read_at_offset",
    "command": "digest = decode(md5('x'), 'hex')",
    "setting": "sequence = sequence + 1000",
    "lot": "lot = lot || '-2'",
    "lot_window": "lot = lot || '-2'",
    "reservation": "lot = lot || '-2'",
    "tally": "on_day = on_day + 1",
    "reading": "person = decode(md5('x'), 'hex')",
    "level": "person = decode(md5('x'), 'hex')",
    "fill": "source = 'carried', lot = 'none'",
    "entry": "number = number + 100000",
    "notice": "number = number + 100000",
    "cycle": "starts_on = starts_on - 1",
    "reject": "read_at_offset = read_at_offset + 100000",
}


async def feed(name, url):
    """Feed a scenario into a schema of the name, and leave it there."""
    lines = simulate.read_scenario(SCENARIOS / f"{name}.ndjson")
    end = instant_from((SCENARIOS / f"{name}.as-of").read_text().strip())
    engine = create_engine(url, schema="lotmeter", connections=2)
    await schema.migrate(engine, "lotmeter")
    read = decoder_for(shipped_catalog(), commands_topic=simulate.COMMANDS)
    meter = Meter(engine, shipped_catalog(), read, group=simulate.GROUP)
    await simulate._feed(meter, read, lines, simulate._clocks(lines), end)
    return engine


@pytest.mark.parametrize("name", ["books-medium-everything-1", "lots-medium-everything-1"])
async def test_sound_books_prove_and_tampered_ones_do_not(fresh_database_url, name):
    engine = await feed(name, fresh_database_url)
    administrator = await asyncpg.connect(
        fresh_database_url, server_settings={"search_path": "lotmeter"}
    )

    async def differences():
        report = await verify(engine, shipped_catalog(), full=True, keep=False)
        return report.differences

    async def tampered(statements):
        """Do something behind the back of the books, look, and undo it."""
        before = {}
        await administrator.execute("SET session_replication_role = replica")
        for table in [*CHANGES.keys() - PUT_BACK.keys(), "daybook"]:
            before[table] = await administrator.fetch(f"SELECT * FROM {table}")
        for statement in statements:
            await administrator.execute(statement)
        found = await differences()
        for table, rows in before.items():
            await administrator.execute(f"DELETE FROM {table}")
            if rows:
                await administrator.copy_records_to_table(
                    table, records=[tuple(row) for row in rows]
                )
        return found

    assert await differences() == []
    unseen = []
    for table, change in CHANGES.items():
        if not await administrator.fetchval(f"SELECT count(*) FROM {table}"):
            continue
        # The last one, as the default proof looks at the open days.
        newest = f"(SELECT ctid FROM :table ORDER BY {ORDERS.get(table, 'ctid')} DESC LIMIT 1)"
        copy = f"CREATE TEMP TABLE one AS SELECT * FROM :table WHERE ctid = {newest}"
        if table == "event":
            newest = "FROM event WHERE state = 0 AND product > 0 ORDER BY at DESC LIMIT 1"
            where = f"(tableoid, ctid) = (SELECT tableoid, ctid {newest})"
            copy = f"CREATE TEMP TABLE one AS SELECT * FROM event WHERE {where}"
        elif table == "command":
            # Of a refused command only the refusal is known.
            granted = "FROM command WHERE answer IS NULL AND kind = 'Purchase' LIMIT 1"
            where = f"ctid = (SELECT ctid {granted})"
            copy = f"CREATE TEMP TABLE one AS SELECT * FROM command WHERE {where}"
        else:
            where = f"ctid = {newest}"
        for what, statements in {
            "change": [f"UPDATE :table SET {change} WHERE {where}"],
            "delete": [f"DELETE FROM :table WHERE {where}"],
            "add": [
                copy,
                f"UPDATE one SET {COPIES[table]}",
                "INSERT INTO :table OVERRIDING SYSTEM VALUE SELECT * FROM one",
                "DROP TABLE one",
            ],
        }.items():
            if not await tampered(on_rows_of(table, statements)):
                unseen.append(f"{what} {table}")
    assert await differences() == []
    await administrator.close()
    await engine.dispose()

    assert unseen == []


# Which row of a table is the newest.
ORDERS = {
    "tally": "on_day",
    "reading": "on_day",
    "fill": "on_day",
    "entry": "number",
    "notice": "number",
    "cycle": "starts_on",
    "setting": "sequence",
    "lot": "starts_on",
    "lot_window": "starts_on",
}


async def test_a_tally_its_fill_window_and_entry_changed_together_are_found(fresh_database_url):
    engine = await feed("books-medium-lots", fresh_database_url)
    administrator = await asyncpg.connect(
        fresh_database_url, server_settings={"search_path": "lotmeter"}
    )
    await administrator.execute("SET session_replication_role = replica")
    row = await administrator.fetchrow(
        "SELECT f.* FROM fill f JOIN tally t USING (channel, product, on_day)"
        " JOIN lot_window w ON (w.channel, w.lot, w.number) = (f.channel, f.lot, f.window_number)"
        " WHERE f.source = 'own' AND f.quantity >= 2000 LIMIT 1"
    )
    where = "channel = $1 AND product = $2 AND on_day = $3"
    fill = [row["channel"], row["product"], row["on_day"], row["lot"], row["window_number"]]
    less = "UPDATE :table SET quantity = quantity - 1000"
    for statement in on_rows_of("tally", [f"{less} WHERE {where}"]):
        await administrator.execute(statement, *(fill[:3] if "$3" in statement else ()))
    of_lot = "source = 'own' AND lot = $4 AND window_number = $5 AND quantity >= 2000"
    for table in ("fill", "entry"):
        for statement in on_rows_of(table, [f"{less} WHERE {where} AND {of_lot}"]):
            await administrator.execute(statement, *(fill if "$5" in statement else ()))
    await administrator.execute(
        "UPDATE lot_window SET own = own - 1000, taken = taken - 1000"
        " WHERE channel = $1 AND lot = $2 AND number = $3",
        row["channel"], row["lot"], row["window_number"],
    )  # fmt: skip

    report = await verify(engine, shipped_catalog(), full=True, keep=False)
    await administrator.close()
    await engine.dispose()

    assert any(
        row["channel"] in sentence and row["product"] in sentence for sentence in report.differences
    )


@pytest.mark.parametrize("numbers", ["tallied", "filled"])
async def test_sums_of_a_day_that_do_not_pair_up_are_found(fresh_database_url, numbers):
    engine = await feed("books-medium-lots", fresh_database_url)
    administrator = await asyncpg.connect(
        fresh_database_url, server_settings={"search_path": "lotmeter"}
    )
    await administrator.execute(
        "INSERT INTO daybook"
        " SELECT channel, '1999-01-01', '[]', '[]', '[]', '[]' FROM channel LIMIT 1"
    )
    await administrator.execute(f"UPDATE daybook SET {numbers} = '[7]' WHERE on_day = '1999-01-01'")
    report = await verify(engine, shipped_catalog(), full=False, keep=False)
    await administrator.close()
    await engine.dispose()

    assert any("do not pair up" in sentence for sentence in report.differences)
