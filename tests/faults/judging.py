"""The judge himself is tried: books that are wrong by one row must not pass."""

from tests.faults.checker import Verdict, compare, work_out
from tests.faults.reading import read

ONE = "(tableoid, ctid) = (SELECT tableoid, ctid FROM {0} WHERE {1} ORDER BY ctid LIMIT 1)"
ONE_EVENT = ONE.format("event", "state = 0")

# What is done behind the back of the books, and which of the two it must be called.
LIES = {
    "an event is missing": (f"DELETE FROM event WHERE {ONE_EVENT}", "lost"),
    "an event stands twice": (
        "INSERT INTO event SELECT (jsonb_populate_record(event, jsonb_build_object('digest',"
        " '\\x00112233445566778899aabbccddeeff'))).* FROM event WHERE " + ONE_EVENT,
        "double",
    ),
    "a command is missing": (
        f"DELETE FROM command WHERE {ONE.format('command', 'true')}",
        "lost",
    ),
    "a unit is entered too much": (
        f"UPDATE entry SET quantity = quantity + 1 WHERE {ONE.format('entry', 'true')}",
        "",
    ),
    "an entry has another source": (
        (
            "UPDATE entry SET source = 'included' WHERE"
            f" {ONE.format('entry', 'source = $$postpaid$$')}"
        ),
        "",
    ),
    "a pool holds a unit less": (
        (
            "UPDATE lot_window SET taken = taken + 1 WHERE"
            f" {ONE.format('lot_window', 'taken < quota')}"
        ),
        "",
    ),
    "a window gave a unit more": (
        (
            "UPDATE lot_window SET own = own + 1, taken = taken + 1 WHERE"
            f" {ONE.format('lot_window', 'taken < quota AND own > 0')}"
        ),
        "",
    ),
    "a position is ahead": (
        f"UPDATE position SET next_offset = next_offset + 1 WHERE {ONE.format('position', 'true')}",
        "",
    ),
    "a batch is missing": (f"DELETE FROM batch WHERE {ONE.format('batch', 'true')}", ""),
    "a batch tells of one more": (
        f"UPDATE batch SET applied = applied - 1 WHERE {ONE.format('batch', 'applied > 0')}",
        "",
    ),
    "a reject has another reason": (
        (
            "UPDATE reject SET reason = 'conflict' WHERE"
            f" {ONE.format('reject', 'reason <> $$conflict$$')}"
        ),
        "",
    ),
    "a lot is missing": (f"DELETE FROM lot WHERE {ONE.format('lot', 'true')}", ""),
}


async def judge_is_judged(world):
    """Each lie is seen, in books that are right without it."""
    await world.start(members=1)
    await world.send(world.traffic.usage(500))
    # Five hundred by chance may be without a single one, and then nothing could be said of it.
    await world.send(world.traffic.defects())
    await world.recovered()
    await world.judge()
    await world.members[0].stop()
    records, last = await read(world.broker.address, world.topics)
    worked_out = work_out(records, world.told)
    for name, (lie, kind) in LIES.items():
        verdict = Verdict()
        async with world.books() as books:
            await books.execute("SET session_replication_role = replica")
            lying = books.transaction()
            await lying.start()
            status = await books.execute(lie)
            assert status.endswith(" 1"), f"{name}: {status}"
            await compare(books, verdict, records, last, *worked_out)
            await lying.rollback()
        assert verdict.differences, f"{name}, and the judge does not see it"
        assert not kind or getattr(verdict, kind), f"{name} is not called {kind}"
    world.hit("lies seen", len(LIES))
