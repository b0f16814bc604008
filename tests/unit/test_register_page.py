"""The card as a page: complete in itself, and nothing from a YAML file runs in it."""

import re
from pathlib import Path

from released import CARD, ENDPOINT, PASSED, make_evaluation, make_run, make_snapshot

from rayapp.register.card import render_card
from rayapp.register.page import render_card_html
from rayapp.storage import Workspace


def _page(tmp_path: Path, intended_use: str = "Warn passengers.") -> str:
    workspace = Workspace(str(tmp_path))
    snapshot = make_snapshot(workspace)
    run = make_run(workspace, snapshot, tmp_path)
    card = render_card(
        run=run,
        snapshot=snapshot,
        evaluation=make_evaluation(run),
        verdicts=(PASSED,),
        config=CARD.model_copy(update={"intended_use": intended_use}),
        endpoint=ENDPOINT,
    )
    return render_card_html(card)


def test_shows_title_tags_and_the_sections_of_the_card(tmp_path: Path) -> None:
    page = _page(tmp_path)
    assert f"<title>{ENDPOINT}: " in page
    assert "<span>tabular-classification</span>" in page
    assert "<h2>Limitations</h2>" in page
    assert "<td>0.7412</td>" in page
    assert "model-index" not in page


def test_is_complete_in_itself(tmp_path: Path) -> None:
    assert re.findall(r"(?:src|href)\s*=|url\(|@import", _page(tmp_path)) == []


def test_markup_in_a_text_is_text(tmp_path: Path) -> None:
    page = _page(tmp_path, "<script>alert(1)</script> [x](javascript:alert(1)) --- \n---\n")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert 'href="javascript' not in page
