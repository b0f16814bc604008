"""Every family behind the plug-in contract: the same suite for each that learns from encoded rows.

A new family passes these tests before anything else of it is looked at.
"""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from rayapp.config.training import NeuralConfig, TabularConfig
from rayapp.errors import DataError
from rayapp.families.base import (
    ENCODED,
    RESUME,
    Batch,
    BatchSource,
    Compute,
    Problem,
    Progress,
    family,
)
from rayapp.families.bundle import Bundle, bundle_inputs, write_bundle
from rayapp.families.encoding import encode, fit_encoding
from rayapp.schemas.data import Column, Task
from rayapp.schemas.model import BundleSchema, EncodedFeature, Feature

SETTINGS: dict[str, dict[str, Any]] = {
    "tabular": TabularConfig(num_rounds=30, min_child_weight=1.0).model_dump(),
    "neural": NeuralConfig(num_epochs=30, batch_size=32, learning_rate=0.01).model_dump(),
}
TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")
LOADERS = {
    "binary": load_breast_cancer,
    "multiclass": load_wine,
    "regression": load_diabetes,
}
each_family = pytest.mark.parametrize("name", ENCODED)
each_task = pytest.mark.parametrize("task", TASKS)


class OneBlock:
    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    def map_batches(self, fn: Any, **_: Any) -> "OneBlock":
        return OneBlock(fn(self._rows))

    def take_all(self) -> list[dict[str, Any]]:
        return self._rows.to_pylist()  # type: ignore[no-any-return]


class Case:
    """scikit-learn's toy data as raw rows, with one text column made of the first number."""

    def __init__(self, task: Task) -> None:
        data = LOADERS[task]()
        order = np.random.default_rng(7).permutation(len(data.target))
        x_NF, y_N = data.data[order].astype(np.float64), data.target[order]
        band_N = np.digitize(x_NF[:, 0], np.quantile(x_NF[:, 0], [0.3, 0.6]))
        columns = {f"c{f}": x_NF[:, f] for f in range(1, x_NF.shape[1])}
        text = pa.array([f"band{b}" for b in band_N], mask=np.arange(len(band_N)) % 17 == 0)
        self.rows = pa.table({**columns, "band": text})
        self.columns = (
            *(Column(name=name, type="number", nullable=True) for name in columns),
            Column(name="band", type="string", nullable=True),
        )
        chosen = (*sorted(columns), "band")
        self.features = tuple(Feature(name=name, expression=name) for name in chosen)
        self.encoded, self.profile = fit_encoding(OneBlock(self.rows), self.features, self.columns)
        self.task, self.y_N = task, y_N.astype(np.float32)
        self.x_NF = encode(self.encoded, self.rows)
        num_classes = 0 if task == "regression" else len(np.unique(y_N))
        self.classes = tuple(f"class{k}" for k in range(num_classes))
        self.problem = Problem(task, num_classes, self.encoded, 7, len(y_N))

    def source(self) -> Iterator[Batch]:
        for start in range(0, len(self.y_N), 100):
            yield Batch(self.x_NF[start : start + 100], self.y_N[start : start + 100])

    def fit(
        self,
        name: str,
        folder: Path,
        resume_from: Path | None = None,
        train: BatchSource | None = None,
    ) -> list[Progress]:
        """Fits and saves every checkpoint as folder/<step>."""
        seen: list[Progress] = []

        def on_progress(progress: Progress) -> None:
            seen.append(progress)
            if progress.is_checkpoint:
                progress.save(folder / str(progress.step))

        family(name).fit(
            self.problem,
            SETTINGS[name],
            train or self.source,
            self.source,
            10,
            resume_from,
            on_progress,
            Compute(),
        )
        return seen


@pytest.fixture(scope="module")
def cases() -> dict[Task, Case]:
    return {task: Case(task) for task in TASKS}


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@each_family
@each_task
def test_learns_and_reports(name: str, task: Task, cases: dict[Task, Case], tmp_path: Path) -> None:
    case = cases[task]
    seen = case.fit(name, tmp_path)
    assert [p.step for p in seen] == sorted({p.step for p in seen})
    assert [p.step for p in seen if p.is_checkpoint] == [10, 20, 30]
    assert seen[-1].total_steps == family(name).num_steps(SETTINGS[name]) == 30
    metrics = seen[-1].metrics
    if task == "binary":
        assert metrics["auc"] > 0.98
    elif task == "multiclass":
        assert metrics["accuracy"] > 0.95
    else:
        assert metrics["rmse"] < 0.8 * case.y_N.std()


@each_family
@each_task
def test_scores_have_the_promised_shape(
    name: str, task: Task, cases: dict[Task, Case], tmp_path: Path
) -> None:
    case = cases[task]
    case.fit(name, tmp_path)
    scores_NK = family(name).load(tmp_path / "30").predict(case.x_NF)
    assert scores_NK.dtype == np.float32
    assert scores_NK.shape == (len(case.y_N), max(1, len(case.classes)))
    if task != "regression":
        np.testing.assert_allclose(scores_NK.sum(axis=1), 1.0, atol=1e-5)


