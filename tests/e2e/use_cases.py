"""Small real use cases, each made of a CSV file, a contract and YAML: no Python of their own.

They are what docs/how-to/new-use-case.md tells a reader to write, for the three tasks.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml
from sklearn import datasets

TASK_METRIC = {
    "binary": {"kind": "floor", "metric": "auc", "limit": 0.9},
    "multiclass": {"kind": "floor", "metric": "accuracy", "limit": 0.7},
    "regression": {"kind": "ceiling", "metric": "mae", "limit": 70.0},
}


@dataclass(frozen=True)
class UseCase:
    """A use case written below `folder`. paths are relative to it, as a job sees them."""

    name: str
    task: str
    folder: Path
    golden_path: str
    endpoint: str
    rows: pd.DataFrame


def write_use_case(
    folder: Path, task: str, families: tuple[str, ...], serving: str | None = None
) -> UseCase:
    """serving: the text of a Serve config file; None ends the golden path with the release."""
    name, frame, label = _data(task)
    frame.insert(0, "sample_id", [f"s{n:04d}" for n in range(len(frame))])
    (folder / "data").mkdir(parents=True)
    frame.to_csv(folder / "data" / f"{name}.csv", index=False)
    _dump(folder / f"configs/contracts/{name}.odcs.yaml", _contract(name, frame, label))
    _dump(folder / f"configs/snapshots/{name}.yaml", _snapshot(name, task, folder, label))
    features = [c for c in frame.columns if c not in ("sample_id", label)]
    for family in families:
        _dump(folder / f"configs/training/{name}_{family}.yaml", _training(name, family, features))
        _dump(folder / f"configs/releases/{name}_{family}.yaml", _release(name, family))
    _dump(
        folder / f"configs/policies/{name}.yaml",
        {
            "gates": {
                "useful": TASK_METRIC[task],
                "not_worse": {"kind": "champion", "metric": _champion_metric(task), "margin": 5.0},
                "fast": {"kind": "latency", "p95_ms": 200},
            }
        },
    )
    path: dict[str, object] = {
        "snapshot": f"configs/snapshots/{name}.yaml",
        "releases": [f"configs/releases/{name}_{f}.yaml" for f in families],
    }
    if serving is not None:
        path["serving"] = "configs/serving/gateway.yaml"
        (folder / "configs/serving").mkdir()
        (folder / "configs/serving/gateway.yaml").write_text(serving)
    golden = f"configs/golden_paths/{name}.yaml"
    _dump(folder / golden, path)
    return UseCase(name, task, folder, golden, name.replace("_", "-"), frame)


def write_text_rows(folder: Path, texts: list[str]) -> str:
    """A snapshot config of rows that a language model could read: path relative to folder."""
    frame = pd.DataFrame({"text": texts})
    frame.insert(0, "sample_id", [f"s{n:04d}" for n in range(len(frame))])
    frame["reply"] = "fine"
    (folder / "data").mkdir(parents=True)
    frame.to_csv(folder / "data/notes.csv", index=False)
    _dump(folder / "configs/contracts/notes.odcs.yaml", _contract("notes", frame, "reply"))
    snapshot = _snapshot("notes", "text", folder, "reply")
    del snapshot["view"]["max_single_feature_auc"]  # type: ignore[attr-defined]
    _dump(folder / "configs/snapshots/notes.yaml", snapshot)
    return "configs/snapshots/notes.yaml"


def _champion_metric(task: str) -> str:
    return {"binary": "auc", "multiclass": "accuracy", "regression": "mae"}[task]


def _data(task: str) -> tuple[str, pd.DataFrame, str]:
    loader, name, label = {
        "binary": (datasets.load_breast_cancer, "breast_cancer", "diagnosis"),
        "multiclass": (datasets.load_wine, "wine", "cultivar"),
        "regression": (datasets.load_diabetes, "diabetes", "progression"),
    }[task]
    bunch = loader(as_frame=True)
    frame = bunch.data.rename(columns=lambda c: c.replace(" ", "_").replace("/", "_per_"))
    names = getattr(bunch, "target_names", None)
    frame[label] = bunch.target if names is None else [str(names[t]) for t in bunch.target]
    return name, frame.sample(frac=1, random_state=3).reset_index(drop=True), label


def _contract(name: str, frame: pd.DataFrame, label: str) -> dict[str, object]:
    properties = []
    for column in frame.columns:
        is_text = not pd.api.types.is_numeric_dtype(frame[column])
        entry: dict[str, object] = {
            "name": column,
            "logicalType": "string" if is_text else "number",
            "required": True,
        }
        if column == "sample_id":
            entry |= {"primaryKey": True, "primaryKeyPosition": 1}
        if column == label:
            entry["customProperties"] = [{"property": "knownAt", "value": "outcome"}]
        properties.append(entry)
    return {
        "apiVersion": "v3.1.0",
        "kind": "DataContract",
        "id": f"urn:contract:{name}",
        "name": name,
        "version": "1.0.0",
        "status": "active",
        "schema": [{"name": name, "logicalType": "object", "properties": properties}],
    }


def _snapshot(name: str, task: str, folder: Path, label: str) -> dict[str, object]:
    expression = f"{label} == 'malignant'" if task == "binary" else label
    return {
        "name": name,
        "task": task,
        "tables": {
            name: {
                "contract": f"configs/contracts/{name}.odcs.yaml",
                "source": {"uri": str(folder / "data" / f"{name}.csv")},
                "num_blocks": 2,
            }
        },
        "view": {
            "base": name,
            "key": ["sample_id"],
            "label": {"name": "target", "expression": expression},
            "splits": {"kind": "hash", "tune_share": 0.2, "test_share": 0.3},
            "max_single_feature_auc": 1.0,
        },
    }


def _training(name: str, family: str, features: list[str]) -> dict[str, object]:
    settings: dict[str, object] = {"num_rounds": 60, "min_child_weight": 1.0}
    if family == "neural":
        settings = {"num_epochs": 60, "batch_size": 32, "hidden": [32], "dropout": 0.0}
    return {
        "name": f"{name}_{family}",
        "snapshot": f"configs/snapshots/{name}.yaml",
        "family": family,
        "features": features,
        "checkpoint_every": 60,
        family: settings,
    }


def _release(name: str, family: str) -> dict[str, object]:
    return {
        "endpoint": name.replace("_", "-"),
        "training": f"configs/training/{name}_{family}.yaml",
        "policy": f"configs/policies/{name}.yaml",
        "card": {
            "intended_use": "Tests.",
            "out_of_scope": "Everything else.",
            "owner": "tests",
            "license": "other",
        },
    }


def _dump(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False))
