"""Which job a config file is for, what is sent with it, and what comes after it. Pure decisions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from rayapp.config.load import Config
from rayapp.config.operations import (
    FeatureFeedConfig,
    GoldenPathConfig,
    MonitorConfig,
    ScoreConfig,
)
from rayapp.config.release import ReleaseConfig
from rayapp.config.serving import ServeFile
from rayapp.config.snapshot import SnapshotConfig
from rayapp.config.sweep import SweepConfig
from rayapp.config.training import TrainConfig
from rayapp.config.weights import WeightsConfig
from rayapp.errors import ConfigError, UserError

CONFIG_OF_JOB: dict[str, type[Config]] = {
    "build_snapshot": SnapshotConfig,
    "train": TrainConfig,
    "tune": SweepConfig,
    "evaluate": ReleaseConfig,
    "release": ReleaseConfig,
    "golden_path": GoldenPathConfig,
    "deploy": ServeFile,
    "publish_features": FeatureFeedConfig,
    "score_batch": ScoreConfig,
    "monitor": MonitorConfig,
    "add_weights": WeightsConfig,
}

JOBS_OF_FOLDER: dict[str, tuple[str, ...]] = {
    "snapshots": ("build_snapshot",),
    "training": ("train",),
    "sweeps": ("tune",),
    "releases": ("release",),
    "golden_paths": ("golden_path",),
    "serving": ("deploy",),
    "features": ("publish_features",),
    "operations": ("score_batch", "monitor"),
    "weights": ("add_weights",),
}

MAX_WORKING_DIR_BYTES = 5 * 1024 * 1024


def choose_job(path: str, keys: Iterable[str], wanted: str | None) -> str:
    """The job for a config: `wanted`, or the one that its folder and its top-level keys name.

    Raises ConfigError when that is no job or more than one.
    """
    if wanted is not None:
        if wanted not in CONFIG_OF_JOB:
            raise ConfigError(
                f"job {wanted!r} does not exist", f"choose one of {', '.join(CONFIG_OF_JOB)}"
            )
        return wanted
    folder = PurePosixPath(path).parent.name
    jobs = JOBS_OF_FOLDER.get(folder, ())
    if len(jobs) > 1:
        present = set(keys)
        jobs = tuple(j for j in jobs if present <= set(CONFIG_OF_JOB[j].model_fields))
    if len(jobs) != 1:
        by_name = f"name the job: --job {'|'.join(CONFIG_OF_JOB)}"
        if folder in JOBS_OF_FOLDER:
            fits = " and ".join(jobs) or f"neither {' nor '.join(JOBS_OF_FOLDER[folder])}"
            raise ConfigError(f"{path}: its keys fit {fits}", by_name)
        if folder == "flags":
            raise ConfigError(
                f"{path}: flags are published, and no job", f"rayapp flags publish {path}"
            )
        if folder == "prompts":
            raise ConfigError(
                f"{path}: a prompt is no job, it is read by those whose config names it",
                "submit the training that does",
            )
        known = ", ".join(f"configs/{name}/" for name in JOBS_OF_FOLDER)
        raise ConfigError(
            f"{path}: the folder tells which job a config is for, and {folder!r} tells none; "
            f"those that do are {known}",
            f"move it there, or {by_name}",
        )
    return jobs[0]


def path_in(working_dir: Path, config: str) -> str:
    """The config's path as the job sees it, which runs in a copy of the working directory."""
    absolute = Path(config).absolute()
    if absolute.is_relative_to(working_dir):
        return absolute.relative_to(working_dir).as_posix()
    raise UserError(
        f"{config} is outside the working directory {working_dir}, which is all that travels",
        "change into the project and name the config from there",
    )


def submission_id(job: str, config: str, now_s: int) -> str:
    """Names the job in the dashboard: what, with which config, and when."""
    stem = re.sub(r"[^a-zA-Z0-9_-]", "-", PurePosixPath(config).stem)
    return f"{job}-{stem}-{now_s}"


def require_small(sizes: Mapping[str, int], limit_bytes: int = MAX_WORKING_DIR_BYTES) -> None:
    """Raises UserError naming the largest files when the working directory is too big to travel."""
    total = sum(sizes.values())
    if total <= limit_bytes:
        return
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    listed = ", ".join(f"{name} ({_mb(size)})" for name, size in largest)
    raise UserError(
        f"the working directory holds {_mb(total)}, the limit is {_mb(limit_bytes)}; "
        f"largest: {listed}",
        "keep data outside the project and name it by an absolute path or URI, "
        "or list it in .rayignore",
    )


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1024 / 1024:.1f} MB"


def next_commands(job: str, config: str, figures: Mapping[str, Any]) -> Sequence[str]:
    """What a person does after this job succeeded, most useful first."""
    name = PurePosixPath(config).name
    match job:
        case "build_snapshot":
            return ["rayapp submit configs/training/<model>.yaml"]
        case "train":
            return [f"rayapp submit configs/releases/{name}"]
        case "tune":
            found = figures["best_settings"].items()
            settings = " ".join(f"{figures['family']}.{name}={value}" for name, value in found)
            return [f"rayapp submit {figures['training']} {settings}"]
        case "evaluate":
            return [f"rayapp submit {config}"]
        case "release":
            ask = f"rayapp ask {figures.get('endpoint', 'ENDPOINT')}"
            ask += ' "…"' if figures.get("task") == "text" else ""
            return [ask, "rayapp audit verify"]
        case "deploy":
            of_rows = [c for c in figures["champions"] if c not in figures["adapters"].values()]
            asks = [f"rayapp ask {champion}" for champion in of_rows]
            asks += [
                f'rayapp ask {model} "What is the capital of France?"'
                for model, task in figures["models"].items()
                if task == "generate"
            ]
            return asks or ["rayapp submit configs/golden_paths/<use case>.yaml"]
        case "add_weights":
            return ["rayapp submit configs/serving/llm.yaml"]
        case "publish_features":
            return ["rayapp submit configs/serving/<name>.yaml, whose endpoint names it in `feeds`"]
        case "golden_path":
            asks = [f"rayapp ask {figures['endpoint']}"] if "endpoint_url" in figures else []
            return [*asks, "rayapp kpis", "rayapp audit verify"]
    return ["rayapp kpis"]
