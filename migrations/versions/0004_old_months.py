"""Records of old months are let go of as tables, never row by row."""

from alembic import op

revision = "0004"
down_revision = "0003"

# Whoever meters may let go of old records, and of nothing else: what is open is counted again from
# its records, so this looks itself at what is open. Late events of earlier months count there too.
DROP_MONTHS = """
CREATE FUNCTION drop_months(oldest_kept smallint) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    month text;
    dropped integer := 0;
    first_open date := (SELECT min(open_from) - interval '3 months' FROM channel);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('lotmeter.ensure_month'));
    FOR month IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'event'::regclass
            AND substring(relname FROM '[0-9]+$')::integer < least(
                oldest_kept, extract(year FROM first_open) * 12 + extract(month FROM first_open) - 1
            )
    LOOP
        EXECUTE format('DROP TABLE %I', month);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

REVOKE ALL ON FUNCTION drop_months(smallint) FROM PUBLIC;
"""


def upgrade() -> None:
    # The driver prepares what it runs: one statement at a time.
    for statement in DROP_MONTHS.split(";\n\n"):
        op.execute(statement)
