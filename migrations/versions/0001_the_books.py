"""The books as they were first laid out."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE position (
    number INTEGER GENERATED ALWAYS AS IDENTITY,
    consumer_group TEXT NOT NULL,
    topic TEXT NOT NULL,
    topic_partition INTEGER NOT NULL,
    cluster_id TEXT NOT NULL,
    start_offset BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    owner TEXT NOT NULL,
    anchor_offset BIGINT,
    anchor_digest BYTEA,
    read_up_to BIGINT NOT NULL,
    halted TEXT,
    CONSTRAINT position_pkey PRIMARY KEY (number),
    CONSTRAINT position_consumer_group_topic_topic_partition_key
        UNIQUE (consumer_group, topic, topic_partition),
    CONSTRAINT position_never_runs_backwards CHECK (next_offset >= start_offset)
);

CREATE TABLE batch (
    position INTEGER NOT NULL,
    from_offset BIGINT NOT NULL,
    to_offset BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    applied INTEGER NOT NULL,
    duplicate INTEGER NOT NULL,
    parked INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    committed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT batch_pkey PRIMARY KEY (position, from_offset),
    CONSTRAINT batch_accounts_for_its_offsets CHECK (
        applied >= 0 AND duplicate >= 0 AND parked >= 0 AND rejected >= 0
        AND applied + duplicate + parked + rejected <= to_offset - from_offset
    )
);

CREATE TABLE channel (
    channel TEXT NOT NULL,
    version BIGINT DEFAULT '0' NOT NULL,
    time_zone TEXT,
    registered_on DATE,
    first_cycle_on DATE,
    open_from DATE,
    settled_on DATE,
    sequence BIGINT DEFAULT '0' NOT NULL,
    entries BIGINT DEFAULT '0' NOT NULL,
    notices BIGINT DEFAULT '0' NOT NULL,
    due_at BIGINT,
    closes_at BIGINT,
    CONSTRAINT channel_pkey PRIMARY KEY (channel)
)
 WITH (fillfactor = 70);

CREATE INDEX channel_by_closes_at ON channel (closes_at) WHERE closes_at IS NOT NULL;

CREATE INDEX channel_by_due_at ON channel (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE event (
    channel TEXT NOT NULL,
    digest BYTEA NOT NULL,
    month SMALLINT NOT NULL,
    content BYTEA NOT NULL,
    at BIGINT NOT NULL,
    position INTEGER NOT NULL,
    read_at_offset BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    product SMALLINT NOT NULL,
    kind TEXT,
    quantity BIGINT NOT NULL,
    messages INTEGER NOT NULL,
    person BYTEA,
    counts_on DATE,
    CONSTRAINT event_pkey PRIMARY KEY (channel, digest, month)
)
 PARTITION BY RANGE (month);

CREATE TABLE command (
    channel TEXT NOT NULL,
    digest BYTEA NOT NULL,
    content BYTEA NOT NULL,
    at BIGINT NOT NULL,
    position INTEGER NOT NULL,
    read_at_offset BIGINT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    answer TEXT,
    CONSTRAINT command_pkey PRIMARY KEY (channel, digest),
    CONSTRAINT command_has_a_known_state CHECK (state IN ('applied', 'parked'))
);

CREATE TABLE parked (
    channel TEXT NOT NULL,
    digest BYTEA NOT NULL,
    number BIGINT GENERATED ALWAYS AS IDENTITY,
    at BIGINT NOT NULL,
    waits_for BYTEA,
    position INTEGER NOT NULL,
    read_at_offset BIGINT NOT NULL,
    clock BIGINT NOT NULL,
    topic TEXT NOT NULL,
    key BYTEA,
    value BYTEA NOT NULL,
    headers BYTEA NOT NULL,
    CONSTRAINT parked_pkey PRIMARY KEY (channel, digest)
);

CREATE INDEX parked_by_at ON parked (at);

CREATE TABLE setting (
    channel TEXT NOT NULL,
    name TEXT NOT NULL,
    "of" TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    at BIGINT NOT NULL,
    on_day DATE NOT NULL,
    value TEXT NOT NULL,
    CONSTRAINT setting_pkey PRIMARY KEY (channel, name, "of", sequence)
);

CREATE TABLE lot (
    channel TEXT NOT NULL,
    lot TEXT NOT NULL,
    product TEXT NOT NULL,
    quota BIGINT NOT NULL,
    starts_on DATE NOT NULL,
    ends_on DATE NOT NULL,
    month_price NUMERIC,
    price NUMERIC,
    is_refunded BOOLEAN NOT NULL,
    has_started BOOLEAN NOT NULL,
    has_ended BOOLEAN NOT NULL,
    expiring_told SMALLINT NOT NULL,
    expired BIGINT NOT NULL,
    pool BIGINT NOT NULL,
    CONSTRAINT lot_pkey PRIMARY KEY (channel, lot),
    CONSTRAINT lot_is_never_overdrawn CHECK (pool >= 0 AND expired >= 0)
);

CREATE TABLE lot_window (
    channel TEXT NOT NULL,
    lot TEXT NOT NULL,
    number SMALLINT NOT NULL,
    starts_on DATE NOT NULL,
    quota BIGINT NOT NULL,
    maximum BIGINT NOT NULL,
    own BIGINT NOT NULL,
    carried BIGINT NOT NULL,
    borrowed BIGINT NOT NULL,
    minimum BIGINT NOT NULL,
    lent BIGINT NOT NULL,
    taken BIGINT NOT NULL,
    CONSTRAINT lot_window_pkey PRIMARY KEY (channel, lot, number),
    CONSTRAINT lot_window_gives_its_quota_once CHECK (taken BETWEEN 0 AND quota),
    CONSTRAINT lot_window_gives_no_more_than_it_may CHECK (own + carried + borrowed <= maximum),
    CONSTRAINT lot_window_is_not_negative CHECK (
        own >= 0 AND carried >= 0 AND borrowed >= 0 AND minimum >= 0
        AND lent BETWEEN 0 AND taken
    )
)
 WITH (fillfactor = 80);

CREATE TABLE reservation (
    channel TEXT NOT NULL,
    lot TEXT NOT NULL,
    product TEXT NOT NULL,
    made_on DATE NOT NULL,
    sequence BIGINT NOT NULL,
    executes_on DATE,
    state TEXT NOT NULL,
    CONSTRAINT reservation_pkey PRIMARY KEY (channel, lot),
    CONSTRAINT reservation_has_a_known_state CHECK (
        state IN ('waiting', 'executed', 'refused', 'cancelled')
    )
);

CREATE TABLE tally (
    channel TEXT NOT NULL,
    product TEXT NOT NULL,
    on_day DATE NOT NULL,
    kind TEXT NOT NULL,
    quantity BIGINT NOT NULL,
    messages BIGINT NOT NULL,
    CONSTRAINT tally_pkey PRIMARY KEY (channel, product, on_day, kind),
    CONSTRAINT tally_is_not_negative CHECK (quantity >= 0 AND messages >= 0)
)
 WITH (fillfactor = 80);

CREATE TABLE reading (
    channel TEXT NOT NULL,
    product TEXT NOT NULL,
    person BYTEA NOT NULL,
    on_day DATE NOT NULL,
    peak BIGINT,
    last_at BIGINT,
    last_level BIGINT,
    CONSTRAINT reading_pkey PRIMARY KEY (channel, product, person, on_day)
)
 WITH (fillfactor = 80);

CREATE TABLE level (
    channel TEXT NOT NULL,
    product TEXT NOT NULL,
    person BYTEA NOT NULL,
    at BIGINT NOT NULL,
    level BIGINT NOT NULL,
    CONSTRAINT level_pkey PRIMARY KEY (channel, product, person)
);

CREATE TABLE fill (
    channel TEXT NOT NULL,
    product TEXT NOT NULL,
    on_day DATE NOT NULL,
    source TEXT NOT NULL,
    lot TEXT NOT NULL,
    window_number SMALLINT NOT NULL,
    quota_number SMALLINT NOT NULL,
    quantity BIGINT NOT NULL,
    CONSTRAINT fill_pkey PRIMARY KEY (
        channel, product, on_day, source, lot, window_number, quota_number
    ),
    CONSTRAINT fill_is_not_negative CHECK (quantity >= 0)
)
 WITH (fillfactor = 80);

CREATE TABLE entry (
    channel TEXT NOT NULL,
    number BIGINT NOT NULL,
    product TEXT NOT NULL,
    on_day DATE NOT NULL,
    source TEXT NOT NULL,
    lot TEXT NOT NULL,
    window_number SMALLINT NOT NULL,
    quota_number SMALLINT NOT NULL,
    quantity BIGINT NOT NULL,
    original_on DATE,
    position INTEGER,
    read_at_offset BIGINT,
    booked_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT entry_pkey PRIMARY KEY (channel, number)
);

CREATE TABLE notice (
    channel TEXT NOT NULL,
    number BIGINT NOT NULL,
    kind TEXT NOT NULL,
    product TEXT,
    on_day DATE NOT NULL,
    detail TEXT NOT NULL,
    issued_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT notice_pkey PRIMARY KEY (channel, number)
);

CREATE TABLE cycle (
    channel TEXT NOT NULL,
    starts_on DATE NOT NULL,
    ends_on DATE NOT NULL,
    document TEXT NOT NULL,
    digest BYTEA NOT NULL,
    closed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT cycle_pkey PRIMARY KEY (channel, starts_on)
);

CREATE TABLE reject (
    position INTEGER NOT NULL,
    read_at_offset BIGINT NOT NULL,
    channel TEXT,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    was_parked BOOLEAN NOT NULL,
    rejected_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT reject_pkey PRIMARY KEY (position, read_at_offset)
);

CREATE TABLE outbox (
    number BIGINT GENERATED ALWAYS AS IDENTITY,
    destination TEXT NOT NULL,
    key BYTEA,
    value BYTEA,
    headers BYTEA NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT outbox_pkey PRIMARY KEY (number),
    CONSTRAINT outbox_has_a_known_destination CHECK (
        destination IN ('notices', 'statements', 'dead_letters')
    )
);

CREATE TABLE verification (
    number BIGINT GENERATED ALWAYS AS IDENTITY,
    is_ok BOOLEAN NOT NULL,
    is_full BOOLEAN NOT NULL,
    checked JSONB NOT NULL,
    differences JSONB NOT NULL,
    verified_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT verification_pkey PRIMARY KEY (number)
);
"""

# The months of the events, made by whoever reads the first event of one. The app role may not make
# tables.
MONTHS = """
CREATE FUNCTION ensure_month(wanted smallint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('lotmeter.ensure_month'));
    IF to_regclass(format('event_%s', wanted)) IS NULL THEN
        EXECUTE format('CREATE TABLE event_%s (LIKE event INCLUDING DEFAULTS)', wanted);
        EXECUTE format(
            'ALTER TABLE event ATTACH PARTITION event_%1$s FOR VALUES FROM (%1$s) TO (%2$s)',
            wanted, wanted + 1
        );
    END IF;
END
$$;

REVOKE ALL ON FUNCTION ensure_month(smallint) FROM PUBLIC;
"""

IMMUTABLE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is a book of record: its lines are never changed', TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER entry_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON entry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER notice_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON notice
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER cycle_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON cycle
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER batch_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON batch
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER reject_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON reject
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER setting_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON setting
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    for statements in (TABLES, MONTHS, IMMUTABLE):
        # The driver prepares what it runs: one statement at a time.
        for statement in statements.split(";\n\n"):
            op.execute(statement)
