"""Links, files and commands that the documentation names exist."""

import re
from pathlib import Path

import pytest

from rayapp.cli.app import app
from rayapp.cli.job_choice import CONFIG_OF_JOB
from rayapp.config.reference import render_reference
from rayapp.operate.grafana import panels
from rayapp.operate.grafana import render as render_dashboard
from rayapp.telemetry import METRICS

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


def test_the_dashboard_is_what_the_code_says() -> None:
    """Made anew by: python -m rayapp.operate.grafana > docs/dashboards/endpoints.json"""
    assert _text("docs/dashboards/endpoints.json") == render_dashboard()


def test_every_metric_is_on_the_dashboard_under_labels_that_it_has() -> None:
    told = "\n".join(query for panel in panels() for query in panel.queries.values())
    assert [name for name in METRICS if f"ray_{name}" not in told] == []
    for panel in panels():
        for legend, query in panel.queries.items():
            grouped = [group.split(", ") for group in re.findall(r"sum by \(([^)]*)\)", query)]
            assert set(re.findall(r"{{(\w+)}}", legend)) <= set(grouped[0]), panel.title
            named = [name for name in METRICS if f"ray_{name}" in query]
            known = {"le", *(key for name in named for key in METRICS[name].tag_keys)}
            assert {key for group in grouped for key in group} <= known, panel.title
