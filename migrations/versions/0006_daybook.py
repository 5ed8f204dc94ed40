"""One row of a channel and day holds its tallies and fills, of all products; there was one of each.

A visit of a channel changes most of a day's sums. What read the two tables reads views of their
names. Whom they were granted to is asked again after it: `lotmeter migrate` grants.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

DAYBOOK = """
CREATE TABLE daybook (
    channel TEXT NOT NULL,
    on_day DATE NOT NULL,
    tallies TEXT NOT NULL,
    tallied TEXT NOT NULL,
    fills TEXT NOT NULL,
    filled TEXT NOT NULL,
    CONSTRAINT daybook_pkey PRIMARY KEY (channel, on_day),
    CONSTRAINT tally_is_not_negative CHECK (tallied NOT LIKE '%-%'),
    CONSTRAINT fill_is_not_negative CHECK (filled NOT LIKE '%-%')
)
 WITH (fillfactor = 70, toast_tuple_target = 8160);

INSERT INTO daybook
SELECT channel, on_day, coalesce(tallies, '[]'), coalesce(tallied, '[]'), coalesce(fills, '[]'),
    coalesce(filled, '[]')
FROM (
    SELECT channel, on_day, json_agg(json_build_array(product, kind))::text AS tallies,
        json_agg(json_build_array(quantity, messages))::text AS tallied
    FROM tally GROUP BY channel, on_day
) AS tallied_day FULL JOIN (
    SELECT channel, on_day,
        json_agg(json_build_array(product, source, lot, window_number, quota_number))::text
        AS fills, json_agg(quantity)::text AS filled
    FROM fill WHERE quantity > 0 GROUP BY channel, on_day
) AS filled_day USING (channel, on_day);

DROP VIEW channel_daily_usage, channel_cycle_usage;

DROP TABLE tally, fill;

CREATE VIEW tally AS
SELECT channel, of ->> 0 AS product, on_day, of ->> 1 AS kind,
    (come_to ->> 0)::bigint AS quantity, (come_to ->> 1)::bigint AS messages
FROM daybook, ROWS FROM (
    json_array_elements(tallies::json), json_array_elements(tallied::json)
) AS sum (of, come_to);

CREATE VIEW fill AS
SELECT channel, of ->> 0 AS product, on_day, of ->> 1 AS source, of ->> 2 AS lot,
    (of ->> 3)::smallint AS window_number, (of ->> 4)::smallint AS quota_number,
    come_to::bigint AS quantity
FROM daybook, ROWS FROM (
    json_array_elements(fills::json), json_array_elements_text(filled::json)
) AS sum (of, come_to);

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
WHERE channel.open_from IS NOT NULL AND fill.source NOT IN ('minimum', 'expired')
GROUP BY channel.channel, open_cycle.starts_on, open_cycle.ends_on, fill.product;

CREATE VIEW channel_daily_usage AS
SELECT channel, product, on_day, source, sum(quantity) / 1000 AS units
FROM fill GROUP BY channel, product, on_day, source;
"""


def upgrade() -> None:
    # The driver prepares what it runs: one statement at a time.
    for statement in DAYBOOK.split(";\n\n"):
        op.execute(statement)
