"""Evaluation over Ray Data with real bundles: the same figures for any blocks; clear refusals."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray.data

from rayapp.config.release import EvaluationConfig
from rayapp.errors import ConfigError, DataError
from rayapp.evaluate.compute import evaluate
from rayapp.evaluate.estimates import measure
from rayapp.evaluate.scoring import Scored
from rayapp.families.base import Batch, Compute, Problem, Progress, family
from rayapp.families.bundle import Bundle, write_bundle
from rayapp.schemas.data import Column, Profile, Task
from rayapp.schemas.model import BundleSchema, EncodedFeature
from rayapp.schemas.release import Evaluation, Latency

pytestmark = pytest.mark.usefixtures("ray_local")

CLASSES: dict[Task, tuple[str, ...]] = {
    "binary": ("no", "yes"),
    "multiclass": ("low", "middle", "high"),
    "regression": (),
}
FEATURES = tuple(EncodedFeature(name=n, expression=n, kind="number") for n in ("a", "b"))
SETTINGS = {
    "num_rounds": 12,
    "max_depth": 3,
    "learning_rate": 0.3,
    "min_child_weight": 5.0,
    "subsample": 1.0,
    "colsample_bytree": 1.0,
    "reg_lambda": 1.0,
    "max_bin": 64,
}


def _rows(task: Task, num_rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    a_N, b_N = rng.normal(size=num_rows), rng.normal(size=num_rows)
    value_N = a_N + 0.5 * b_N + rng.normal(size=num_rows)
    label = pa.array(value_N)
    if task != "regression":
        cuts = [0.5] if task == "binary" else [-0.5, 0.8]
        label = pa.array([CLASSES[task][k] for k in np.digitize(value_N, cuts)])
    places = np.array(["north", "south", None])
    place = pa.array(rng.choice(places, num_rows).tolist(), pa.string())
    return pa.table({"a": a_N, "b": b_N, "label": label, "place": place})


def _bundle(folder: Path, task: Task, num_rounds: int) -> Path:
    table, classes = _rows(task, 2000, 1), CLASSES[task]
    x_NF = np.stack([table.column(f.name).to_numpy() for f in FEATURES], axis=1).astype(np.float32)
    y = table.column("label").to_pylist()
    y_N = np.array([classes.index(v) if classes else v for v in y], dtype=np.float32)
    schema = BundleSchema(
        name="small",
        family="tabular",
        task=task,
        label="label",
        classes=classes,
        inputs=tuple(Column(name=f.name, type="number") for f in FEATURES),
        features=FEATURES,
    )

    def keep(progress: Progress) -> None:
        if progress.step == progress.total_steps:
            profile = Profile(num_rows=len(y_N), columns=())
            write_bundle(folder, schema, profile, progress.save)

    problem = Problem(task, len(classes), FEATURES, seed=1, num_rows=len(y_N))
    family("tabular").fit(
        problem,
        SETTINGS | {"num_rounds": num_rounds},
        lambda: iter([Batch(x_NF, y_N)]),
        None,
        num_rounds,
        None,
        keep,
        Compute(),
    )
    return folder


def _evaluate(
    table: pa.Table, num_blocks: int, candidate: Path, champion: Path | None, **config: object
) -> Evaluation:
    settings = {"slices": ["place", {"side": "if_else(a > 0, 'right', 'left')"}]} | config
    return evaluate(
        dataset=ray.data.from_arrow(table, override_num_blocks=num_blocks),
        candidate=candidate,
        champion=champion,
        config=EvaluationConfig.model_validate(settings),
        run_id="run",
        snapshot_id="snapshot",
        split="test",
        bundle_digest="digest",
        champion_release="release" if champion else None,
        label_shares=(),
        latency_rows=table.slice(0, 20),
    )


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_figures_are_those_of_one_process_whatever_the_blocks(
    task: Task, tmp_path: Path
) -> None:
    table = _rows(task, 1500, 2)
    candidate = _bundle(tmp_path / "candidate", task, 12)
    champion = _bundle(tmp_path / "champion", task, 3)
    found = [_evaluate(table, n, candidate, champion) for n in (1, 5)]

    timeless = Latency(p50_ms=0, p95_ms=0, p99_ms=0, num_calls=0)
    one, five = (f.model_copy(update={"latency": timeless}) for f in found)
    assert one.content_digest() == five.content_digest()

    classes = CLASSES[task]
    y = table.column("label").to_pylist()
    y_N = np.array([classes.index(v) if classes else np.float32(v) for v in y], dtype=np.float64)
    scores_NK = Bundle.open(candidate).predict(table).astype(np.float64)
    assert one.overall.estimates == measure(task, y_N, scores_NK, 0.95)

    names = {s.slice: s.num_rows for s in one.slices}
    assert set(names) == {
        "place=north",
        "place=south",
        "place=(missing)",
        "side=left",
        "side=right",
    }
    assert names["side=left"] + names["side=right"] == 1500
    assert one.overall.differences
    assert all(s.differences for s in one.slices)
    assert one.curves
    assert found[0].latency is not None
    assert found[0].latency.num_calls >= 100


def test_a_champion_against_itself_differs_by_nothing(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "bundle", "binary", 5)
    found = _evaluate(_rows("binary", 600, 3), 2, bundle, bundle)
    assert {d.value for d in found.overall.differences} == {0.0}


def test_too_many_slices_name_the_column(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "bundle", "binary", 3)
    with pytest.raises(ConfigError, match="'a' alone has"):
        _evaluate(_rows("binary", 300, 3), 2, bundle, None, slices=["a"], max_slices=20)
    with pytest.raises(ConfigError, match="at least 3 slices, max_slices is 2"):
        _evaluate(_rows("binary", 300, 3), 2, bundle, None, slices=["place"], max_slices=2)


def test_a_slice_over_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "bundle", "binary", 3)
    with pytest.raises(ConfigError, match="did you mean 'place'"):
        _evaluate(_rows("binary", 100, 3), 1, bundle, None, slices=["plaec"])


def test_a_workers_refusal_arrives_as_itself(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "bundle", "binary", 3)
    table = _rows("binary", 100, 3)
    table = table.set_column(2, "label", pa.array(["perhaps"] * 100))
    with pytest.raises(DataError, match="perhaps"):
        _evaluate(table, 2, bundle, None)


def test_models_of_different_questions_are_not_compared(tmp_path: Path) -> None:
    candidate = _bundle(tmp_path / "candidate", "binary", 3)
    champion = _bundle(tmp_path / "champion", "multiclass", 3)
    with pytest.raises(ConfigError, match="task is 'binary' and 'multiclass'"):
        _evaluate(_rows("binary", 100, 3), 1, candidate, champion)


def test_scored_rows_survive_their_table() -> None:
    scored = Scored(np.array([0.0, 1]), np.array([[0.2, 0.8], [0.4, 0.6]]), None, {})
    back = Scored.from_table(scored.to_table())
    assert np.array_equal(back.candidate_NK, scored.candidate_NK)
    assert back.champion_NK is None
