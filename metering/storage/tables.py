"""The tables of the books. Every key but those of positions and the outbox begins with the channel.

Quantities are thousandths of a unit, instants are microseconds since 1970, digests have 16 bytes.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

# The last of the migrations: these are the tables that it leaves.
REVISION = "0007"

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ix": "%(table_name)s_by_%(column_0_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(constraint_name)s",
    }
)

_text, _date, _bytes, _flag = sa.Text, sa.Date, sa.LargeBinary, sa.Boolean
_quantity = _instant = sa.BigInteger


_Kind = sa.types.TypeEngine[Any] | type[sa.types.TypeEngine[Any]]


def _column(
    name: str,
    kind: _Kind,
    *,
    nullable: bool = False,
    server_default: sa.ColumnElement[Any] | str | None = None,
) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable, server_default=server_default)


def _key(name: str, kind: _Kind) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


position = sa.Table(
    "position",
    metadata,
    sa.Column("number", sa.Integer, sa.Identity(always=True), primary_key=True),
    _column("consumer_group", _text),
    _column("topic", _text),
    _column("topic_partition", sa.Integer),
    _column("cluster_id", _text),
    _column("start_offset", sa.BigInteger),
    _column("next_offset", sa.BigInteger),
    _column("epoch", sa.BigInteger),
    _column("owner", _text),
    _column("anchor_offset", sa.BigInteger, nullable=True),
    _column("anchor_digest", _bytes, nullable=True),
    _column("read_up_to", _instant),
    _column("halted", _text, nullable=True),
    sa.UniqueConstraint("consumer_group", "topic", "topic_partition"),
    sa.CheckConstraint("next_offset >= start_offset", name="position_never_runs_backwards"),
)

# What became of each offset when it was read. Holes are what Kafka itself left out.
batch = sa.Table(
    "batch",
    metadata,
    _key("position", sa.Integer),
    _key("from_offset", sa.BigInteger),
    _column("to_offset", sa.BigInteger),
    _column("epoch", sa.BigInteger),
    _column("applied", sa.Integer),
    _column("duplicate", sa.Integer),
    _column("parked", sa.Integer),
    _column("rejected", sa.Integer),
    _column("committed_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
    sa.CheckConstraint(
        "applied >= 0 AND duplicate >= 0 AND parked >= 0 AND rejected >= 0"
        " AND applied + duplicate + parked + rejected <= to_offset - from_offset",
        name="batch_accounts_for_its_offsets",
    ),
)

channel = sa.Table(
    "channel",
    metadata,
    _key("channel", _text),
    _column("version", sa.BigInteger, server_default="0"),
    # All below is null until the channel is registered.
    _column("time_zone", _text, nullable=True),
    _column("registered_on", _date, nullable=True),
    _column("first_cycle_on", _date, nullable=True),
    _column("open_from", _date, nullable=True),
    _column("settled_on", _date, nullable=True),
    _column("sequence", sa.BigInteger, server_default="0"),
    _column("entries", sa.BigInteger, server_default="0"),
    _column("notices", sa.BigInteger, server_default="0"),
    _column("due_at", _instant, nullable=True),
    _column("closes_at", _instant, nullable=True),
    sa.Index("channel_by_due_at", "due_at", postgresql_where=sa.text("due_at IS NOT NULL")),
    sa.Index(
        "channel_by_closes_at", "closes_at", postgresql_where=sa.text("closes_at IS NOT NULL")
    ),
    # Room for updates in place: the row moves on with every batch.
    postgresql_with={"fillfactor": "70"},
)

# The record of each usage event: its identity, and what it was counted as. One partition a month of
# event time.
event = sa.Table(
    "event",
    metadata,
    _key("channel", _text),
    _key("digest", _bytes),
    _key("month", sa.SmallInteger),  # Months since year 0 of the event's own time, in UTC.
    _column("content", _bytes),
    _column("at", _instant),
    _column("position", sa.Integer),
    _column("read_at_offset", sa.BigInteger),
    _column("state", sa.SmallInteger),  # See event_store.
    _column("product", sa.SmallInteger),
    _column("kind", _text, nullable=True),
    _column("quantity", _quantity),
    _column("messages", sa.Integer),
    _column(
        "person", _bytes, nullable=True
    ),  # Who holds a seat; of a void, the event it takes back.
    _column(
        "counts_on", _date, nullable=True
    ),  # Only where it is not the event's own day: it is late.
    postgresql_partition_by="RANGE (month)",
)

command = sa.Table(
    "command",
    metadata,
    _key("channel", _text),
    _key("digest", _bytes),
    _column("content", _bytes),
    _column("at", _instant),
    _column("position", sa.Integer),
    _column("read_at_offset", sa.BigInteger),
    _column("kind", _text),
    _column("state", _text),
    _column("answer", _text, nullable=True),  # Why it was refused.
    sa.CheckConstraint("state IN ('applied', 'parked')", name="command_has_a_known_state"),
)

# Records that wait, as they came. Gone once they are taken up.
parked = sa.Table(
    "parked",
    metadata,
    _key("channel", _text),
    _key("digest", _bytes),
    sa.Column("number", sa.BigInteger, sa.Identity(always=True), nullable=False),
    _column("at", _instant),
    _column("waits_for", _bytes, nullable=True),  # The event; null where it waits for the channel.
    _column("position", sa.Integer),
    _column("read_at_offset", sa.BigInteger),
    _column("clock", _instant),
    _column("topic", _text),
    _column("key", _bytes, nullable=True),
    _column("value", _bytes),
    _column("headers", _bytes),
    sa.Index("parked_by_at", "at"),
)

setting = sa.Table(
    "setting",
    metadata,
    _key("channel", _text),
    _key("name", _text),
    _key("of", _text),
    _key("sequence", sa.BigInteger),
    _column("at", _instant),
    _column("on_day", _date),
    _column("value", _text),  # JSON.
)

lot = sa.Table(
    "lot",
    metadata,
    _key("channel", _text),
    _key("lot", _text),
    _column("product", _text),
    _column("quota", _quantity),
    _column("starts_on", _date),
    _column("ends_on", _date),
    _column("month_price", sa.Numeric, nullable=True),
    _column("price", sa.Numeric, nullable=True),
    _column("is_refunded", _flag),
    _column("has_started", _flag),
    _column("has_ended", _flag),
    _column("expiring_told", sa.SmallInteger),
    _column("expired", _quantity),
    sa.CheckConstraint("expired >= 0", name="lot_expires_once"),
)

lot_window = sa.Table(
    "lot_window",
    metadata,
    _key("channel", _text),
    _key("lot", _text),
    _key("number", sa.SmallInteger),
    _column("starts_on", _date),
    _column("quota", _quantity),
    _column("maximum", _quantity),
    _column("own", _quantity),
    _column("carried", _quantity),
    _column("borrowed", _quantity),
    _column("minimum", _quantity),
    _column("lent", _quantity),
    _column("taken", _quantity),
    # The quotas of its windows are all that a lot holds: each is given once.
    sa.CheckConstraint("taken BETWEEN 0 AND quota", name="lot_is_never_overdrawn"),
    sa.CheckConstraint(
        "own + carried + borrowed <= maximum", name="lot_window_gives_no_more_than_it_may"
    ),
    sa.CheckConstraint(
        "own >= 0 AND carried >= 0 AND borrowed >= 0 AND minimum >= 0 AND lent BETWEEN 0 AND taken",
        name="lot_window_is_not_negative",
    ),
    postgresql_with={"fillfactor": "80"},
)

reservation = sa.Table(
    "reservation",
    metadata,
    _key("channel", _text),
    _key("lot", _text),
    _column("product", _text),
    _column("made_on", _date),
    _column("sequence", sa.BigInteger),
    _column("executes_on", _date, nullable=True),
    _column("state", _text),
    sa.CheckConstraint(
        "state IN ('waiting', 'executed', 'refused', 'cancelled')",
        name="reservation_has_a_known_state",
    ),
)

# What was used on a day, and where it was poured: see daybook.py. By product and kind or source, in
# the views `tally` and `fill`.
daybook = sa.Table(
    "daybook",
    metadata,
    _key("channel", _text),
    _key("on_day", _date),
    _column("tallies", _text),  # JSON, as all that follows.
    _column("tallied", _text),
    _column("fills", _text),
    _column("filled", _text),
    sa.CheckConstraint("tallied NOT LIKE '%-%'", name="tally_is_not_negative"),
    sa.CheckConstraint("filled NOT LIKE '%-%'", name="fill_is_not_negative"),
    # Room for updates in place; and what is read whole is not compressed.
    postgresql_with={"fillfactor": "70", "toast_tuple_target": "8160"},
)

# Levels and seats, by day: the highest level that counts on it, and the latest report of it. What
# is read and written together, the last days of a channel, stands together.
reading = sa.Table(
    "reading",
    metadata,
    _key("channel", _text),
    _key("on_day", _date),
    _key("product", _text),
    _key("person", _bytes),
    _column("peak", sa.BigInteger, nullable=True),
    _column("last_at", _instant, nullable=True),
    _column("last_level", sa.BigInteger, nullable=True),
    postgresql_with={"fillfactor": "80"},
)

# The level in force when the earliest open cycle begins.
level = sa.Table(
    "level",
    metadata,
    _key("channel", _text),
    _key("product", _text),
    _key("person", _bytes),
    _column("at", _instant),
    _column("level", sa.BigInteger),
)

# The ledger. Immutable; numbered without gaps within a channel.
entry = sa.Table(
    "entry",
    metadata,
    _key("channel", _text),
    _key("number", sa.BigInteger),
    _column("product", _text),
    _column("on_day", _date),
    _column("source", _text),
    _column("lot", _text),
    _column("window_number", sa.SmallInteger),
    _column("quota_number", sa.SmallInteger),
    _column("quantity", _quantity),
    _column("original_on", _date, nullable=True),
    # The record that was taken in last before; null: the clock.
    _column("position", sa.Integer, nullable=True),
    _column("read_at_offset", sa.BigInteger, nullable=True),
    _column("booked_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
)

notice = sa.Table(
    "notice",
    metadata,
    _key("channel", _text),
    _key("number", sa.BigInteger),
    _column("kind", _text),
    _column("product", _text, nullable=True),
    _column("on_day", _date),
    _column("detail", _text),  # JSON.
    _column("issued_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
    # With a channel only those of its last days are read.
    sa.Index("notice_by_channel_and_day", "channel", "on_day"),
)

# Closed cycles, as they will stand for ever.
cycle = sa.Table(
    "cycle",
    metadata,
    _key("channel", _text),
    _key("starts_on", _date),
    _column("ends_on", _date),
    _column("document", _text),  # JSON, as in a statement.
    _column("digest", _bytes),
    _column("closed_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
)

reject = sa.Table(
    "reject",
    metadata,
    _key("position", sa.Integer),
    _key("read_at_offset", sa.BigInteger),
    _column("channel", _text, nullable=True),
    _column("reason", _text),
    _column("detail", _text),
    _column("was_parked", _flag),
    _column("rejected_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("number", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    _column("destination", _text),
    _column("key", _bytes, nullable=True),
    _column("value", _bytes, nullable=True),
    _column("headers", _bytes),
    _column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
    sa.CheckConstraint(
        "destination IN ('notices', 'statements', 'dead_letters')",
        name="outbox_has_a_known_destination",
    ),
)

verification = sa.Table(
    "verification",
    metadata,
    sa.Column("number", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    _column("is_ok", _flag),
    _column("is_full", _flag),
    _column("checked", pg.JSONB),
    _column("differences", pg.JSONB),
    _column("verified_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
)

# What was last seen of all channels, by whichever member looked: one row.
observation = sa.Table(
    "observation",
    metadata,
    _key("number", sa.SmallInteger),
    _column("observer", _text, nullable=True),  # Who looks, or looked last …
    _column("busy_at", sa.DateTime(timezone=True), nullable=True),  # … and when it last said so.
    _column("seen_at", sa.DateTime(timezone=True), nullable=True),
    _column("document", pg.JSONB),
    sa.CheckConstraint("number = 1", name="observation_is_one"),
)

# What the app role may do beyond SELECT and INSERT, which it may do everywhere.
APP_MAY_UPDATE = (
    position, channel, event, command, lot, lot_window, reservation, daybook, reading, level,
    observation,
)  # fmt: skip
APP_MAY_DELETE = (event, command, parked, outbox)

# Nobody changes these, not even their owner.
IMMUTABLE = (entry, notice, cycle, batch, reject, setting)
