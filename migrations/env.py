"""Run migrations on the connection that is handed over, in the schema that it searches first."""

from alembic import context

from metering.storage.tables import metadata


def _keep(
    _object: object, name: str | None, kind: str, _reflected: bool, compare_to: object
) -> bool:
    # The months of the events are made as they come.
    return not (kind == "table" and compare_to is None and (name or "").startswith("event_"))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    include_object=_keep,
)
with context.begin_transaction():
    context.run_migrations()
