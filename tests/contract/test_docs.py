"""The pages of docs/ stand by what they show: pictures, links, commands."""

import re
import sys
from pathlib import Path

import pytest

from tests.running import lotmeter

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors_of(page):
    """Name the headings of a page as links do."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page

        assert found.exists(), target
        if anchor:
            assert anchor in anchors_of(found), target


async def test_the_picture_of_a_year_is_what_the_scenario_gives(
    fresh_database_url, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import make_pictures  # noqa: PLC0415

    await make_pictures.draw_a_year(tmp_path / "a.svg", database_url=fresh_database_url)
    sys.modules.pop("make_pictures")

    drawn = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert drawn == (ROOT / "docs" / make_pictures.PICTURE).read_text(encoding="utf-8")


async def test_every_command_that_a_page_names_is_one():
    _, helped, _ = await lotmeter({}, "--help")
    commands = set(re.findall(r"^\s+([a-z-]+)(?:\s|$)", helped, re.MULTILINE))
    named = {
        word
        for page in PAGES
        for word in re.findall(r"\blotmeter ([a-z][a-z-]+)\b", page.read_text(encoding="utf-8"))
    }

    # What stands after the name in a sentence.
    assert named - commands <= {"is", "and", "keeps", "meters", "counts", "knows", "does", "reads"}
    assert {"chart", "explain", "dead-letters", "redeliver"} <= commands
