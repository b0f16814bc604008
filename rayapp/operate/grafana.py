"""The Grafana dashboard of the endpoints, made from the table of metrics.

python -m rayapp.operate.grafana > docs/dashboards/endpoints.json
"""

import json
import sys
from dataclasses import dataclass
from typing import Any

from rayapp.telemetry import METRICS

_WIDTH, _HEIGHT = 12, 8
_COLUMNS = 24 // _WIDTH
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_OF = 'endpoint=~"$endpoint"'


@dataclass(frozen=True)
class Panel:
    """queries: legend → PromQL. unit: one of Grafana's. limits: values above which a line turns
    yellow, then red."""

    title: str
    meaning: str
    unit: str
    queries: dict[str, str]
    limits: tuple[float, float] | None = None


def series(name: str) -> str:
    """A metric of the table as Ray exports it. Raises KeyError."""
    return f"ray_{name}" + ("" if METRICS[name].kind == "gauge" else "_total")


def _rate(name: str, by: str = "endpoint", where: str = _OF) -> str:
    return f"sum by ({by}) (rate({series(name)}{{{where}}}[$__rate_interval]))"


def _share(part: str, whole: str) -> str:
    """0, not nothing, where no series of `part` exists yet."""
    return f"({part} or 0 * {whole}) / {whole}"


def _quantile(share: float, name: str, by: str = "endpoint") -> str:
    buckets = f"rate({series(name)}{{{_OF}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by (le, {by}) ({buckets}))"


def panels() -> tuple[Panel, ...]:
    return (*_answers(), *_inside(), *_chosen(), *_language(), *_pools(), _traces())


def _answers() -> tuple[Panel, ...]:
    """What callers see."""
    requests, is_failed = "rayapp_requests", f'{_OF}, status=~"5.."'
    return (
        Panel(
            "Requests",
            "Answered requests a second, by status",
            "reqps",
            {"{{endpoint}} {{status}}": _rate(requests, "endpoint, status")},
        ),
        Panel(
            "Failed",
            "Share of the requests that were answered with a 5xx",
            "percentunit",
            {"{{endpoint}}": _share(_rate(requests, where=is_failed), _rate(requests))},
            (0.001, 0.01),
        ),
        Panel(
            "Latency",
            "From the first byte in the gateway to the answer; quantiles are interpolated in "
            "buckets, the mean is exact",
            "ms",
            {
                "{{endpoint}} p50": _quantile(0.5, "rayapp_request_latency_ms"),
                "{{endpoint}} p95": _quantile(0.95, "rayapp_request_latency_ms"),
                "{{endpoint}} p99": _quantile(0.99, "rayapp_request_latency_ms"),
                "{{endpoint}} mean": (
                    f"1000 * {_rate('rayapp_request_seconds')} / {_rate(requests)}"
                ),
            },
        ),
        Panel(
            "Releases",
            "Answered requests a second, by the release that answered: a promotion is a crossing",
            "reqps",
            {"{{endpoint}} {{release}}": _rate(requests, "endpoint, release")},
        ),
        Panel(
            "Degraded",
            "Share of the requests that another than the intended model answered, by reason",
            "percentunit",
            {
                "{{endpoint}} {{reason}}": (
                    f"{_rate('rayapp_degraded', 'endpoint, reason')} "
                    f"/ on (endpoint) group_left {_rate(requests)}"
                )
            },
            (0.01, 0.05),
        ),
        Panel(
            "Kept out",
            "Requests a second that HAProxy refused because replicas refused their like",
            "reqps",
            {"{{tenant}}": _rate("rayapp_kept_out", "tenant", "")},
        ),
    )


def _inside() -> tuple[Panel, ...]:
    """Why they see it."""
    is_hit = f'{_OF}, outcome="hit"'
    is_stale = f'{_OF}, outcome="stale"'
    return (
        Panel(
            "Open breakers",
            "Replicas that do not ask a release now, because it failed too often",
            "short",
            {
                "{{endpoint}} {{target}}": (
                    f"sum by (endpoint, target) ({series('rayapp_breaker_open')}{{{_OF}}})"
                )
            },
            (0.5, 1.5),
        ),
        Panel("Rows", "Predicted rows a second", "rowsps", {"{{endpoint}}": _rate("rayapp_rows")}),
        Panel(
            "Rows of one model call",
            "Grows with the load: requests that arrive together share a call",
            "short",
            {
                "{{endpoint}} p50": _quantile(0.5, "rayapp_batch_rows"),
                "{{endpoint}} p95": _quantile(0.95, "rayapp_batch_rows"),
            },
        ),
        Panel(
            "Cache hits",
            "Share of the look-ups that were answered from the cache",
            "percentunit",
            {
                "{{endpoint}}": _share(
                    _rate("rayapp_cache_lookups", where=is_hit), _rate("rayapp_cache_lookups")
                )
            },
        ),
        Panel(
            "Stale features",
            "Share of the requests that needed feature values and found them too old",
            "percentunit",
            {
                "{{endpoint}}": _share(
                    _rate("rayapp_feature_reads", where=is_stale),
                    _rate("rayapp_feature_reads"),
                )
            },
            (0.001, 0.01),
        ),
        Panel(
            "Cost of answers",
            "Dollars an hour, at the endpoints' prices",
            "currencyUSD",
            {"{{endpoint}} {{tenant}}": f"3600 * {_rate('rayapp_cost_usd', 'endpoint, tenant')}"},
        ),
    )


