"""Read one line of a scenario: a valid record, or the reason why it is none."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import available_timezones

THOUSANDTHS = 1000  # Quantities are integers of a thousandth: half units occur.

VALUE_BYTES_MAX = 65_536
TEXT_CHARACTERS_MAX = 255
COUNT_MAX = 10**9
MESSAGE_COUNT_MAX = 10**6
SEGMENTS_MAX = 255
LIMIT_MAX = 10**12

COMMANDS_TOPIC = "billing.commands"
USAGE_TOPICS = {"usage.mu", "usage.seat", "usage.workflow", "usage.message"}
COMMAND_TYPES = {
    "channel.registered",
    "channel.changed",
    "limit.set",
    "lot.purchased",
    "lot.scheduled",
    "reservation.changed",
    "reservation.cancelled",
    "lot.renewal_set",
    "lot.refunded",
}
USAGE_TYPES = {
    "mu.counted",
    "seat.assigned",
    "seat.released",
    "workflow.executed",
    "marketing.sent",
    "message.sent",
    "usage.voided",
}
TIME_ZONES = available_timezones()
PLANS = {"free", "trial", "early_stage", "growth", "enterprise"}
PRODUCTS = {
    "mu",
    "basic_seat",
    "operator_seat",
    "workflow",
    "marketing",
    "white_label",
    "security_bundle",
    "pu",
}

FLAT_PRICES = {"kakao_infotalk": 7_000, "kakao_cstalk": 80_000, "sms": 10_000, "lms": 28_000}
GLOBAL_MESSAGE_PRICE = 14_000
GLOBAL_SEGMENT_PRICES = {"US": 14_500, "CA": 14_500, "JP": 109_000}

GSM_BASIC = set(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_EXTENSION = set("\f^{}\\[~]|€")

TIME = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})[Tt](\d{2}):(\d{2}):(\d{2})(?:\.(\d+))?(?:([Zz])|([+-])(\d{2}):(\d{2}))",
    re.ASCII,
)


class Reject(Exception):
    """The record cannot be taken, for this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Record:
    """One event or command that can be read; `data` holds only known keys, as understood."""

    type: str
    channel: str
    source: str
    id: str
    time: datetime
    data: dict[str, Any]

    @property
    def identity(self) -> tuple[str, str, str]:
        """An event or command is identified by channel, source and id."""
        return (self.channel, self.source, self.id)

    @property
    def content(self) -> tuple[str, datetime, str]:
        """Content is the type, the instant and the known keys of `data` as understood."""
        return (self.type, self.time, json.dumps(self.data, sort_keys=True))

    @property
    def is_command(self) -> bool:
        """Say whether this instructs rather than reports."""
        return self.type in COMMAND_TYPES


def read_line(line: dict[str, Any]) -> tuple[Record | str, datetime | None]:
    """Return the record or its reject reason, and the time of the event if it can be read."""
    event, size = _value(line)
    at = read_time(event.get("time")) if isinstance(event, dict) else None
    try:
        return _record(line.get("topic"), event, size), at
    except Reject as rejection:
        return rejection.reason, at


def read_time(text: object) -> datetime | None:
    """Read an RFC 3339 time with an offset; None where it is not one."""
    match = TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, _, sign, hours, minutes = match.groups()
    try:
        if sign is None:
            zone = UTC
        elif int(minutes) > 59:
            return None
        else:
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            zone = timezone(-offset if sign == "-" else offset)
        # Digits of a second beyond microseconds are cut.
        microsecond = int(((fraction or "") + "000000")[:6])
        local = datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second), microsecond, zone
        )
        return local.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def segments_of(text: str) -> int:
    """Count the parts of a message text; no pair is ever split between two of them."""
    if all(character in GSM_BASIC or character in GSM_EXTENSION for character in text):
        sizes = [2 if character in GSM_EXTENSION else 1 for character in text]
        alone, split = 160, 153
    else:
        sizes = [2 if ord(character) > 0xFFFF else 1 for character in text]
        alone, split = 70, 67
    if sum(sizes) <= alone:
        return 1
    parts, room = 1, split
    for size in sizes:
        if size > room:
            parts, room = parts + 1, split
        room -= size
    return parts


def _value(line: dict[str, Any]) -> tuple[Any, int]:
    """Return what the value of a line says, None if it is no JSON, and its size in bytes."""
    if "raw" in line:
        raw = line["raw"]
        size = len(raw.encode("utf-8", "surrogatepass"))
        try:
            return json.loads(raw, parse_constant=_no_constant), size
        except (ValueError, RecursionError):
            return None, size
    event = line.get("event")
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return event, len(text.encode("utf-8", "surrogatepass"))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _record(topic: object, event: Any, size: int) -> Record:
    """Check a whole event, in the order of the reject reasons."""
    if size > VALUE_BYTES_MAX:
        raise Reject("too_large")
    if not isinstance(event, dict) or not _is_storable(event):
        raise Reject("malformed")
    if event.get("specversion", "1.0") != "1.0":
        raise Reject("malformed")
    source, identifier, subject = (_text(event, key) for key in ("source", "id", "subject"))
    kind = event.get("type")
    at = read_time(event.get("time"))
    if not isinstance(kind, str) or not kind or at is None:
        raise Reject("malformed")
    if kind not in COMMAND_TYPES | USAGE_TYPES:
        raise Reject("unknown_type")

    data = event.get("data")
    if not isinstance(data, dict):
        raise Reject("malformed")
    known, problem = _known(kind, data)
    if topic not in ({COMMANDS_TOPIC} if kind in COMMAND_TYPES else USAGE_TOPICS):
        raise Reject("wrong_topic")
    if problem:
        raise Reject(problem)
    return Record(type=kind, channel=subject, source=source, id=identifier, time=at, data=known)


