"""Where language models run: in an environment of their own, as vLLM pins what rayapp does not."""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayapp.config.language import VllmConfig
from rayapp.errors import UserError

VARIABLE = "RAYAPP_LLM_VENV"
NAME = ".venv-llm"
"""Beside the environment that this runs in: where a job's code is copied to says nothing."""


SERVING, TUNING = ("vllm",), ("transformers", "peft")
"""What must be at hand for each, to do it in the environment that this runs in."""


def runtime_env(
    environ: Mapping[str, str] | None = None, modules: Sequence[str] = SERVING
) -> dict[str, Any]:
    """Ray's runtime environment for what needs `modules`: empty where these are at hand in this
    environment, as in an image that has everything.

    Raises UserError where there is neither them nor an environment that has them.
    """
    environ = os.environ if environ is None else environ
    given = environ.get(VARIABLE)
    if given is None and all(importlib.util.find_spec(name) is not None for name in modules):
        return {}
    folder = Path(given).expanduser().absolute() if given else Path(sys.prefix).parent / NAME
    python = folder / "bin" / "python"
    if not python.is_file():
        raise UserError(
            f"there is no environment for language models at {folder}",
            f"make it: scripts/setup llm (or name another one in {VARIABLE})",
        )
    return {"py_executable": str(python)}


_WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}


def tuning_env(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Ray's runtime environment for what tunes, evaluates or judges. Raises as `runtime_env` does.

    Threads of torch that wait for each other sleep, where `environ` does not say otherwise. If they
    spin, as is usual, and other work needs their CPUs, what holds them up are the ones that spin:
    with two threads on two busy CPUs that took ten times as long.
    """
    environ = os.environ if environ is None else environ
    variables = {name: environ.get(name, value) for name, value in _WAITING.items()}
    return {**runtime_env(environ, TUNING), "env_vars": variables}


_OFFLINE = {
    # weights are at hand, by content: nothing is looked for elsewhere, and nobody told
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def engine_variables(config: VllmConfig) -> dict[str, str]:
    """Environment variables of an engine's processes."""
    size = config.kv_cache_gib
    cache = {} if size is None else {"VLLM_CPU_KVCACHE_SPACE": str(size)}
    return {**_OFFLINE, **cache, **config.environment}


LIBRARIES = ("transformers", "peft", "tokenizers", "torch")


def libraries_of(environment: Mapping[str, Any]) -> list[str]:
    """`name==version` of what decides the weights that come out of tuning in `environment`, which
    `runtime_env` made; in this one where that is empty."""
    python = environment.get("py_executable")
    folders = sys.path if python is None else _site_packages(Path(python))
    found = importlib.metadata.distributions(path=folders)
    versions = {one.metadata["Name"].lower(): one.version for one in found}
    return [f"{name}=={versions[name]}" for name in LIBRARIES if name in versions]


def _site_packages(python: Path) -> list[str]:
    return [str(path) for path in python.parent.parent.glob("lib/python*/site-packages")]
