"""Judges the books from outside: reads the topics itself, works the books out by a model that was
written from the rules alone, and looks at the tables with plain SQL. None of the service is used.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import orjson

from tests.faults.reading import line_of, read
from tests.slow_model import Simulation
from tests.slow_model_pour import SOURCES, decimal_text
from tests.slow_model_reading import read_line, read_time

LOOK_AGAIN = timedelta(seconds=30)
PARTS = ("own", "carried", "borrowed", "minimum", "lent")
WORDS_MAX = 12


class Model(Simulation):
    """The slow model, which here looks at the calendar only now and then: notices are not asked."""

    def __init__(self):
        super().__init__()
        self._looked_at = None
        self._must_look = False

    def look(self):
        """Issue no notices."""

    def move(self, at):
        """Move the clock; what is due is looked for where something may have become due."""
        if self._must_look or self._looked_at is None or at - self._looked_at > LOOK_AGAIN:
            self._must_look, self._looked_at = False, at
            super().move(at)
        elif at > self.clock:
            self.clock = at

    def take(self, line):
        """Take a line."""
        super().take(line)
        self._must_look = self._must_look or line["topic"] == "billing.commands"


@dataclass
class Verdict:
    """What a look at everything came to."""

    events: int = 0
    lost: int = 0
    double: int = 0
    differences: list[str] = field(default_factory=list)

    def expect(self, what, found, wanted):
        """Note where what was found is not what is wanted."""
        if found != wanted:
            self.differences.append(f"{what}: {found} and not {wanted}")

    def __str__(self):
        shown = self.differences[:WORDS_MAX]
        more = len(self.differences) - len(shown)
        return "; ".join([*shown, *([f"and {more} more"] if more else [])])


def work_out(records, topic_of, ahead=timedelta(0)):
    """Work the books out; returns the model and what each record says."""
    model, said = Model(), {}
    for record in records:
        at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
        line = line_of(record, topic_of(record.topic)) | {"clock": at.isoformat()}
        found, _ = read_line(line)
        said[record.topic, record.partition, record.offset] = found
        model.take(line)
    if records:
        model._must_look = True
        model.move(read_time((datetime.now(UTC) + ahead).isoformat()))
    return model, said


async def judge(
    address, connection, *, topics, outgoing, topic_of,
    allow_unsent=False, ahead=timedelta(0), was_restored=False,
):  # fmt: skip
    """Compare topics and books. The traffic must have come to rest."""
    records, last = await read(address, topics)
    verdict = Verdict(events=len(records))
    await compare(connection, verdict, records, last, *work_out(records, topic_of, ahead))
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    verdict.expect("deadlocks", await connection.fetchval(deadlocks), 0)
    if not allow_unsent:
        await _messages(address, connection, verdict, records, outgoing, was_restored)
    return verdict


async def compare(connection, verdict, records, last, model, said):
    """Compare what was read and worked out with the tables."""
    await _offsets(connection, verdict, records, last)
    await _identities(connection, verdict, model, said)
    await _outcomes(connection, verdict, model)
    await _books(connection, verdict, model)


async def _offsets(connection, verdict, records, last):
    """Every offset is accounted for, by batches that follow one another."""
    there = Counter((record.topic, record.partition) for record in records)
    rows = await connection.fetch(
        "SELECT p.topic, p.topic_partition, p.start_offset, p.next_offset,"
        " coalesce(sum(applied + duplicate + parked + rejected), 0)::bigint AS records,"
        " coalesce(sum(to_offset - from_offset), 0)::bigint AS offsets,"
        " coalesce(max(b.epoch), 0) <= p.epoch AS in_order"
        " FROM position p LEFT JOIN batch b ON b.position = p.number GROUP BY p.number"
    )
    for row in rows:
        place = row["topic"], row["topic_partition"]
        if place not in last:
            continue
        verdict.expect(f"{place} is read up to", row["next_offset"], last[place])
        verdict.expect(f"{place} offsets", row["offsets"], row["next_offset"] - row["start_offset"])
        verdict.expect(f"{place} records", row["records"], there[place])
        verdict.expect(f"{place} epochs", row["in_order"], True)
    read_places = {(row["topic"], row["topic_partition"]) for row in rows}
    verdict.expect("partitions never read", [tp for tp in there if tp not in read_places], [])
    broken = await connection.fetchval(
        "SELECT count(*) FROM (SELECT from_offset, epoch,"
        " lag(to_offset) OVER w AS before, lag(epoch) OVER w AS epoch_before"
        " FROM batch WINDOW w AS (PARTITION BY position ORDER BY from_offset)) chain"
        " WHERE before <> from_offset OR epoch < epoch_before"
    )
    verdict.expect("places where a batch does not follow the one before", broken, 0)


async def _identities(connection, verdict, model, said):
    """Each event that must count counts once, and it is that very event."""
    rows = await connection.fetch(
        "SELECT p.topic, p.topic_partition, e.read_at_offset FROM"
        " (SELECT position, read_at_offset FROM event WHERE state <> 1 UNION ALL"
        "  SELECT position, read_at_offset FROM command WHERE state = 'applied') e"
        " JOIN position p ON p.number = e.position"
    )
    counted = Counter(getattr(said.get(tuple(row)), "identity", tuple(row)) for row in rows)
    wanted = set(model.applied)
    lost = wanted - counted.keys()
    double = sum(times - 1 for times in counted.values()) + len(counted.keys() - wanted)
    verdict.lost += len(lost)
    verdict.double += double
    verdict.expect("events lost", sorted(lost)[:3], [])
    verdict.expect("events counted that must not be", sorted(counted.keys() - wanted)[:3], [])
    verdict.expect("events counted twice", double, 0)


async def _outcomes(connection, verdict, model):
    found = dict(
        await connection.fetchrow(
            "SELECT (SELECT coalesce(sum(duplicate), 0) FROM batch)::bigint AS duplicate,"
            " (SELECT count(*) FROM event WHERE counts_on IS NOT NULL) AS late,"
            " (SELECT count(*) FROM parked) AS parked"
        )
    )
    wanted = {
        "duplicate": model.outcomes["duplicate"],
        "late": model.outcomes["late"],
        "parked": len(model.parked),
    }
    verdict.expect("outcomes", found, wanted)
    rows = await connection.fetch("SELECT reason, count(*) FROM reject GROUP BY reason")
    verdict.expect(
        "rejects", dict(map(tuple, rows)), {k: n for k, n in model.rejected.items() if n}
    )


async def _books(connection, verdict, model):
    """Cycles, lots and their windows, to the last thousandth."""
    document = model.document()["channels"]
    entries = defaultdict(Counter)
    for channel, product, day, source, quantity in await connection.fetch(
        "SELECT channel, product, on_day, source, sum(quantity)::bigint FROM entry"
        " GROUP BY channel, product, on_day, source"
    ):
        entries[channel][product, day.isoformat(), source] += quantity
    lots = defaultdict(dict)
    for row in await connection.fetch(
        "SELECT channel, lot, is_refunded, (quota * quotas_of(product) - expired - coalesce((SELECT"
        " sum(w.taken) FROM lot_window w WHERE (w.channel, w.lot) = (lot.channel, lot.lot)), 0)"
        ")::bigint AS pool FROM lot"
    ):
        lots[row["channel"]][row["lot"]] = row
    windows = defaultdict(dict)
    for row in await connection.fetch("SELECT * FROM lot_window"):
        windows[row["channel"], row["lot"]][row["starts_on"].isoformat()] = row
    registered = await connection.fetch("SELECT channel FROM channel WHERE time_zone IS NOT NULL")
    verdict.expect("channels", sorted(row[0] for row in registered), sorted(document))
    for channel, wanted in document.items():
        _cycles(verdict, channel, wanted["cycles"], entries[channel])
        names = sorted(lot["lot"] for lot in wanted["lots"])
        verdict.expect(f"lots of {channel}", sorted(lots[channel]), names)
        for lot in wanted["lots"]:
            row = lots[channel].get(lot["lot"])
            if row is not None and not row["is_refunded"]:
                name = f"{channel} {lot['lot']}"
                if lot["product"] not in ("white_label", "security_bundle"):
                    verdict.expect(f"pool of {name}", decimal_text(row["pool"]), lot["pool"])
                _windows(verdict, name, lot["windows"], windows[channel, lot["lot"]])
            elif row is not None:
                verdict.expect(f"state of {channel} {lot['lot']}", "refunded", lot["state"])
    unbalanced = await connection.fetchval(
        "SELECT count(*) FROM (SELECT channel, product, on_day, source, lot, window_number,"
        " quota_number, quantity FROM fill WHERE quantity <> 0 EXCEPT SELECT channel, product,"
        " on_day, source, lot, window_number, quota_number, sum(quantity)::bigint FROM entry"
        " GROUP BY 1, 2, 3, 4, 5, 6, 7) fills"
    )
    verdict.expect("fills that no entries add up to", unbalanced, 0)


def _cycles(verdict, channel, cycles, entries):
    for cycle in cycles:
        sums = Counter()
        for (product, day, source), quantity in entries.items():
            if cycle["starts_on"] <= day <= cycle["ends_on"] and source in SOURCES:
                sums[product, source] += quantity
        wanted = Counter()
        for product, totals in cycle["products"].items():
            for source in SOURCES:
                wanted[product, source] = totals[source]
        found = {key: decimal_text(units) for key, units in sums.items() if units}
        verdict.expect(
            f"cycle {cycle['starts_on']} of {channel}",
            dict(sorted(found.items())),
            dict(sorted((key, units) for key, units in wanted.items() if units != "0")),
        )


def _windows(verdict, name, wanted, rows):
    for window in wanted:
        row = rows.get(window["starts_on"])
        found = {part: decimal_text(row[part] if row else 0) for part in PARTS}
        verdict.expect(
            f"window {window['starts_on']} of {name}", found, {part: window[part] for part in PARTS}
        )


async def _messages(address, connection, verdict, records, outgoing, was_restored):
    """What the books have to say was said: each reject with its bytes, notices and statements."""
    sent, _ = await read(address, list(outgoing.values()))
    by_topic = defaultdict(list)
    for message in sent:
        by_topic[message.topic].append(message)
    originals = {(each.topic, each.partition, each.offset): each for each in records}
    letters = {}
    for letter in by_topic[outgoing["dead_letters"]]:
        headers = {name: (value or b"").decode() for name, value in letter.headers}
        place = (
            headers["lotmeter-topic"],
            int(headers["lotmeter-partition"]),
            int(headers["lotmeter-offset"]),
        )
        letters[place] = headers["lotmeter-reason"]
        original = originals.get(place)
        same = original is not None and (letter.key, letter.value) == (original.key, original.value)
        if not same and "cut out" not in headers.get("lotmeter-detail", ""):
            verdict.differences.append(f"the dead letter of {place} is not the original")
    rows = await connection.fetch(
        "SELECT p.topic, p.topic_partition, r.read_at_offset, r.reason"
        " FROM reject r JOIN position p ON p.number = r.position"
    )
    verdict.expect(
        "dead letters that are missing or wrong",
        sorted(letters.items() ^ {tuple(row)[:3]: row["reason"] for row in rows}.items())[:3],
        [],
    )
    told = {
        (event["subject"], event["data"]["kind"], event["data"]["product"], event["data"]["on"],
         orjson.dumps(event["data"]["detail"], option=orjson.OPT_SORT_KEYS))
        for event in map(orjson.loads, (each.value for each in by_topic[outgoing["notices"]]))
    }  # fmt: skip
    rows = await connection.fetch("SELECT channel, kind, product, on_day, detail FROM notice")
    issued = {
        (channel, kind, product, day.isoformat(),
         orjson.dumps(orjson.loads(detail), option=orjson.OPT_SORT_KEYS))
        for channel, kind, product, day, detail in rows
    }  # fmt: skip
    # A crossing that was undone within one batch need not be told; before a restore it may have.
    wrong = issued - told if was_restored else told ^ issued
    verdict.expect("notices that are missing or wrong", sorted(map(str, wrong))[:3], [])
    statements = {each.key.decode() for each in by_topic[outgoing["statements"]]}
    rows = await connection.fetch("SELECT channel, starts_on FROM cycle")
    closed = {f"{channel}|{day.isoformat()}" for channel, day in rows}
    verdict.expect("statements missing or wrong", sorted(statements ^ closed)[:3], [])
    verdict.expect(
        "messages in the outbox", await connection.fetchval("SELECT count(*) FROM outbox"), 0
    )