def _is_storable(value: Any) -> bool:
    """Say whether no NUL, no lone surrogate and no integer beyond 64 bits is anywhere in it."""
    if isinstance(value, str):
        return not any(
            character == "\0" or "\ud800" <= character <= "\udfff" for character in value
        )
    if isinstance(value, dict):
        return all(_is_storable(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return all(_is_storable(part) for part in value)
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def _known(kind: str, data: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the known keys of `data` as understood, and a reason that comes after wrong_topic."""
    known: dict[str, Any]
    match kind:
        case "message.sent":
            return _message(data)
        case "mu.counted":
            known = {"count": _integer(data, "count", 0, COUNT_MAX)}
        case "seat.assigned" | "seat.released":
            seat = _one_of(data, "seat", {"basic", "operator"})
            known = {"seat": seat, "manager": _text(data, "manager")}
        case "workflow.executed":
            known = {"actions": _integer(data, "actions", 1, COUNT_MAX)}
        case "marketing.sent":
            known = {"messages": _integer(data, "messages", 1, COUNT_MAX)}
        case "usage.voided":
            known = {key: _text(data, key) for key in ("source", "id", "reason")}
        case _:
            known = _command(kind, data)
    return known, ""


def _message(data: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Understand a message: what it was, and what it costs in thousandths of a PU."""
    known: dict[str, Any] = {
        "kind": _text(data, "kind"),
        "count": _integer(data, "count", 1, MESSAGE_COUNT_MAX),
        "provider": _text(data, "provider") if "provider" in data else None,
    }
    is_own_account = known["provider"] == "twilio"
    if known["kind"] in FLAT_PRICES:
        price = FLAT_PRICES[known["kind"]]
    elif known["kind"] == "global_sms":
        known["country"] = _text(data, "country")
        if "segments" in data:
            known["segments"] = _integer(data, "segments", 1, SEGMENTS_MAX)
        else:
            text = data.get("text")
            if not isinstance(text, str):
                raise Reject("malformed")
            if not text:
                return known, "empty_text"
            known["segments"] = segments_of(text)
        if not is_own_account and known["country"] not in GLOBAL_SEGMENT_PRICES:
            return known, "no_price"
        rate = GLOBAL_SEGMENT_PRICES.get(known["country"], 0)
        price = GLOBAL_MESSAGE_PRICE + rate * known["segments"]
    else:
        return known, "no_price"
    known["pu"] = 0 if is_own_account else price * known["count"]
    return known, ""


def _command(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    if kind == "channel.registered":
        known = _channel_values(data)
        is_trial_without_end = known.get("plan") == "trial" and "trial_ends_on" not in known
        if is_trial_without_end or not known.keys() >= {"plan", "billing_day"}:
            raise Reject("malformed")
        return {**known, "time_zone": _one_of(data, "time_zone", TIME_ZONES)}
    if kind == "channel.changed":
        known = _channel_values(data)
        if not known:
            raise Reject("malformed")
        return known
    if kind == "limit.set":
        if "limit" not in data:
            raise Reject("malformed")
        limit = None if data["limit"] is None else _integer(data, "limit", 0, LIMIT_MAX)
        return {"product": _one_of(data, "product", PRODUCTS), "limit": limit}
    return _lot_command(kind, data)


def _channel_values(data: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    if "plan" in data:
        known["plan"] = _one_of(data, "plan", PLANS)
    if "billing_day" in data:
        is_end = data["billing_day"] == "end"
        known["billing_day"] = "end" if is_end else _integer(data, "billing_day", 1, 27)
    if "trial_ends_on" in data:
        known["trial_ends_on"] = _date(data, "trial_ends_on")
    return known


def _lot_command(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {"lot": _text(data, "lot")}
    is_new = kind in ("lot.purchased", "lot.scheduled")
    if is_new:
        if "~" in known["lot"]:
            raise Reject("malformed")
        known["product"] = _one_of(data, "product", PRODUCTS)
    if is_new or (kind == "reservation.changed" and "quantity" in data):
        known["quantity"] = _integer(data, "quantity", -(2**63), 2**63 - 1)
    if is_new or kind == "lot.renewal_set" or (kind == "reservation.changed" and "renew" in data):
        known["renew"] = data.get("renew", True if is_new else None)
        if not isinstance(known["renew"], bool):
            raise Reject("malformed")
    if kind == "reservation.changed" and len(known) == 1:
        raise Reject("malformed")
    return known


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not 1 <= len(value) <= TEXT_CHARACTERS_MAX:
        raise Reject("malformed")
    return value


def _one_of(data: dict[str, Any], key: str, choices: set[str]) -> str:
    value = data.get(key)
    if not isinstance(value, str) or value not in choices:
        raise Reject("malformed")
    return value


def _integer(data: dict[str, Any], key: str, least: int, most: int) -> int:
    value = data.get(key)
    # A boolean is an int to Python; a float is none even where it is whole.
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Reject("malformed")
    return value


def _date(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        raise Reject("malformed")
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise Reject("malformed") from None