def _traces() -> Panel:
    return Panel(
        "Dropped spans",
        "Spans a second that the collector did not take, or not in time: traces have gaps",
        "short",
        {"{{service}}": _rate("rayapp_spans_dropped", "service", "")},
    )


def _chosen() -> tuple[Panel, ...]:
    """Who answers where it is chosen by cost."""
    rows = "rayapp_cascade_rows"
    return (
        Panel(
            "Chosen by cost",
            "Requests a second that an objective gave to each arm: as the cheapest, to explore, or "
            "though it does not meet a constraint",
            "reqps",
            {"{{endpoint}} {{arm}} {{reason}}": _rate("rayapp_choices", "endpoint, arm, reason")},
        ),
        Panel(
            "Rows of cascades",
            "Rows a second that the first model kept, that went on to the champion, or that should "
            "have and were given by the first model",
            "rowsps",
            {"{{endpoint}} {{outcome}}": _rate(rows, "endpoint, outcome")},
        ),
    )


def _language() -> tuple[Panel, ...]:
    """Models that answer in tokens."""
    return (
        Panel(
            "Tokens",
            "Tokens a second, as engines count them: read, found in the prefix cache, generated",
            "short",
            {"{{endpoint}} {{kind}}": _rate("rayapp_tokens", "endpoint, kind")},
        ),
        Panel(
            "First token",
            "From the first byte in the gateway to the first token that it sends; interpolated in "
            "buckets",
            "ms",
            {
                "{{endpoint}} p50": _quantile(0.5, "rayapp_first_token_ms"),
                "{{endpoint}} p95": _quantile(0.95, "rayapp_first_token_ms"),
            },
        ),
        Panel(
            "Answers cut",
            "Answers a second that ended before the model was done, by why",
            "reqps",
            {"{{endpoint}} {{reason}}": _rate("rayapp_answers_cut", "endpoint, reason")},
        ),
    )


def _pools() -> tuple[Panel, ...]:
    """Models that answer apart from the gateway."""
    absent = _rate("rayapp_pool_asks", "pool", 'outcome="absent"')
    loads = _rate("rayapp_pool_loads", "pool", "")
    return (
        Panel(
            "Models not held when asked",
            "Share of a pool's calls that had to wait for their model to be loaded",
            "percentunit",
            {"{{pool}}": _share(absent, _rate("rayapp_pool_asks", "pool", ""))},
            (0.05, 0.2),
        ),
        Panel(
            "Time to load a model",
            "Mean of those that were loaded because somebody asked",
            "s",
            {"{{pool}}": f"{_rate('rayapp_pool_load_seconds', 'pool', '')} / {loads}"},
        ),
        Panel(
            "Models held",
            "Copies of models in all replicas of a pool",
            "short",
            {"{{pool}}": f"sum by (pool) ({series('rayapp_pool_models')})"},
        ),
        Panel(
            "Memory of models",
            "By the size of their files, in all replicas of a pool",
            "bytes",
            {"{{pool}}": f"sum by (pool) ({series('rayapp_pool_bytes')})"},
        ),
        Panel(
            "Second asks",
            "Requests a second that were asked of a pool again: a replica was gone, or slow",
            "reqps",
            {"{{endpoint}} {{reason}}": _rate("rayapp_second_asks", "endpoint, reason")},
        ),
    )


def dashboard() -> dict[str, Any]:
    """As Grafana imports it. It asks for a Prometheus data source that scrapes Ray's nodes."""
    return {
        "title": "rayapp endpoints",
        "uid": "rayapp-endpoints",
        "tags": ["rayapp"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Data source", "type": "datasource"}
                | {"query": "prometheus"},
                {
                    "name": "endpoint",
                    "label": "Endpoint",
                    "type": "query",
                    "datasource": _SOURCE,
                    "query": f"label_values({series('rayapp_requests')}, endpoint)",
                    "refresh": 2,
                    "includeAll": True,
                    "multi": True,
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": [_drawn(number, panel) for number, panel in enumerate(panels())],
    }


def _drawn(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.limits is not None:
        colours = zip(("green", "yellow", "red"), (None, *panel.limits), strict=True)
        steps = [{"color": colour, "value": value} for colour, value in colours]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        defaults["custom"] = {"thresholdsStyle": {"mode": "line"}}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend}
            for at, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def render() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
