"""How many SMS segments a text is sent in: its alphabet, and where it may be split."""

from __future__ import annotations

# The GSM 7-bit default alphabet (3GPP TS 23.038) in the order of its table. The escape itself is no character.
GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
# Sent as an escape and a second septet.
GSM_EXTENSION = frozenset("\f^{}\\[~]|€")

SEPTETS_ALONE = 160
SEPTETS_OF_A_PART = 153
UTF16_UNITS_ALONE = 70
UTF16_UNITS_OF_A_PART = 67

_GSM = GSM_BASIC | GSM_EXTENSION
_ESCAPE = "\x1b"

# Even if each of them took two septets or two UTF-16 units, they would fit into one segment.
_CHARACTERS_ALWAYS_ALONE = UTF16_UNITS_ALONE // 2


def segments_of(text: str) -> int:
    """Count the segments of a text; an empty one is the caller's business."""
    if len(text) <= _CHARACTERS_ALWAYS_ALONE:
        return 1
    return _gsm_segments(text) if _GSM.issuperset(text) else _ucs2_segments(text)


def _gsm_segments(text: str) -> int:
    septets = text
    for character in GSM_EXTENSION:
        septets = septets.replace(character, _ESCAPE + character)
    if len(septets) <= SEPTETS_ALONE:
        return 1
    if len(septets) == len(text):
        return -(-len(text) // SEPTETS_OF_A_PART)
    parts, start = 0, 0
    while start < len(septets):
        start += SEPTETS_OF_A_PART
        # A part that would end with an escape leaves it to the next one.
        if septets[start - 1 : start] == _ESCAPE:
            start -= 1
        parts += 1
    return parts


def _ucs2_segments(text: str) -> int:
    # Big endian, so that the first byte of a unit tells the first half of a surrogate pair.
    units = text.encode("utf-16-be")
    length = len(units) // 2
    if length <= UTF16_UNITS_ALONE:
        return 1
    if length == len(text):
        return -(-length // UTF16_UNITS_OF_A_PART)
    parts, start = 0, 0
    while start < length:
        start += UTF16_UNITS_OF_A_PART
        # A part that would end with the first half of a pair leaves it to the next one.
        if start < length and 0xD8 <= units[2 * start - 2] <= 0xDB:
            start -= 1
        parts += 1
    return parts
