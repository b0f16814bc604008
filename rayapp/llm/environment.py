"""Where language models run: in an environment of their own, as vLLM pins what rayapp does not."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayapp.errors import UserError

VARIABLE = "RAYAPP_LLM_VENV"
NAME = ".venv-llm"
"""Beside the environment that this runs in: where a job's code is copied to says nothing."""


def runtime_env(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Ray's runtime environment for what needs vLLM or transformers: empty where these are at hand
    in this environment, as in an image that has everything.

    Raises UserError where there is neither them nor an environment that has them.
    """
    environ = os.environ if environ is None else environ
    given = environ.get(VARIABLE)
    if given is None and importlib.util.find_spec("vllm") is not None:
        return {}
    folder = Path(given).expanduser().absolute() if given else Path(sys.prefix).parent / NAME
    python = folder / "bin" / "python"
    if not python.is_file():
        raise UserError(
            f"there is no environment for language models at {folder}",
            f"make it: scripts/setup llm (or name another one in {VARIABLE})",
        )
    return {"py_executable": str(python)}
