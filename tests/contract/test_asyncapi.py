"""docs/asyncapi.yaml says of every message what the system really reads and writes."""

import copy
import itertools
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
import yaml
from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError

from consumer.readers import decoder_for
from consumer.settings import Settings
from consumer.traffic import Traffic
from consumer.wall_clock import now_instant
from metering.catalog import PLANS, PRODUCTS, shipped_catalog
from metering.errors import REFUSAL_REASONS, REJECT_REASONS, Rejected
from tests import builders
from tests.running import a_member, a_service, books_of, lotmeter, publish, read_topic, until

DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "docs" / "asyncapi.yaml").read_text())
SCHEMAS, MESSAGES = DOCUMENT["components"]["schemas"], DOCUMENT["components"]["messages"]
CHANNELS = DOCUMENT["channels"]
READ = ("mu", "seat", "workflow", "message", "commands")

CATALOG = shipped_catalog()
EVENTS, CUSTOMERS = 1_500, 12


def validator(name):
    """Make what checks a payload, with the whole document for its references."""
    return Draft7Validator(
        {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    )


def types_of(name):
    """Say which types of event a schema is for."""
    *_, own = SCHEMAS[name]["allOf"]
    kind = own["properties"]["type"]
    return kind.get("enum", [kind.get("const")])


def messages_of(channel):
    """Name the messages of a channel, by the type of event each is for."""
    names = CHANNELS[channel]["messages"]
    return {kind: name for name in names if name != "deadLetter" for kind in types_of(name)}


NAMES = {kind: name for channel in CHANNELS for kind, name in messages_of(channel).items()}


def faults_of(event):
    """List what the document has against an event, whose type says which message it is."""
    name = NAMES.get(str(event.get("type")))
    if name is None:
        return ["there is no such type"]
    return [error.message for error in validator(name).iter_errors(event)]


def references(part):
    if isinstance(part, dict):
        yield from ([part["$ref"]] if "$ref" in part else ())
        yield from itertools.chain.from_iterable(map(references, part.values()))
    elif isinstance(part, list):
        yield from itertools.chain.from_iterable(map(references, part))


def test_every_reference_leads_somewhere_and_every_schema_is_one():
    for reference in references(DOCUMENT):
        found = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    for name in SCHEMAS:
        Draft7Validator.check_schema(SCHEMAS[name])
    assert DOCUMENT["asyncapi"] == "3.0.0"


def test_every_message_is_on_a_channel_and_every_channel_in_an_operation():
    used = {name for channel in CHANNELS.values() for name in channel["messages"]}
    told = {operation["channel"]["$ref"] for operation in DOCUMENT["operations"].values()}

    assert used == set(MESSAGES)
    assert told == {f"#/channels/{name}" for name in CHANNELS}


def test_topics_are_those_of_the_settings():
    settings = Settings.from_environ(
        {"LOTMETER_KAFKA_SERVERS": "h:1", "LOTMETER_DATABASE_URL": "postgresql://u@h/d"}
    )

    assert [CHANNELS[name]["address"] for name in READ] == list(settings.topics)
    assert [CHANNELS[name]["address"] for name in ("notices", "statements", "deadLetters")] == [
        settings.notices_topic,
        settings.statements_topic,
        settings.dead_letters_topic,
    ]


def test_names_are_those_of_the_code():
    assert SCHEMAS["product"]["enum"] == list(PRODUCTS)
    assert SCHEMAS["plan"]["enum"] == list(PLANS)
    assert SCHEMAS["refusal"]["enum"] == list(REFUSAL_REASONS)
    headers = SCHEMAS["deadLetterHeaders"]["properties"]
    assert headers["lotmeter-reason"]["enum"] == list(REJECT_REASONS)


@pytest.mark.parametrize("name", [name for name in MESSAGES if "examples" in MESSAGES[name]])
def test_examples_are_read(name):
    for example in MESSAGES[name]["examples"]:
        event = example["payload"]
        topic = (
            "billing.commands"
            if NAMES[event["type"]] in CHANNELS["commands"]["messages"]
            else "usage.mu"
        )

        assert faults_of(event) == []
        assert read(event, topic)


def read(event, topic=None):
    """Say whether the decoder understands an event on the topic where it belongs."""
    if topic is None:
        is_command = str(event.get("type")) in messages_of("commands")
        topic = "billing.commands" if is_command else "usage.mu"
    decode = decoder_for(CATALOG, commands_topic="billing.commands")
    try:
        decode(topic, orjson.dumps(event), ())
    except Rejected:
        return False
    return True


AT = "2026-11-25T09:30:00+09:00"
SOUND = [
    builders.contacts(AT, 0),
    builders.assigned(AT),
    builders.released(AT, seat="basic"),
    builders.workflow(AT, 3),
    builders.marketing(AT, 250_000),
    builders.message(AT),
    builders.message(AT, "global_sms", country="US", segments=2),
    builders.message(AT, "global_sms", country="JP", text="가"),
    builders.message(AT, "global_sms", country="AU", segments=2, provider="twilio"),
    builders.message(AT, "lms", country="AU", provider="own"),
    builders.voided(AT, builders.workflow(AT, 1)),
    builders.registered(AT),
    builders.registered(AT, plan="trial", billing_day="end", trial_ends_on="2026-12-01"),
    builders.changed(AT, plan="growth"),
    builders.changed(AT, billing_day=27, trial_ends_on="2026-12-01"),
    builders.limit_set(AT, "mu", 0),
    builders.limit_set(AT, "mu", None),
    builders.purchased(AT, "workflow", 1_000),
    builders.scheduled(AT, "pu", -5, renew=True),
    builders.reservation_changed(AT, quantity=5),
    builders.reservation_changed(AT, "l-1~2", renew=False),
    builders.reservation_cancelled(AT),
    builders.renewal_set(AT, renew=True),
    builders.refunded(AT),
]
# What a value may be replaced by, to see whether both still say the same.
STRANGE = (
    None, True, -1, 0, 1, 255, 256, 10**6, 10**6 + 1, 10**9, 10**9 + 1, 10**12 + 1, 2**63, 1.5,
    "", "x", "x" * 255, "x" * 256, "가" * 255, "a~2", "end", "trial", "mu", "global_sms", "twilio",
    "2026-12-01", "2026-13-01", "2026-11-25 09:30:00Z", "2026-11-25T09:30:00",
    "2026-11-25t24:00:00Z",
    "2026-11-25T09:30:60Z", "2026-11-25t09:30:00.1234567z", [], {}, "Asia/Seoul",
)  # fmt: skip


def changed_events():
    """Take every key of every sound event away, and put every strange value in its place."""
    for line in SOUND:
        event = line["event"]
        for part, key in [(None, key) for key in event] + [("data", key) for key in event["data"]]:
            for strange in (KeyError, *STRANGE):
                other = copy.deepcopy(event)
                place = other if part is None else other[part]
                if strange is KeyError:
                    del place[key]
                else:
                    place[key] = strange
                yield other


def is_beyond_a_schema(event):
    """Say whether only words can say it: the name of a time zone."""
    zone = event["data"].get("time_zone") if isinstance(event.get("data"), dict) else None
    return isinstance(zone, str) and "/" not in zone


@pytest.mark.parametrize("line", SOUND, ids=lambda line: line["event"]["type"])
def test_sound_events_are_sound_to_both(line):
    assert faults_of(line["event"]) == []
    assert read(line["event"])


def test_decoder_and_document_say_the_same_of_changed_events():
    verdicts = {True: 0, False: 0}
    for event in changed_events():
        if is_beyond_a_schema(event):
            continue
        is_sound = not faults_of(event)

        assert read(event) == is_sound, event
        verdicts[is_sound] += 1
    assert min(verdicts.values()) > 500


@pytest.fixture(scope="module")
def traffic():
    return Traffic(events=EVENTS, channels=CUSTOMERS, seed=3, now=now_instant(), catalog=CATALOG)


def test_traffic_is_as_the_document_says_and_its_faults_are_not(traffic):
    sound = faulty = 0
    for message in itertools.chain(traffic.commands(), traffic.usage()):
        try:
            event = orjson.loads(message.value)
        except orjson.JSONDecodeError:
            continue
        is_home = (event["type"] in messages_of("commands")) == (
            message.topic == "billing.commands"
        )
        is_sound = not faults_of(event)
        # Size and home are said in words.
        if is_home and len(message.value) <= 65_536:
            assert is_sound == read(event), event
        sound, faulty = sound + is_sound, faulty + (not is_sound)
    assert sound > EVENTS * 0.9
    assert faulty > 0


def check(name, payload):
    try:
        validator(name).validate(payload)
    except ValidationError as error:
        pytest.fail(f"{name}: {error.message} in {payload}")


async def test_what_the_system_writes_is_as_the_document_says(broker, fresh_database_url):
    environ = await a_service(broker, fresh_database_url)
    places = {"billing.commands": environ["LOTMETER_COMMANDS_TOPIC"]} | {
        f"usage.{topic.rpartition('.')[2]}": topic
        for topic in environ["LOTMETER_USAGE_TOPICS"].split(",")
    }
    traffic = Traffic(events=EVENTS, channels=CUSTOMERS, seed=4, now=now_instant(), catalog=CATALOG)
    messages = [*traffic.commands(), *traffic.usage()]
    now = datetime.now(UTC).isoformat()
    channel = traffic.customers[0].channel
    more = [
        builders.refunded(now, "no-such-lot", channel=channel),
        builders.scheduled(now, "pu", 100, "later", channel=channel),
        builders.limit_set(now, "pu", 1, channel=channel),
    ]
    async with a_member(environ), books_of(environ) as books:
        await publish(broker, [(places[each.topic], each.value) for each in messages])
        await publish(broker, [(places[line["topic"]], line["event"]) for line in more])
        read = "SELECT sum(next_offset - start_offset)::bigint FROM position"
        await until(books, read, len(messages) + len(more))
        # Commands of the command line are commands like any other.
        for words in (
            ["lot", "purchase", channel, "cli-1=pu:100", "--yes"],
            ["limit", channel, "mu", "none"],
            ["lot", "reserve-change", channel, "later", "--quantity", "200", "--no-renew"],
            ["lot", "renewal", channel, "lot-1", "off"],
            ["channel", "change", channel, "--billing-day", "end"],
        ):
            status, _, errors = await lotmeter(environ, *words)
            assert (status, errors) == (0, "")
        await until(books, read, len(messages) + len(more) + 5)
        await until(books, "SELECT count(*) FROM outbox", 0)
        notices, cycles, rejects = [
            await books.fetchval(f"SELECT count(*) FROM {table}")
            for table in ("notice", "cycle", "reject")
        ]
        commands = await books.fetchval(
            "SELECT sum(next_offset - start_offset)::bigint FROM position WHERE topic = $1",
            environ["LOTMETER_COMMANDS_TOPIC"],
        )
    assert min(notices, cycles, rejects) > 0

    seen = set()
    for record in await read_topic(broker, environ["LOTMETER_NOTICES_TOPIC"], notices):
        event = orjson.loads(record.value)
        check(messages_of("notices")[event["type"]], event)
        assert event["type"] == f"lotmeter.notice.{event['data']['kind']}"
        assert record.key == event["subject"].encode()
        seen.add(messages_of("notices")[event["type"]])
    assert seen >= {
        "thresholdNotice",
        "limitNotice",
        "borrowingNotice",
        "postpaidNotice",
        "lotNotice",
        "refusedCommandNotice",
    }
    for record in await read_topic(broker, environ["LOTMETER_STATEMENTS_TOPIC"], cycles):
        event = orjson.loads(record.value)
        check("cycleClosed", event)
        assert record.key == f"{event['subject']}|{event['data']['starts_on']}".encode()
    for record in await read_topic(broker, environ["LOTMETER_DEAD_LETTERS_TOPIC"], rejects):
        check("deadLetterHeaders", {name: value.decode() for name, value in record.headers})
    typed = [
        orjson.loads(record.value)
        for record in await read_topic(broker, environ["LOTMETER_COMMANDS_TOPIC"], commands)
        if b"/lotmeter/cli" in record.value
    ]
    assert len(typed) == 5
    for event in typed:
        check(messages_of("commands")[event["type"]], event)
