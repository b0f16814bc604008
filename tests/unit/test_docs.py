"""Links, files and commands that the documentation names exist."""

import re
from pathlib import Path

import pytest

from rayapp.cli.app import app
from rayapp.cli.job_choice import CONFIG_OF_JOB
from rayapp.config.reference import render_reference

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    p.relative_to(ROOT).as_posix() for p in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
COMMAND = re.compile(r"(?:^ {4,}|^\$ |`)(?:\w+=\S+ )*rayapp ([a-z]+)", re.MULTILINE)
SCRIPT = re.compile(r"\bscripts/([a-z]+)\b")
JOB = re.compile(r"python -m jobs\.(\w+)")
CONFIG = re.compile(r"\bconfigs/[\w/-]+\.yaml\b")


def _text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    local = [link for link in LINK.findall(_text(page)) if "://" not in link]
    missing = [link for link in local if not ((ROOT / page).parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    text = _text(page)
    assert set(COMMAND.findall(text)) <= set(app)
    assert {s for s in SCRIPT.findall(text) if not (ROOT / "scripts" / s).exists()} == set()
    assert set(JOB.findall(text)) - CONFIG_OF_JOB.keys() == set()


@pytest.mark.parametrize("page", ["README.md"])
def test_configs_exist(page: str) -> None:
    assert [c for c in CONFIG.findall(_text(page)) if not (ROOT / c).is_file()] == []


def test_the_settings_page_is_what_the_code_says() -> None:
    """Made anew by: python -m rayapp.config.reference > docs/reference/settings.md"""
    assert _text("docs/reference/settings.md") == render_reference()
