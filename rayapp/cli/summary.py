"""The last screen of the quickstart: what came out, where to look, what to do next."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayapp.cli.ask import Answer
from rayapp.cli.head_state import Head
from rayapp.errors import UserError
from rayapp.schemas.record import short


def read_figures(path: str) -> dict[str, Any]:
    """The golden path's figures out of what `rayapp submit --json` wrote. Raises UserError."""
    try:
        figures = json.loads(Path(path).read_text(encoding="utf-8"))["figures"]
        missing = sorted({"endpoint", "release_id", "runs", "card"} - figures.keys())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not the output of `rayapp submit --json` ({error})",
            "run: rayapp submit configs/golden_paths/flight_delay.yaml --json > FILE",
        ) from error
    if missing:
        raise UserError(f"{path}: the job's figures lack {missing}", "submit a golden path")
    return dict(figures)


def summary(
    figures: Mapping[str, Any], head: Head, answers: list[Answer], mlflow_url: str
) -> dict[str, list[tuple[str, str]]]:
    """Titled lists of (name, value), in reading order."""
    release = [
        ("release", f"{short(figures['release_id'])}  {_novelty(figures)}"),
        *((name, _interval(values)) for name, values in figures.get("test", {}).items()),
        *((f"tune {name}", _metrics(values)) for name, values in figures["runs"].items()),
    ]
    url = f"{head.endpoint_url}/v2/models/{figures['endpoint']}"
    look = [
        ("dashboard", f"{head.dashboard_url}  (token: {head.token_path})"),
        ("endpoint", url),
        ("page", f"{head.endpoint_url}/docs  (for people who call: columns, limits, a curl)"),
        ("report", figures.get("report", "made when the release was; see MLflow")),
        ("card", figures["card"]),
        ("commands", activation()),
        ("MLflow", f"mlflow ui --port 5000 --backend-store-uri {mlflow_url}"),
    ]
    following = [
        (f"rayapp explain {answers[0].request_id}", "from that answer back to its data"),
        (f"rayapp ask {figures['endpoint']} --rows 10", "more real rows"),
        ("rayapp down", "stop what was started; state stays"),
    ]
    return {"Release": release, "Look at": look, "Next": following}


def activation() -> str:
    return f"source {_shown(Path(sys.prefix))}/bin/activate lets your shell find them"


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _novelty(figures: Mapping[str, Any]) -> str:
    return "(new champion)" if figures.get("is_new") else "(champion already, nothing changed)"


def _interval(values: list[float | None]) -> str:
    value, low, high = values
    if value is None:
        return "not defined on these rows"
    if low is None or high is None:
        return f"{value:.4f}"
    return f"{value:.4f}  [{low:.4f}, {high:.4f}]"


def _metrics(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
