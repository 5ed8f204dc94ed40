"""Members die: at each point of their work, at any moment, and when they are asked to."""

import asyncio
import itertools
import os
import signal
from datetime import timedelta

from tests.faults.failpoints import POINTS
from tests.faults.programs import until

DEATH_SECONDS_MAX = 120
BLOCK_SECONDS = 6

# Longer than any, so that with each step windows end.
MONTH_DAYS = 31


async def killed_at_each_point(world, *, times=1):
    """Kill -9 at each failpoint, so often, while usage flows and new channels come."""
    [member, other] = await world.start()
    plan = [point for _ in range(times) for point in POINTS if not point.startswith("clock")]
    world.draw.shuffle(plan)
    async with world.flowing(per_second=200, registering=True):
        await _die_along(world, [member, other], plan)
    for each in (member, other):
        await each.die()
        each.keep_running()
    await world.recovered()
    await world.judge()


async def _die_along(world, members, plan):
    """Let members die one after the other, each at the next point of a plan."""
    for member in members:
        await member.die()
    places = itertools.cycle(members)
    for point in plan:
        member = next(places)
        # Early points come often; some later moment of them is as good.
        count = world.draw.randrange(1, 4) if point not in _RARE else 1
        member.start(failpoint=f"{point}:kill:{count}")
        try:
            await member.program.ended(DEATH_SECONDS_MAX)
        except AssertionError:
            raise AssertionError(f"{point} was not reached: {world.last_words()}") from None
        assert member.program.status == -signal.SIGKILL, (point, member.program.words()[-500:])
        world.report.kills += 1
        world.report.failpoints[point] = world.report.failpoints.get(point, 0) + 1
    reached = world.logged("failpoint")
    assert reached == len(plan), (reached, len(plan))
    world.hit("failpoints reached", reached)


_RARE = ("before_seek", "before_claiming", "after_claiming", "relay_sent", "relay_taken")


async def killed_while_it_settles(world, *, times=1):
    """Kill -9 the one who lets windows end and lots renew, month after month."""
    members = await world.start(members=1, channels=40)
    await world.send(world.traffic.usage(400))
    await world.recovered()
    await members[0].die()
    plan = [point for _ in range(times) for point in POINTS if point.startswith("clock")]
    ahead = timedelta(0)
    for point in plan:
        ahead += timedelta(days=MONTH_DAYS)
        members[0].start(failpoint=f"{point}:kill:1", days_ahead=ahead.days)
        await members[0].program.ended(DEATH_SECONDS_MAX)
        world.report.kills += 1
        world.report.failpoints[point] = world.report.failpoints.get(point, 0) + 1
    world.hit("failpoints reached", world.logged("failpoint"))
    assert world.logged("failpoint") == len(plan)
    members[0].start(days_ahead=ahead.days)

    async def is_settled():
        return not await world.overdue(ahead=ahead)

    world.report.recovery_seconds = await until(is_settled, 60, "all is settled")
    minimums = await world.ask("SELECT count(*) FROM entry WHERE source = 'minimum'")
    world.hit("minimums booked by the clock", minimums)
    await world.recovered()
    await world.judge(ahead=ahead)


async def killed_at_random(world, *, kills=10):
    """Kill -9 at any moment, one member or all of them."""
    members = await world.start()
    async with world.flowing(per_second=250, registering=True):
        for _ in range(kills):
            await asyncio.sleep(world.draw.random() * 2.5)
            doomed = members if world.draw.randrange(4) == 0 else [world.draw.choice(members)]
            for member in doomed:
                if member.program.is_running:
                    await member.kill()
                    world.report.kills += 1
    world.hit("kills", sum(member.statuses[-signal.SIGKILL] for member in members) or 0)
    await world.recovered()
    await world.judge()


async def asked_to_stop_under_load(world, *, times=2):
    """SIGTERM under load: finished or rolled back, status 0, in time."""
    members = await world.start()
    async with world.flowing(per_second=600):
        for _ in range(times):
            member = world.draw.choice(members)
            await asyncio.sleep(1 + world.draw.random())
            await member.started()
            status = await member.stop()
            assert status == 0, (status, member.program.words()[-500:])
            member.keep_running()
    world.hit("stopped in order", world.logged("stopped"))
    await world.recovered()
    await world.judge()


async def asleep(world):
    """SIGSTOP past the session's end, then SIGCONT: the sleeper must not write any more."""
    members = await world.start()
    sleeper = world.draw.choice(members)
    async with world.flowing(per_second=300):
        await asyncio.sleep(1)
        sleeper.program.send(signal.SIGSTOP)
        # Longer than the session, and than the database keeps an idle transaction open.
        await asyncio.sleep(8)
        sleeper.program.send(signal.SIGCONT)
        await asyncio.sleep(2)
    await world.recovered()
    epochs = await world.ask("SELECT max(epoch) FROM position")
    world.hit("claims of another member", epochs - 1)
    await world.judge()


async def asleep_in_a_transaction(world):
    """SIGSTOP with a transaction open: its locks go, its commit is refused, another goes on."""
    [sleeper, _] = await world.start()
    await sleeper.die()
    sleeper.start(failpoint="before_commit:stop:3")
    async with world.flowing(per_second=300):
        await until(lambda: sleeper.count("failpoint"), 30, "the member sleeps")
        slept_at = await world.ask("SELECT now()")
        open_before = await _open_transactions(world, slept_at)
        # Until the database has ended the transaction of the sleeper, and others went on.

        async def is_ended():
            return not await _open_transactions(world, slept_at)

        await until(is_ended, 40, "its transaction is ended", every=0.5)
        sleeper.program.send(signal.SIGCONT)
        await asyncio.sleep(2)
    world.hit("transactions open in sleep", open_before)
    await world.recovered()
    world.hit(
        "refused to the sleeper", sleeper.count("fenced") + sleeper.count("database_unavailable")
    )
    await world.judge()


async def _open_transactions(world, begun_before):
    return await world.ask(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state = 'idle in transaction' AND backend_xid IS NOT NULL AND xact_start < $1",
        begun_before,
    )


async def blocked_loop(world):
    """The event loop stands still past the session's end, in the middle of a transaction."""
    [blocked, _] = await world.start()
    await blocked.die()
    blocked.start(failpoint=f"after_claim:block:3:{BLOCK_SECONDS}")
    async with world.flowing(per_second=300):
        await until(lambda: blocked.count("failpoint"), 30, "the loop is blocked")
        await asyncio.sleep(BLOCK_SECONDS + 2)
    world.hit("loops blocked", blocked.count("failpoint"))
    assert blocked.program.is_running
    await world.recovered()
    await world.judge()


async def blocked_for_good(world):
    """The event loop stands still for good: the watchdog ends the process with a status."""
    [blocked, _] = await world.start(LOOP_LAG_SECONDS_MAX=4)
    await blocked.die()
    blocked.start(failpoint="after_advance:block:2:600")
    async with world.flowing(per_second=200):
        status = await blocked.program.ended(40)
    assert status == os.EX_SOFTWARE, status
    world.hit("ended by the watchdog", blocked.count("stuck"))
    blocked.keep_running()
    await world.recovered()
    await world.judge()
