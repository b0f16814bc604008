"""The report's pictures as inline SVG: text stays text, nothing is fetched, the same data give the
same bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rayapp.schemas.release import Curve, Estimate, LabelShare, SliceEvaluation

CANDIDATE = "#1f5fa8"
CHAMPION = "#a3704c"
INK = "#1c2733"
MUTED = "#7a8794"
GRID = "#e6eaee"
SPLIT_COLOURS = {"train": "#9db4c9", "tune": "#d9a441", "test": CANDIDATE}
_STYLE: dict[Any, Any] = {  # matplotlib types its keys as a literal of every option
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": "#c3ccd4",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
}
MAX_LABELLED_PERIODS = 14
Curves = Mapping[str, Curve]


def _svg(figure: Figure, name: str) -> str:
    """name keeps the ids inside one picture apart from those of the others on the page."""
    out = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata=metadata)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(length=0)
    return figure, axes


def roc_plot(curves: Curves) -> str:
    with rc_context(_STYLE):
        figure, axes = _figure(4.4, 3.7)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, dashes=(3, 3))
        _pair(axes, curves, "roc")
        axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1))
        axes.set_ylim(0, 1.01)
        axes.legend(loc="lower right")
        return _svg(figure, "roc")


def precision_recall_plot(curves: Curves, label_rate: float) -> str:
    with rc_context(_STYLE):
        figure, axes = _figure(4.4, 3.7)
        axes.axhline(label_rate, color=MUTED, linewidth=0.9, dashes=(3, 3))
        axes.annotate("chance", (0.02, label_rate - 0.01), va="top", color=MUTED)
        _pair(axes, curves, "precision_recall")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))
        axes.legend(loc="upper right")
        return _svg(figure, "precision-recall")


def _pair(axes: Axes, curves: Curves, name: str) -> None:
    champion = curves.get(f"{name}_champion")
    if champion is not None:
        axes.plot(champion.x, champion.y, color=CHAMPION, linewidth=1.4, label="champion")
    axes.plot(curves[name].x, curves[name].y, color=CANDIDATE, linewidth=1.9, label="candidate")


def calibration_plot(curves: Curves) -> str:
    """Observed against predicted, both to the highest rate that occurs."""
    with rc_context(_STYLE):
        figure, axes = _figure(4.4, 3.7)
        shown = [c for n in ("calibration_champion", "calibration") if (c := curves.get(n))]
        top = min(1.0, 1.08 * max(max(*c.x, *c.y) for c in shown))
        axes.plot([0, top], [0, top], color=MUTED, linewidth=0.9, dashes=(3, 3))
        for curve in shown:
            own = curve.name == "calibration"
            axes.plot(
                curve.x,
                curve.y,
                color=CANDIDATE if own else CHAMPION,
                linewidth=1.6 if own else 1.1,
                marker="o",
                markersize=4.5 if own else 3,
                label="candidate" if own else "champion",
            )
        axes.set(xlabel="mean predicted probability", ylabel="observed rate")
        axes.set(xlim=(0, top), ylim=(0, top))
        axes.legend(loc="upper left")
        return _svg(figure, "calibration")


def score_plot(curves: Curves, classes: Sequence[str]) -> str:
    with rc_context(_STYLE):
        figure, axes = _figure(4.4, 3.7)
        no, yes = curves["scores_negative"], curves["scores_positive"]
        width = 1 / len(no.x)
        axes.bar(no.x, no.y, width * 0.92, color="#b9c8d6", label=classes[0])
        axes.bar(yes.x, yes.y, width * 0.92, bottom=no.y, color=CANDIDATE, label=classes[1])
        axes.set(xlabel="predicted probability", ylabel="rows", xlim=(0, 1))
        axes.yaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper right", title="truth")
        return _svg(figure, "scores")


def actual_plot(curve: Curve) -> str:
    with rc_context(_STYLE):
        figure, axes = _figure(4.4, 3.7)
        low, high = min(*curve.x, *curve.y), max(*curve.x, *curve.y)
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.9, dashes=(3, 3))
        size = 12 + 90 * np.array(curve.weight) / max(curve.weight)
        axes.scatter(curve.x, curve.y, s=size, color=CANDIDATE, alpha=0.85)
        axes.set(xlabel="mean prediction", ylabel="mean of the label")
        return _svg(figure, "actual")


def confusion_plot(curve: Curve, classes: Sequence[str]) -> str:
    """Rows of the picture: truth; shares of each true class."""
    with rc_context(_STYLE):
        size = len(classes)
        counts = np.array(curve.weight).reshape(size, size)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        figure, axes = _figure(4.4, 3.7)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (i, j), value in np.ndenumerate(share):
            if size <= 10:
                colour = "white" if value > 0.55 else INK
                axes.text(j, i, f"{value:.0%}", ha="center", va="center", color=colour)
        axes.set_xticks(range(size), classes, rotation=45 if size > 4 else 0)
        axes.set_yticks(range(size), classes)
        axes.grid(visible=False)
        axes.set(xlabel="predicted", ylabel="truth")
        return _svg(figure, "confusion")


def forest_plot(
    slices: Sequence[SliceEvaluation], overall: SliceEvaluation, metric: str, name: str
) -> str:
    """The metric of each slice with its interval, per slice column from high to low; the band is
    the interval over all rows. name: how the metric is called on the page."""
    rows = _forest_rows(slices, metric)
    with rc_context(_STYLE):
        figure, axes = _figure(9.2, 0.8 + 0.235 * len(rows))
        whole = estimate_of(overall, metric)
        if whole is not None and whole.value is not None:
            axes.axvline(whole.value, color=INK, linewidth=0.9)
            if whole.low is not None and whole.high is not None:
                axes.axvspan(whole.low, whole.high, color="#e9eef3", zorder=0)
        for at, (_, num_rows, e) in enumerate(rows):
            if e is None or e.value is None:
                continue
            if e.low is not None and e.high is not None:
                axes.plot([e.low, e.high], [at, at], color=CANDIDATE, linewidth=1.7)
            axes.plot(e.value, at, "o", color=CANDIDATE, markersize=5)
            _margin_note(axes, at, 1.045, f"{e.value:.3f}")
            _margin_note(axes, at, 1.15, f"{num_rows:,} rows")
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        for label, (_, _, e) in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("normal" if e else "bold")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{name} with {overall.estimates[0].confidence:.0%} interval")
        return _svg(figure, "forest")


def _margin_note(axes: Axes, at: int, x: float, text: str) -> None:
    """x: in widths of the plot, where the right-aligned text ends."""
    place = ("axes fraction", "data")
    axes.annotate(text, (x, at), xycoords=place, ha="right", va="center", color=MUTED, fontsize=8.5)


def _forest_rows(
    slices: Sequence[SliceEvaluation], metric: str
) -> list[tuple[str, int, Estimate | None]]:
    """(label, rows, estimate) from the top; a column's name stands above its slices, without an
    estimate."""
    rows: list[tuple[str, int, Estimate | None]] = []
    for column in dict.fromkeys(s.slice.partition("=")[0] for s in slices):
        mine = [s for s in slices if s.slice.partition("=")[0] == column]
        found = [(s, e) for s in mine if (e := estimate_of(s, metric)) and e.value is not None]
        found.sort(key=lambda pair: -(pair[1].value or 0.0))
        rows.append((column.replace("_", " "), 0, None))
        rows += [(s.slice.partition("=")[2], s.num_rows, e) for s, e in found]
    return rows


def label_plot(shares: Sequence[LabelShare], is_share: bool) -> str:
    """The label over time, so that a drift between the splits is seen before it is blamed on the
    model."""
    with rc_context(_STYLE):
        figure, axes = _figure(9.2, 2.6)
        periods = sorted({s.period for s in shares})
        splits = sorted({s.split for s in shares}, key=_split_order)
        beside = len(splits) if len(shares) > len(periods) else 1  # splits that share a period
        width = 0.76 / beside
        for place, split in enumerate(splits):
            mine = [s for s in shares if s.split == split]
            shift = (place - (beside - 1) / 2) * width if beside > 1 else 0.0
            at = [periods.index(s.period) + shift for s in mine]
            colour = SPLIT_COLOURS.get(split, MUTED)
            axes.bar(at, [s.value for s in mine], width * 0.96, color=colour, label=split)
            if len(periods) * beside > MAX_LABELLED_PERIODS:
                continue
            for x, s in zip(at, mine, strict=True):
                text = f"{s.value:.0%}" if is_share else f"{s.value:.3g}"
                axes.annotate(text, (x, s.value), ha="center", va="bottom", fontsize=8.5)
        step = 1 + len(periods) // MAX_LABELLED_PERIODS
        axes.set_xticks(range(0, len(periods), step), periods[::step])
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.15)
        if is_share:
            axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
        axes.legend(loc="upper left", ncols=3, bbox_to_anchor=(0, 1.2))
        return _svg(figure, "label")


def _split_order(split: str) -> int:
    order = list(SPLIT_COLOURS)
    return order.index(split) if split in order else len(order)


def estimate_of(part: SliceEvaluation, metric: str) -> Estimate | None:
    return next((e for e in part.estimates if e.metric == metric), None)
