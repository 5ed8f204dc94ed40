"""Views with stable names for dashboards, and what the gauges of the members share."""

from alembic import op

revision = "0003"
down_revision = "0002"

# What was last seen of all channels, by whichever member looked: the same on every member.
OBSERVATION = """
CREATE TABLE observation (
    number SMALLINT NOT NULL,
    observer TEXT,
    busy_at TIMESTAMP WITH TIME ZONE,
    seen_at TIMESTAMP WITH TIME ZONE,
    document JSONB NOT NULL,
    CONSTRAINT observation_pkey PRIMARY KEY (number),
    CONSTRAINT observation_is_one CHECK (number = 1)
);

INSERT INTO observation (number, document) VALUES (1, '{}');
"""

# The calendar of rules.md section 3, and of metering/periods.py. What is written here as an
# expression is looked up when the function is made, so no search path of a caller matters.
CALENDAR = """
CREATE FUNCTION billing_date(month date, billing_day integer) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN least(month + (billing_day - 1), (month + interval '1 month')::date - 1);

CREATE FUNCTION billing_date_up_to(day date, billing_day integer) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN billing_date(day - (extract(day FROM day)::integer - 1), billing_day) <= day
    THEN billing_date(day - (extract(day FROM day)::integer - 1), billing_day)
    ELSE billing_date(
        ((day - (extract(day FROM day)::integer - 1)) - interval '1 month')::date, billing_day
    )
END;

CREATE FUNCTION billing_date_after(day date, billing_day integer) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN billing_date(day - (extract(day FROM day)::integer - 1), billing_day) > day
    THEN billing_date(day - (extract(day FROM day)::integer - 1), billing_day)
    ELSE billing_date(
        ((day - (extract(day FROM day)::integer - 1)) + interval '1 month')::date, billing_day
    )
END;

CREATE FUNCTION value_on(whose text, value_name text, value_of text, day date) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (
    SELECT value FROM setting
    WHERE channel = whose AND name = value_name AND "of" = value_of AND on_day <= day
    ORDER BY at DESC, sequence DESC LIMIT 1
);

CREATE FUNCTION open_cycles(whose text, open_from date, through date)
RETURNS TABLE (starts_on date, ends_on date)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH RECURSIVE open_cycle (first_day, next_first_day) AS (
        SELECT open_from,
            billing_date_after(
                open_from, value_on(whose, 'billing_day', '', open_from - 1)::integer
            )
        UNION ALL
        SELECT next_first_day,
            billing_date_after(
                next_first_day,
                value_on(whose, 'billing_day', '', next_first_day - 1)::integer
            )
        FROM open_cycle WHERE next_first_day <= through
    )
    SELECT first_day, next_first_day - 1 FROM open_cycle;
END;
"""

# For dashboards and whoever looks by SQL: names and columns stay. Quantities are in units.
VIEWS = """
CREATE VIEW channel_cycle_usage AS
SELECT cycle.channel, cycle.starts_on, cycle.ends_on, true AS is_closed, product.key AS product,
    (product.value ->> 'usage')::numeric AS usage,
    (product.value ->> 'included')::numeric AS included,
    (product.value ->> 'own')::numeric AS own,
    (product.value ->> 'carried')::numeric AS carried,
    (product.value ->> 'borrowed')::numeric AS borrowed,
    (product.value ->> 'postpaid')::numeric AS postpaid
FROM cycle, jsonb_each(cycle.document::jsonb -> 'products') AS product
UNION ALL
SELECT channel.channel, open_cycle.starts_on, open_cycle.ends_on, false, fill.product,
    sum(fill.quantity) / 1000,
    coalesce(sum(fill.quantity) FILTER (WHERE source = 'included'), 0) / 1000,
    coalesce(sum(fill.quantity) FILTER (WHERE source = 'own'), 0) / 1000,
    coalesce(sum(fill.quantity) FILTER (WHERE source = 'carried'), 0) / 1000,
    coalesce(sum(fill.quantity) FILTER (WHERE source = 'borrowed'), 0) / 1000,
    coalesce(sum(fill.quantity) FILTER (WHERE source = 'postpaid'), 0) / 1000
FROM channel
CROSS JOIN LATERAL open_cycles(channel.channel, channel.open_from, channel.settled_on) AS open_cycle
JOIN fill ON fill.channel = channel.channel
    AND fill.on_day BETWEEN open_cycle.starts_on AND open_cycle.ends_on
WHERE channel.open_from IS NOT NULL AND fill.quantity > 0
    AND fill.source NOT IN ('minimum', 'expired')
GROUP BY channel.channel, open_cycle.starts_on, open_cycle.ends_on, fill.product;

CREATE VIEW channel_daily_usage AS
SELECT channel, product, on_day, source, sum(quantity) / 1000 AS units
FROM fill WHERE quantity > 0 GROUP BY channel, product, on_day, source;

CREATE VIEW channel_lot AS
SELECT lot.channel, lot.lot, lot.product, lot.quota::numeric / 1000 AS quantity,
    lot.starts_on, lot.ends_on,
    CASE WHEN lot.is_refunded THEN 'refunded' WHEN lot.has_ended THEN 'expired' ELSE 'active' END
    AS state,
    value_on(
        lot.channel, 'renew', lot.lot, greatest(lot.starts_on, channel.settled_on)
    )::boolean AS renew,
    CASE WHEN lot.is_refunded THEN 0 ELSE coalesce((
        SELECT sum(lot_window.quota - lot_window.taken) - lot.expired FROM lot_window
        WHERE lot_window.channel = lot.channel AND lot_window.lot = lot.lot
    ), 0) / 1000 END AS pool,
    lot.expired::numeric / 1000 AS expired, lot.month_price, lot.price
FROM lot JOIN channel USING (channel);

CREATE VIEW channel_lot_month AS
SELECT lot.channel, lot.lot, lot.product, lot_window.number, lot_window.starts_on,
    least((lot.starts_on + make_interval(months => lot_window.number + 1))::date - 1, lot.ends_on)
    AS ends_on,
    lot_window.quota::numeric / 1000 AS quota, lot_window.maximum::numeric / 1000 AS maximum,
    lot_window.own::numeric / 1000 AS own, lot_window.carried::numeric / 1000 AS carried,
    lot_window.borrowed::numeric / 1000 AS borrowed,
    lot_window.minimum::numeric / 1000 AS minimum, lot_window.lent::numeric / 1000 AS lent
FROM lot JOIN lot_window USING (channel, lot) WHERE lot.product <> 'pu';
"""


def upgrade() -> None:
    for statements in (OBSERVATION, CALENDAR, VIEWS):
        # The driver prepares what it runs: one statement at a time.
        for statement in statements.split(";\n\n"):
            op.execute(statement)
