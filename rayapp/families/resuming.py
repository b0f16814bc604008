"""What only going on with a fit needs, beside the model: an optimizer's state and how far the fit
was, as safetensors and JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from rayapp.families.base import RESUME
from rayapp.schemas.record import canonical_json

OPTIMIZER_FILE = f"{RESUME}/optimizer.safetensors"
STATE_FILE = f"{RESUME}/state.json"


def save_progress(folder: Path, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    (folder / RESUME).mkdir(parents=True, exist_ok=True)
    moments = {
        f"{index}.{name}": tensor.detach().cpu().contiguous()
        for index, of_one in optimizer.state_dict()["state"].items()
        for name, tensor in of_one.items()
    }
    save_file(moments, folder / OPTIMIZER_FILE)
    (folder / STATE_FILE).write_bytes(canonical_json(dict(state)))


def load_progress(folder: Path, optimizer: Optimizer) -> dict[str, Any]:
    """Brings the optimizer to where it was; returns the state that was saved with it."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / OPTIMIZER_FILE).items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state: dict[str, Any] = json.loads((folder / STATE_FILE).read_bytes())
    return state
