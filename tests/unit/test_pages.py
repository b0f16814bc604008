"""Every page has one look, and shows what it is given as text."""

from pathlib import Path

import pytest

from rayapp.pages import page

TEMPLATES = sorted((Path(__file__).parents[2] / "rayapp").glob("**/templates/*.html"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_page_has_a_head_of_its_own(path: Path) -> None:
    assert path.read_text().startswith("{% extends ") == (path.name != "base.html")


def test_what_it_is_given_is_text() -> None:
    made = page("rayapp", "base.html", title="</title><script>")
    assert made.startswith("<!doctype html>")
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in made
