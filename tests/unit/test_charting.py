"""Pictures say in words what they show, whatever a channel is called."""

from datetime import date
from itertools import pairwise

import pytest

from consumer import charting_files
from consumer.charting_words import MONTHS_MAX, brief, month_names, picture_of
from metering.months import PARTS, Month
from metering.periods import ONE_DAY, add_months


def months(number, *, first=date(2024, 11, 1), **values):
    found = []
    for place in range(number):
        starts_on = add_months(first, place)
        month = Month(starts_on, add_months(first, place + 1) - ONE_DAY, place < number - 1)
        month.parts.update(dict.fromkeys(PARTS, 10_000))
        for name, value in values.items():
            setattr(month, name, value)
        found.append(month)
    return found


def words_of(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_only_the_newest_months_are_drawn_and_it_says_so():
    picture = picture_of("c-1", {"workflow": months(MONTHS_MAX + 7)})

    assert len(picture.products["workflow"]) == MONTHS_MAX
    assert "the last 24 of 31 months" in picture.subtitle
    assert picture.subtitle.endswith("to 31 May 2027")


def test_months_before_anything_was_used_or_bought_are_left_out():
    quiet, used = months(5, parts=dict.fromkeys(PARTS, 0)), months(5)
    for month in used[:2]:
        month.parts.update(dict.fromkeys(PARTS, 0))
    used[1].included = 1_000

    picture = picture_of("c-1", {"mu": quiet, "workflow": used})

    assert {product: len(found) for product, found in picture.products.items()} == {
        "mu": 4,
        "workflow": 4,
    }


def test_each_year_is_named_once():
    assert month_names(months(4)) == ["Nov\n2024", "Dec", "Jan\n2025", "Feb"]
    assert month_names(months(3, first=date(2024, 11, 15))) == [
        "15 Nov\n2024",
        "15 Dec",
        "15 Jan\n2025",
    ]
    assert month_names(months(4), named=[1, 4]) == ["Nov\n2024", "Dec", "Jan", "Feb\n2025"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0"),
        (50.5, "50.5"),
        (1_234_567, "1,234,567"),
        (12_340_000, "12.34 M"),
        (119_999_999_988, "120 bn"),
    ],
)
def test_numbers_beside_lines_are_brief(number, words):
    assert brief(number) == words


def test_what_the_plan_includes_is_told_as_it_is_not_drawn():
    picture = picture_of("c-1", {"mu": months(2, included=3_000_000)})

    assert picture.notes == (
        "Not drawn: what the plan includes, at most 3000 contacts of mu in one month.",
    )


def test_parts_are_stacked_and_levels_are_lines():
    picture = picture_of(
        "c-1",
        {"workflow": months(3, quota=20_000, minimum=10_000, maximum=40_000, pool=90_000)},
    )

    axes, pool = charting_files.figure_of(picture).axes

    bars = {container.get_label(): list(container) for container in axes.containers}
    assert list(bars) == list(PARTS)
    assert [bars[part][0].get_y() for part in PARTS] == [0, 10, 20, 30, 40]
    assert {line.get_label(): max(line.get_ydata()) for line in axes.lines} == {
        "quota": 20,
        "minimum": 10,
        "maximum": 40,
    }
    assert [bar.get_height() for bar in pool.containers[0]] == [90, 90, 90]


def test_postpaid_is_labelled_with_what_it_costs():
    priced = picture_of("c-1", {"workflow": months(1, amount="1234.50")})
    unpriced = picture_of("c-1", {"mu": months(1)})

    assert "$1,234.50" in words_of(charting_files.figure_of(priced))
    assert "10" in words_of(charting_files.figure_of(unpriced))


def test_labels_of_levels_do_not_run_into_each_other():
    low = months(2, quota=20, minimum=10, maximum=40)
    low[0].parts["own"] = 10**12

    axes, *_ = charting_files.figure_of(picture_of("c-1", {"workflow": low})).axes

    heights = [
        axes.transData.transform((0, text.xy[1]))[1] / axes.figure.dpi * 72
        for text in axes.texts
        if text.get_text().split()[0] in ("minimum", "quota", "maximum")
    ]
    assert len(heights) == 3
    assert all(above - below >= 10 for below, above in pairwise(heights))


def test_letters_that_no_font_has_are_spelled_out_in_a_bitmap(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(charting_files, "families_for", lambda _: (["DejaVu Sans"], {"가"}))
    monkeypatch.setattr(
        charting_files,
        "figure_of",
        lambda picture, make=charting_files.figure_of: drawn.append(picture.title) or make(picture),
    )
    picture = picture_of("가 shop", {})

    charting_files.draw(picture, tmp_path / "a.png")
    charting_files.draw(picture, tmp_path / "a.svg")

    assert drawn == ["Channel \\uac00 shop", "Channel 가 shop"]


def test_a_font_that_has_only_boxes_for_letters_has_none_of_them():
    families, unknown = charting_files.families_for("Abc \U000e0100")

    assert families == ["DejaVu Sans"]
    assert unknown == {"\U000e0100"}


def test_the_same_picture_is_the_same_file(tmp_path):
    picture = picture_of("c-1", {"workflow": months(3)})
    for name in ("a.svg", "b.svg"):
        charting_files.draw(picture, tmp_path / name)

    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
