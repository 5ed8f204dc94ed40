"""The database goes away, is late, says nothing, refuses, is full, or is older than it was."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

from tests.faults.members import ROOT, command_line, environ_of
from tests.faults.programs import Missing, until

DISK_MEBIBYTES = 48


async def database_restarted(world):
    """Fast and immediate restarts in the middle of transactions."""
    await world.start()
    async with world.flowing():
        for how in (signal.SIGINT, signal.SIGQUIT):
            await asyncio.sleep(1 + world.draw.random())
            await world.postgres.stop(how)
            await asyncio.sleep(world.draw.random())
            await world.postgres.start()
    await world.recovered()
    world.hit("errors met", world.logged("database_unavailable") + _others(world))
    _nobody_ended(world)
    await world.judge()


def _others(world):
    return sum(
        world.logged(event)
        for event in ("nothing_settled", "outbox_not_sent", "partitions_not_loaded")
    )


def _nobody_ended(world):
    """Members go through this without ending: no storm of restarts."""
    fatal = [
        line for each in world.members for line in each.lines() if line.get("level") == "critical"
    ]
    assert not any(member.statuses for member in world.members), str(fatal)[:3000]


async def backends_killed(world, *, times=12):
    """Single sessions of the service are ended by the server, wherever they are."""
    await world.start()
    killed = 0
    async with world.flowing(), world.postgres.connection(world.name) as watcher:
        for _ in range(times):
            await asyncio.sleep(0.2 + world.draw.random() * 0.3)
            killed += await watcher.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'lotmeter'"
                " ORDER BY backend_xid IS NULL, random() LIMIT 1) one"
            )
    world.hit("sessions ended", killed)
    await world.recovered()
    world.hit("errors met", world.logged("database_unavailable") + _others(world))
    _nobody_ended(world)
    await world.judge()


async def commit_lost(world, *, times=6):
    """The reply to COMMIT, or COMMIT itself, gets lost: the outcome is read again, both ways."""
    await world.start()
    lost = dict(world.line.lost)
    async with world.flowing():
        for number in range(10 * times):
            # Chance decides who meets it: a COMMIT can also move a position without records.
            if number >= times and world.logged("database_unavailable") >= times:
                break
            for what in ("reply", "request"):
                world.line.lose_next.append(what)
                await until(lambda: not world.line.lose_next, 20, "a COMMIT was lost")
                await asyncio.sleep(world.draw.random() * 0.5)
    for what in ("reply", "request"):
        world.hit(f"{what} lost", world.line.lost[what] - lost[what])
    await world.recovered()
    unknown = world.logged("database_unavailable")
    assert unknown >= times, unknown
    world.hit("outcomes unknown", unknown)
    _nobody_ended(world)
    await world.judge()


async def database_black_hole(world, *, seconds=20):
    """Nothing comes back from the database for one member, and nobody says so."""
    await world.start(members=1)
    lonely = world.add_member(**world.apart)
    lonely.keep_running()
    await lonely.started()
    _, line = world.servers.to_postgres
    async with world.flowing():
        await asyncio.sleep(2)
        before = line.held
        line.black_hole()
        await asyncio.sleep(seconds)
        line.heal()
        since = time.monotonic()
        await asyncio.sleep(1)
    world.hit("pieces held", line.held - before)
    await world.recovered()
    world.report.recovery_seconds = time.monotonic() - since
    await world.judge()


async def database_slow(world):
    """Every answer is late: what waits is bounded, and nobody leaves the group."""
    members = await world.start()
    rebalances = sum([await member.metric("lotmeter_rebalances_total") for member in members])
    world.line.delay_seconds = 0.1
    async with world.flowing(per_second=800):
        await asyncio.sleep(12)
    world.line.heal()
    await world.recovered()
    slow = [await member.metric("lotmeter_batch_seconds_sum") for member in members]
    world.hit("seconds in batches", sum(slow))
    again = sum([await member.metric("lotmeter_rebalances_total") for member in members])
    assert again == rebalances, (rebalances, again)
    _nobody_ended(world)
    await world.judge()


async def locks_held(world):
    """Somebody else holds the rows of every channel for longer than we wait for a lock."""
    members = await world.start()
    async with world.flowing(), world.books() as holder:
        await asyncio.sleep(1)
        async with holder.transaction():
            await holder.fetch("SELECT channel FROM channel ORDER BY channel FOR UPDATE")

            async def given_up():
                found = [
                    await member.metric("lotmeter_database_retries_total", reason="lock")
                    for member in members
                ]
                return sum(found)

            await until(given_up, 40, "somebody gives up waiting", every=0.5)
            world.hit("waits given up", await given_up())
    await world.recovered()
    _nobody_ended(world)
    await world.judge()


async def database_read_only(world):
    """A replica took over that may not be written yet: the same connections are no use after."""
    members = await world.start()
    alter = f"ALTER DATABASE {world.name} "
    async with world.flowing():
        await asyncio.sleep(1)
        await world.postgres.tell(alter + "SET default_transaction_read_only = on")
        await world.postgres.tell(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname = '{world.name}' AND application_name = 'lotmeter'"
        )
        await asyncio.sleep(5)
        refused = [
            await member.metric("lotmeter_database_retries_total", reason="read_only")
            for member in members
        ]
        # New sessions may write again; those that are open still may not.
        await world.postgres.tell(alter + "RESET default_transaction_read_only")
    world.hit("refused as read-only", sum(refused))
    await world.recovered(60)
    _nobody_ended(world)
    await world.judge()


@contextlib.asynccontextmanager
async def small_disk(servers):
    """Yield the name of a tablespace on a disk that can be filled, and its folder."""
    folder = servers.home / "small-disk"
    folder.mkdir(exist_ok=True)
    if os.geteuid() != 0:
        raise Missing("a disk can only be made full by root")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEBIBYTES}m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        space = folder / "space"
        space.mkdir()
        os.chown(space, servers.postgres._user.pw_uid, servers.postgres._user.pw_gid)
        await servers.postgres.tell(f"CREATE TABLESPACE small LOCATION '{space}'")
        yield folder
    finally:
        with contextlib.suppress(Exception):
            await servers.postgres.tell("DROP TABLESPACE small")
        subprocess.run(["umount", "-l", str(folder)], check=False)


async def disk_full(world):
    """No room for tables: nothing is set aside for it, and all goes on when there is room."""
    async with small_disk(world.servers) as folder:
        members = await world.start()
        await world.send(world.traffic.usage(200))
        await world.recovered()
        await asyncio.gather(*(member.stop() for member in members))
        await world.postgres.tell(f"ALTER DATABASE {world.name} SET TABLESPACE small")
        filler = folder / "filler"
        for member in members:
            member.keep_running()
        async with world.flowing(per_second=400):
            with filler.open("wb") as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()

            async def is_met():
                found = [
                    await member.metric("lotmeter_database_retries_total", reason="resources")
                    for member in members
                ]
                return sum(found)

            await until(is_met, 40, "the disk is full", every=0.5)
            await asyncio.sleep(3)
            world.hit("refused for want of room", await is_met())
            filler.unlink()
        await world.recovered()
        unprocessable = "SELECT count(*) FROM reject WHERE reason = 'unprocessable'"
        assert not await world.ask(unprocessable)
        _nobody_ended(world)
        await world.judge()
        await asyncio.gather(*(member.stop() for member in members))
        await world.postgres.tell(f"ALTER DATABASE {world.name} SET TABLESPACE pg_default")


async def database_restored(world):
    """The database is set back to an older state: what it lost is read again."""
    members = await world.start()
    async with world.flowing(per_second=300):
        await asyncio.sleep(2)
    await _everybody_out(world)
    await world.postgres.tell(f"CREATE DATABASE {world.name}_old TEMPLATE {world.name}")
    at_first = await world.ask("SELECT sum(next_offset) FROM position")
    for member in members:
        member.keep_running()
    async with world.flowing(per_second=300, registering=True):
        await asyncio.sleep(4)
    await world.caught_up()
    await _everybody_out(world)
    lost = await world.ask("SELECT sum(next_offset) FROM position") - at_first
    await world.postgres.tell(f"DROP DATABASE {world.name} WITH (FORCE)")
    await world.postgres.tell(f"ALTER DATABASE {world.name}_old RENAME TO {world.name}")
    world.hit("offsets set back", lost)
    for member in members:
        member.keep_running()
    async with world.flowing(per_second=300):
        await asyncio.sleep(1)
    await world.recovered()
    await world.judge(was_restored=True)


async def _everybody_out(world):
    await asyncio.gather(*(member.die() for member in world.members))
    gone = f"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = '{world.name}')"
    await until(lambda: world.postgres.ask(gone), 20, "all sessions are gone")


async def killed_in_a_migration(world, *, times=6):
    """`lotmeter migrate` is killed, again and again: the next one finds no half."""
    settings = {**world.settings, "DATABASE_SCHEMA": "other"}
    killed = 0
    for number in range(times):
        # The last moments are those in which tables are made.
        task = asyncio.create_task(_killed_after(settings, 0.5 + number * 0.15))
        killed += await task
    status, _, err = await command_line(settings, "migrate")
    assert status == 0, err
    world.hit("migrations killed", killed)
    world.report.kills += killed
    tables = (
        "SELECT count(*) FROM information_schema.tables"
        " WHERE table_schema = '{}' AND table_type = 'BASE TABLE'"
    )
    assert await world.ask(tables.format("other")) == await world.ask(tables.format("lotmeter"))
    await world.start()
    async with world.flowing():
        await asyncio.sleep(1)
    await world.recovered()
    await world.judge()


async def migrated_while_running(world):
    """A newer version has brought the schema on: old members that run go on, and start no more."""
    members = await world.start()
    revision = await world.ask("SELECT version_num FROM alembic_version")
    async with world.flowing():
        async with world.books() as books:
            # What a migration may do under old members: add what they do not know.
            await books.execute(
                "ALTER TABLE event ADD COLUMN of_tomorrow integer;"
                " CREATE TABLE tomorrow (id integer);"
                " ALTER TABLE entry ADD COLUMN of_tomorrow text;"
                " UPDATE alembic_version SET version_num = 'tomorrow'"
            )
        await asyncio.sleep(2)
        # Sessions that were opened before, and such as are opened now.
        world.line.reset()
        await asyncio.sleep(3)
    await world.recovered()
    _nobody_ended(world)
    status, _, err = await command_line(world.settings, "run")
    assert status == 1, err
    assert "run lotmeter migrate" in err
    world.hit("refused to start on another schema", status)
    async with world.books() as books:
        await books.execute(
            "ALTER TABLE event DROP COLUMN of_tomorrow; DROP TABLE tomorrow;"
            " ALTER TABLE entry DROP COLUMN of_tomorrow;"
            f" UPDATE alembic_version SET version_num = '{revision}'"
        )
    await members[0].kill()
    await members[0].started()
    await world.judge()


async def _killed_after(settings, seconds):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer", "migrate", cwd=ROOT, env=environ_of(settings),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), seconds)
        return 0
    process.kill()
    await process.wait()
    return 1
