"""Feed the decoding boundary with whatever reaches new code: one exception type may leave.

    make fuzz ARGS=-runs=1000000

Inputs grow from the scenarios that the project has. Ends with a status that is not 0, and the
input in a file, if anything but Rejected leaves, if a rejection quotes what it rejects, or if the
quick way of reading understands something else than the thorough one.
"""

import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["consumer", "metering"]):
    from consumer.decoding import Vocabulary, decode
    from consumer.readers import decoder_for
    from metering.catalog import shipped_catalog
    from metering.errors import Rejected

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
COMMANDS = "billing.commands"
SEEDS_MAX = 2_000

# Both modes of CloudEvents, on both kinds of topics.
STRUCTURED, BINARY = 0, 1
QUOTED_MIN = 12

read = decoder_for(shipped_catalog(), commands_topic=COMMANDS)
vocabulary = Vocabulary.of(shipped_catalog())


def expect_nothing_quoted(rejected, value):
    """Say why, and nothing of what."""
    assert rejected.__cause__ is None, "a cause quotes what was read"
    told = rejected.detail.encode()
    for start in range(0, min(len(value), 4_096) - QUOTED_MIN, QUOTED_MIN):
        piece = value[start : start + QUOTED_MIN]
        if piece in told and piece.decode("utf-8", "replace") not in _OWN_WORDS:
            raise AssertionError(f"{rejected.detail} quotes {piece!r}")


def try_one(data):
    """Decode one input; the first byte says how it is read."""
    if not data:
        return
    topic = COMMANDS if data[0] & 2 else "usage.workflow"
    headers, value = (), bytes(data[1:])
    if data[0] & 1:
        *pairs, value = value.split(b"\xff")
        headers = tuple(
            ("ce_" + name.decode("utf-8", "replace"), None if text == b"-" else text)
            for name, _, text in (pair.partition(b"=") for pair in pairs)
        )
        headers = (("ce_type", b"workflow.executed"), *headers)
    # Twice, as what was seen before is remembered; by another way, which remembers nothing.
    found = [understood(read, topic, value, headers) for _ in range(2)]
    topic_class = "commands" if topic == COMMANDS else "usage"
    thorough = understood(decode, topic_class, value, headers, vocabulary)
    assert found == [thorough, thorough], f"{found} and not {thorough}"


def understood(reader, topic, value, *more):
    """Say what a reader makes of a value, in a form that can be compared."""
    try:
        message = reader(topic, value, *more)
    except Rejected as rejected:
        expect_nothing_quoted(rejected, value)
        return rejected.reason
    assert message.channel
    assert len(message.digest) == len(message.content) > 0
    return repr(message)


_OWN_WORDS = (
    Path(sys.modules["consumer.decoding"].__file__).read_text()
    + Path(sys.modules["consumer.envelopes"].__file__).read_text()
)


def write_seeds(folder):
    """Begin with what the scenarios hold, in both modes."""
    count = 0
    for path in sorted(SCENARIOS.glob("*.ndjson")):
        for text in path.read_text().split("\n"):
            if not text or count >= SEEDS_MAX:
                continue
            line = json.loads(text)
            is_command = 2 * (line["topic"] == COMMANDS)
            event = line.get("event")
            value = line["raw"].encode("utf-8", "replace") if "raw" in line else b""
            if isinstance(event, dict):
                value = json.dumps(event, ensure_ascii=True).encode()
                attributes = b"\xff".join(
                    f"{name}={text}".encode("utf-8", "replace")
                    for name, text in event.items()
                    if isinstance(text, str)
                )
                data = json.dumps(event.get("data")).encode()
                binary = bytes([BINARY + is_command]) + attributes + b"\xff" + data
                (folder / f"{count}-b").write_bytes(binary)
            (folder / f"{count}-s").write_bytes(bytes([STRUCTURED + is_command]) + value)
            count += 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="lotmeter-fuzz-") as seeds:
        write_seeds(Path(seeds))
        atheris.Setup([sys.argv[0], "-max_len=70000", *sys.argv[1:], seeds], try_one)
        atheris.Fuzz()
