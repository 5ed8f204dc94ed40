"""How many SMS segments a text is sent in: its alphabet, and where it may be split."""

from __future__ import annotations

# The GSM 7-bit default alphabet in the order of its table. The escape itself is no character of it.
GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
# Sent as the escape and a second septet.
GSM_EXTENSION = frozenset("\f^{}\\[~]|€")
ESCAPE = "\x1b"

SEPTETS_ALONE = 160
SEPTETS_OF_A_PART = 153
UTF16_UNITS_ALONE = 70
UTF16_UNITS_OF_A_PART = 67

_GSM = GSM_BASIC | GSM_EXTENSION

# The first bytes of the UTF-16 units that begin a surrogate pair.
_PAIR_BEGINS = range(0xD8, 0xDC)


def segments_of(text: str) -> int:
    """Count the segments of a text; an empty one is the caller's business."""
    if GSM_BASIC.issuperset(text):
        return _even_segments(len(text), SEPTETS_ALONE, SEPTETS_OF_A_PART)
    if _GSM.issuperset(text):
        return _escaped_segments(text)
    return _utf16_segments(text)


def _even_segments(length: int, alone: int, part: int) -> int:
    """Count the segments of what can be split anywhere."""
    return 1 if length <= alone else -(-length // part)


def _escaped_segments(text: str) -> int:
    septets = text
    for character in GSM_EXTENSION:
        septets = septets.replace(character, ESCAPE + character)
    if len(septets) <= SEPTETS_ALONE:
        return 1
    segments = end = 0
    while end < len(septets):
        segments += 1
        end += SEPTETS_OF_A_PART
        # An escape at the end of a part goes to the next one, with what it escapes.
        end -= septets.startswith(ESCAPE, end - 1)
    return segments


def _utf16_segments(text: str) -> int:
    octets = text.encode("utf-16-be")
    length = len(octets) // 2
    if length == len(text) or length <= UTF16_UNITS_ALONE:
        return _even_segments(length, UTF16_UNITS_ALONE, UTF16_UNITS_OF_A_PART)
    segments = end = 0
    while end < length:
        segments += 1
        end += UTF16_UNITS_OF_A_PART
        # The first half of a pair at the end of a part goes to the next one, with the second.
        end -= end < length and octets[2 * end - 2] in _PAIR_BEGINS
    return segments
