"""A month of a lot has a row once something is booked on it; most never have one.

Rows that were written for months of which nothing is booked stay: they say the same.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

VIEWS = """
CREATE FUNCTION quotas_of(product text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN product = 'pu' THEN 1
    WHEN product IN ('white_label', 'security_bundle') THEN 0
    ELSE 12
END;

CREATE OR REPLACE VIEW channel_lot AS
SELECT lot.channel, lot.lot, lot.product, lot.quota::numeric / 1000 AS quantity,
    lot.starts_on, lot.ends_on,
    CASE WHEN lot.is_refunded THEN 'refunded' WHEN lot.has_ended THEN 'expired' ELSE 'active' END
    AS state,
    value_on(
        lot.channel, 'renew', lot.lot, greatest(lot.starts_on, channel.settled_on)
    )::boolean AS renew,
    CASE WHEN lot.is_refunded THEN 0 ELSE (
        lot.quota * quotas_of(lot.product) - lot.expired - coalesce((
            SELECT sum(lot_window.taken) FROM lot_window
            WHERE lot_window.channel = lot.channel AND lot_window.lot = lot.lot
        ), 0)
    ) / 1000 END AS pool,
    lot.expired::numeric / 1000 AS expired, lot.month_price, lot.price
FROM lot JOIN channel USING (channel);

CREATE OR REPLACE VIEW channel_lot_month AS
SELECT lot.channel, lot.lot, lot.product, month.number::smallint AS number,
    (lot.starts_on + make_interval(months => month.number))::date AS starts_on,
    least((lot.starts_on + make_interval(months => month.number + 1))::date - 1, lot.ends_on)
    AS ends_on,
    lot.quota::numeric / 1000 AS quota, 2 * lot.quota::numeric / 1000 AS maximum,
    coalesce(lot_window.own, 0)::numeric / 1000 AS own,
    coalesce(lot_window.carried, 0)::numeric / 1000 AS carried,
    coalesce(lot_window.borrowed, 0)::numeric / 1000 AS borrowed,
    coalesce(lot_window.minimum, 0)::numeric / 1000 AS minimum,
    coalesce(lot_window.lent, 0)::numeric / 1000 AS lent
FROM lot CROSS JOIN generate_series(0, quotas_of(lot.product) - 1) AS month (number)
LEFT JOIN lot_window ON lot_window.channel = lot.channel AND lot_window.lot = lot.lot
    AND lot_window.number = month.number
WHERE lot.product <> 'pu';
"""


def upgrade() -> None:
    # The driver prepares what it runs: one statement at a time.
    for statement in VIEWS.split(";\n\n"):
        op.execute(statement)
