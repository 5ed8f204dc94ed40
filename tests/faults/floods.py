"""Floods: nothing but poison, nowhere to put it, and channels with names that are made to hurt."""

import asyncio
import random
import time
from datetime import timedelta

from tests.faults.members import command_line
from tests.faults.programs import until


async def all_poison(world):
    """Nearly nothing of a partition can be counted: it is halted until somebody says go on."""
    await world.start(members=1)
    good = world.traffic.plain()
    bad = [good._replace(value=b"{", partition=2, topic="usage.seat") for _ in range(1500)]
    await world.send(bad)

    async def halted():
        return await world.ask("SELECT count(*) FROM position WHERE halted IS NOT NULL")

    await until(halted, 60, "the partition is halted")
    world.hit("partitions halted", world.logged("partition_halted"))
    await world.send(good._replace(partition=2, topic="usage.seat") for _ in range(5))
    await world.send(world.traffic.usage(50))
    topic = world.real("usage.seat")
    await world.caught_up(but=[(topic, 2)])
    status, _, err = await command_line(world.settings, "partitions", "resume", topic, "2")
    assert status == 0, err
    await world.recovered()
    await world.judge()


async def dead_letter_topic_gone(world):
    """Rejects have nowhere to go: metering goes on, notices are sent, and later all is sent."""
    await world.start(members=1)
    await world.recovered()
    topic = world.outgoing["dead_letters"]
    await world.broker.delete(topic)
    good = world.traffic.plain()
    # More than the relay takes at once.
    await world.send(good._replace(value=b"{", partition=n % 4) for n in range(700))
    await world.caught_up()
    await world.send(list(world.traffic.register(4)))
    await world.send(world.traffic.usage(100))
    await world.caught_up()

    async def only_letters_wait():
        kinds = "SELECT string_agg(DISTINCT destination, ' ') FROM outbox"
        return await world.ask(kinds) == "dead_letters"

    await until(only_letters_wait, 60, "notices and statements are sent all the same")
    world.hit("letters that wait", await world.unsent())
    await world.broker.create(topic, world.partitions)
    await world.recovered()
    await world.judge()


async def dead_letters_too_large(world):
    """The topic refuses what is as large as the original: it is cut, and blocks nothing."""
    await world.start(members=1)
    topic = world.outgoing["dead_letters"]
    await world.broker.delete(topic)
    await world.broker.create(topic, world.partitions, max_message_bytes=20_000)
    messages = list(world.traffic.usage(100))
    large = [message._replace(value=b"[" + b" " * 70_000 + b"]") for message in messages[:12]]
    await world.send([*large, *messages])
    await world.recovered()
    cut = await world.members[0].metric("lotmeter_relayed_total", result="cut")
    assert cut == len(large), cut
    world.hit("letters that were cut", cut)
    await world.judge()


async def hostile_channels(world, *, channels=20_000):
    """Channels with names made to hurt, while /metrics is asked a hundred times at once."""
    [member] = await world.start(members=1)
    draw = random.Random(world.seed)
    answers = []
    is_over = asyncio.Event()

    async def hammer():
        while not is_over.is_set():
            found = await asyncio.gather(*(member.ask("/metrics") for _ in range(20)))
            answers.extend(found)

    hammering = [asyncio.create_task(hammer()) for _ in range(5)]
    names = [_hostile_name(draw, number) for number in range(channels)]
    # The worst of them are registered, and would be shown by their names.
    known = names[:60]
    at = world.traffic.now - timedelta(days=30)
    data = {"plan": "early_stage", "time_zone": "UTC", "billing_day": 1}
    data["billing_day"] = world.traffic._billing_days[0]
    await world.send(
        world.traffic.command(name, "channel.registered", at, data)._replace(key=None, partition=0)
        for name in known
    )
    for name in known:
        world.traffic.channels.append(name)
    await world.caught_up()
    await world.closed()
    began = time.monotonic()
    for start in range(0, channels, 2_000):
        await world.send(
            world.traffic.plain(name)._replace(key=None, partition=number % world.partitions)
            for number, name in enumerate(names[start : start + 2_000])
        )
    await world.caught_up()
    seconds = time.monotonic() - began
    is_over.set()
    await asyncio.gather(*hammering)
    good = [answer for answer in answers if answer and answer[0] == 200]
    series = [line for line in good[-1][1].splitlines() if line and not line.startswith("#")]
    assert len(series) < 2_500, len(series)
    shown = sum(line.startswith("lotmeter_channel_usage_ratio{") for line in series)
    assert shown <= 120, shown
    world.hit("answers of /metrics", len(good))
    world.hit("series at the end", len(series))
    world.hit("channels", channels)
    print(
        f"         {channels} channels in {seconds:.0f} s, {len(good)} of {len(answers)} answered"
    )
    await world.recovered()
    await world.judge()


_NASTY = (
    "'; DROP TABLE event; --", '"', "\\", "%s%n", "${jndi:x}", "{}", "a\nb", "a\tb", "\x7f",
    "\u202e", "\U0001f600", "가나다", "\ufeff", "İ", "ß", "\u200b", " ", "..", "/etc/passwd",
    "<b>", "null", "\x1b[2J",
)  # fmt: skip


def _hostile_name(draw, number):
    parts = [draw.choice(_NASTY) for _ in range(draw.randrange(1, 4))]
    name = f"{number}{''.join(parts)}"
    return (name + "x" * draw.choice((0, 0, 250)))[:255]
