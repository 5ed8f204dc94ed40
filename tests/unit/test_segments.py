"""How many segments a text is: the published examples, the alphabet, and every edge of a part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.segments import GSM_BASIC, GSM_EXTENSION, segments_of

SURROGATE_PAIR = "😀"


def slow_segments(text):
    """Fill part after part, character by character."""
    if GSM_BASIC.issuperset(set(text) - GSM_EXTENSION):
        widths = [2 if character in GSM_EXTENSION else 1 for character in text]
        alone, room = 160, 153
    else:
        widths = [2 if ord(character) > 0xFFFF else 1 for character in text]
        alone, room = 70, 67
    if sum(widths) <= alone:
        return 1
    parts = [0]
    for width in widths:
        if parts[-1] + width > room:
            parts.append(0)
        parts[-1] += width
    return len(parts)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("가" * 70, 1),
        ("가" * 71, 2),
        ("가" * 134, 2),
        ("가" * 135, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("a" * 152 + "€" + "a" * 152, 3),
        ("😀" * 35, 1),
        ("😀" * 36, 2),
        ("가" * 66 + "😀" + "가" * 66, 3),
    ],
)
def test_a_text_has_the_segments_of_the_published_examples(text, segments):
    assert segments_of(text) == segments


def test_segments_are_whole_numbers():
    texts = ("a" * 161, "€" * 81, "가" * 71, "😀" * 36)

    assert [repr(segments_of(text)) for text in texts] == ["2", "2", "2", "2"]


def test_the_alphabet_has_127_characters_and_10_more_by_escape():
    assert len(GSM_BASIC) == 127
    assert sorted(GSM_EXTENSION) == sorted("\f^{}\\[~]|€")


@pytest.mark.parametrize("character", sorted(GSM_BASIC))
def test_a_character_of_the_alphabet_takes_one_septet(character):
    assert segments_of(character * 160) == 1
    assert segments_of(character * 161) == 2


@pytest.mark.parametrize("character", sorted(GSM_EXTENSION))
def test_a_character_of_the_extension_takes_two_septets(character):
    assert segments_of(character * 80) == 1
    assert segments_of(character * 81) == 2
    assert segments_of("a" * 158 + character) == 1
    assert segments_of("a" * 159 + character) == 2


@pytest.mark.parametrize(
    "character",
    ["\x1b", "`", "\t", "\0", "ç", "Á", "\N{OHM SIGN}", "\N{GREEK CAPITAL LETTER ALPHA}"],
)
def test_a_character_of_neither_table_makes_the_whole_text_utf_16(character):
    assert segments_of("a" * 69 + character) == 1
    assert segments_of("a" * 70 + character) == 2


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        # 152 + a pair that does not fit: the second part begins with it and takes 151 more.
        ("a" * 152 + "€" + "a" * 151, 2),
        ("a" * 151 + "€" + "a" * 153, 2),
        ("a" * 151 + "€" + "a" * 154, 3),
        # Every part of nothing but pairs wastes a septet.
        ("€" * 152, 2),
        ("€" * 153, 3),
    ],
)
def test_an_escape_stays_with_what_it_escapes(text, segments):
    assert segments_of(text) == segments


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("가" * 66 + "😀" + "가" * 65, 2),
        ("가" * 65 + "😀" + "가" * 67, 2),
        ("가" * 65 + "😀" + "가" * 68, 3),
        ("😀" * 66, 2),
        ("😀" * 67, 3),
    ],
)
def test_the_halves_of_a_surrogate_pair_stay_together(text, segments):
    assert segments_of(text) == segments


@pytest.mark.parametrize(
    ("plain", "wide"), [("a", "€"), ("가", SURROGATE_PAIR), ("ç", "\U0010ffff")]
)
def test_one_wide_character_at_any_place_of_a_text_of_any_length_is_counted_exactly(plain, wide):
    for length in (*range(60, 75), *range(130, 165), *range(300, 312), *range(455, 463)):
        for place in range(length):
            text = plain * place + wide + plain * (length - place - 1)
            assert segments_of(text) == slow_segments(text), (length, place)


@pytest.mark.parametrize("alphabet", ["a€", "a€[", "가😀", "a€가😀", "a"])
def test_a_text_as_long_as_a_record_is_counted_exactly(alphabet):
    text = (alphabet * 65_536)[:65_536]

    assert segments_of(text) == slow_segments(text)


@given(
    runs=st.lists(
        st.tuples(st.sampled_from("a@\n€^|"), st.integers(1, 160)), min_size=1, max_size=8
    )
)
def test_any_text_of_the_alphabet_is_split_like_character_by_character(runs):
    text = "".join(character * times for character, times in runs)

    assert segments_of(text) == slow_segments(text)


@given(
    runs=st.lists(
        st.tuples(st.sampled_from("a€가😀\x1b\ud7ff\ue000"), st.integers(1, 70)), max_size=8
    )
)
def test_any_other_text_is_split_like_character_by_character(runs):
    text = "가" + "".join(character * times for character, times in runs)

    assert segments_of(text) == slow_segments(text)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400))
def test_any_unicode_text_is_split_like_character_by_character(text):
    assert segments_of(text) == slow_segments(text)