@each_family
def test_resumed_fit_equals_a_whole_one(name: str, cases: dict[Task, Case], tmp_path: Path) -> None:
    case = cases["binary"]
    case.fit(name, tmp_path / "whole")
    resumed = case.fit(name, tmp_path / "resumed", resume_from=tmp_path / "whole" / "10")
    assert resumed[0].step > 10
    assert digests(tmp_path / "resumed" / "30") == digests(tmp_path / "whole" / "30")


@each_family
def test_a_finished_fit_gives_its_last_checkpoint_again(
    name: str, cases: dict[Task, Case], tmp_path: Path
) -> None:
    case = cases["binary"]
    case.fit(name, tmp_path / "whole")
    again = case.fit(name, tmp_path / "again", resume_from=tmp_path / "whole" / "30")
    assert [(p.step, p.is_checkpoint) for p in again] == [(30, True)]
    assert digests(tmp_path / "again" / "30") == digests(tmp_path / "whole" / "30")


@each_family
def test_the_same_seed_gives_the_same_model(
    name: str, cases: dict[Task, Case], tmp_path: Path
) -> None:
    case = cases["binary"]
    case.fit(name, tmp_path / "a")
    case.fit(name, tmp_path / "b")
    assert digests(tmp_path / "a" / "30") == digests(tmp_path / "b" / "30")


@each_family
def test_no_rows_is_refused(name: str, cases: dict[Task, Case], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="yielded none"):
        cases["binary"].fit(name, tmp_path, train=lambda: iter(()))


@each_family
def test_a_loss_that_is_not_finite_is_refused(
    name: str, cases: dict[Task, Case], tmp_path: Path
) -> None:
    case = cases["regression"]
    labels = case.y_N.copy()
    labels[3] = np.inf
    with pytest.raises(DataError, match="not finite"):
        case.fit(name, tmp_path, train=lambda: iter([Batch(case.x_NF, labels)]))


@each_family
@each_task
def test_a_bundle_answers_raw_rows_as_training_did(
    name: str, task: Task, cases: dict[Task, Case], tmp_path: Path
) -> None:
    case = cases[task]
    case.fit(name, tmp_path / "fit")
    bundle = make_bundle(case, name, tmp_path)
    shutil.rmtree(tmp_path / "bundle")  # an opened bundle needs its files no longer
    direct = family(name).load(tmp_path / "fit" / "30").predict(case.x_NF)
    whole = bundle.predict(case.rows)
    np.testing.assert_array_equal(whole, direct)
    single = np.concatenate([bundle.predict(case.rows.slice(i, 1)) for i in range(40)])
    scale = max(1.0, float(np.abs(whole).max()))
    np.testing.assert_allclose(single / scale, whole[:40] / scale, atol=1e-6)


@each_family
def test_a_bundle_answers_what_it_never_saw(
    name: str, cases: dict[Task, Case], tmp_path: Path
) -> None:
    case = cases["multiclass"]
    case.fit(name, tmp_path / "fit")
    bundle = make_bundle(case, name, tmp_path)
    row: dict[str, list[Any]] = {c.name: [None] for c in bundle.schema.inputs}
    scores = bundle.predict(pa.table(row | {"band": ["never seen"]}))
    assert np.isfinite(scores).all()
    assert np.isfinite(bundle.predict(pa.table(row))).all()
    with pytest.raises(DataError, match="band"):
        bundle.predict(case.rows.drop_columns(["band"]))


@each_family
def test_nothing_in_a_bundle_is_a_pickle(
    name: str, cases: dict[Task, Case], tmp_path: Path
) -> None:
    cases["binary"].fit(name, tmp_path / "fit")
    make_bundle(cases["binary"], name, tmp_path)
    files = [p for p in (tmp_path / "bundle").rglob("*") if p.is_file()]
    assert {p.suffix for p in files} <= {".json", ".ubj", ".safetensors"}
    assert not any(p.read_bytes().startswith(b"\x80") for p in files)


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a bundle"):
        Bundle.open(tmp_path)


def make_bundle(case: Case, name: str, folder: Path) -> Bundle:
    features: tuple[EncodedFeature, ...] = case.encoded
    schema = BundleSchema(
        name="toy",
        family=name,
        task=case.task,
        label="y",
        classes=case.classes,
        inputs=bundle_inputs(features, case.columns),
        features=features,
    )

    def copy(target: Path) -> None:
        ignore = shutil.ignore_patterns(RESUME)
        shutil.copytree(folder / "fit" / "30", target, dirs_exist_ok=True, ignore=ignore)

    write_bundle(folder / "bundle", schema, case.profile, copy)
    return Bundle.open(folder / "bundle")
