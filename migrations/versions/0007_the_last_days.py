"""The last days of a channel are found without those before them, however many there are."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE reading DROP CONSTRAINT reading_pkey,"
        " ADD CONSTRAINT reading_pkey PRIMARY KEY (channel, on_day, product, person)"
    )
    op.execute("CREATE INDEX notice_by_channel_and_day ON notice (channel, on_day)")
