"""What every member, and every message that waits to be sent, takes of memory."""

import subprocess
import sys
import tracemalloc
from datetime import date

from metering.lifecycle import Happening
from metering.storage.outbox_store import draft_notice, pack_headers


def test_running_never_loads_the_library_of_migrations():
    asked = (
        "import sys, consumer.cli, consumer.service; print({'alembic', 'mako'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True)

    assert done.stdout == "set()\n"


def test_a_message_that_waits_takes_hardly_more_than_its_bytes():
    happening = Happening("postpaid", "workflow", date(2024, 1, 5), {"quantity": "1"})
    drafts = []

    tracemalloc.start()
    for number in range(100):
        draft = draft_notice("UTC", f"c-{number}", happening)
        drafts.append((draft, pack_headers((("reason", b"x"),))))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    written = sum(len(draft.value) + len(headers) for draft, headers in drafts)
    assert taken < written + 100 * 1_000
