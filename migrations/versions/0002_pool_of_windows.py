"""A lot's pool is what its windows still hold: kept once, each draw writes one row less."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # The windows cannot give more than their quotas, so neither can the lot.
    op.execute("ALTER TABLE lot DROP CONSTRAINT lot_is_never_overdrawn")
    op.execute("ALTER TABLE lot DROP COLUMN pool")
    op.execute("ALTER TABLE lot ADD CONSTRAINT lot_expires_once CHECK (expired >= 0)")
    op.execute(
        "ALTER TABLE lot_window"
        " RENAME CONSTRAINT lot_window_gives_its_quota_once TO lot_is_never_overdrawn"
    )
