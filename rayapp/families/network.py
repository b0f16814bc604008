"""The network behind the neural family: its layers, its file form, and prediction with it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rayapp.families.base import Floats, Problem
from rayapp.schemas.data import Task
from rayapp.schemas.record import canonical_json

WEIGHTS_FILE = "model.safetensors"
ARCHITECTURE_FILE = "architecture.json"
PREDICT_ROWS = 65_536
_MAX_DEVIATIONS = 10.0  # an outlier must not carry the activations away


class Network(nn.Module):
    """Numbers enter standardised with a flag for what is missing, categories as embeddings."""

    mean: Tensor
    std: Tensor
    label_mean: Tensor
    label_std: Tensor

    def __init__(self, architecture: dict[str, Any]) -> None:
        super().__init__()
        self.architecture = architecture
        numbers = [f for f in architecture["features"] if f["kind"] == "number"]
        places: dict[str, list[int]] = {"number": [], "category": []}
        for place, feature in enumerate(architecture["features"]):
            places[feature["kind"]].append(place)
        self._numbers, self._categories = places["number"], places["category"]
        # A constant of the training data, kept with the weights so that a file is enough.
        self.register_buffer("mean", torch.tensor([f["mean"] for f in numbers]))
        self.register_buffer("std", torch.tensor([f["std"] for f in numbers]))
        self.regression = architecture["task"] == "regression"
        self.register_buffer("label_mean", torch.tensor(0.0))
        self.register_buffer("label_std", torch.tensor(1.0))
        dim = architecture["embedding_dim"]
        # Two places beyond the vocabulary: a category never seen, and none at all.
        sizes = [f["size"] + 2 for f in architecture["features"] if f["kind"] == "category"]
        self._sizes = sizes
        self.embeddings = nn.ModuleList(nn.Embedding(size, dim) for size in sizes)
        width = 2 * len(numbers) + dim * len(sizes)
        layers: list[nn.Module] = []
        for hidden in architecture["hidden"]:
            layers += [
                nn.Linear(width, hidden),
                nn.ReLU(),
                nn.Dropout(architecture["dropout"]),
            ]
            width = hidden
        layers.append(nn.Linear(width, _num_outputs(architecture)))
        self.layers = nn.Sequential(*layers)

    def forward(self, x_NF: Tensor) -> Tensor:
        """Logits [N] for binary, [N, K] for multiclass; standardised values [N] otherwise."""
        parts: list[Tensor] = []
        if self._numbers:
            number_NM = (x_NF[:, self._numbers] - self.mean) / self.std
            missing_NM = torch.isnan(number_NM)
            known_NM = torch.where(missing_NM, torch.zeros_like(number_NM), number_NM)
            known_NM = known_NM.clamp(-_MAX_DEVIATIONS, _MAX_DEVIATIONS)
            parts += [known_NM, missing_NM.to(number_NM.dtype)]
        places = zip(self._categories, self._sizes, self.embeddings, strict=True)
        for place, size, embedding in places:
            index_N = torch.nan_to_num(x_NF[:, place], nan=size - 1.0).long()
            parts.append(embedding(index_N))
        out: Tensor = self.layers(torch.cat(parts, dim=1))
        return out if out.shape[1] > 1 else out.squeeze(1)

    def scores(self, x_NF: Tensor) -> Tensor:
        """[N, K] probabilities, or [N, 1] values in the label's own unit."""
        out = self.forward(x_NF)
        if self.regression:
            return (out * self.label_std + self.label_mean).unsqueeze(1)
        if out.dim() == 1:
            positive = torch.sigmoid(out)
            return torch.stack([1 - positive, positive], dim=1)
        return torch.softmax(out, dim=1)


class NetworkModel:
    def __init__(self, network: Network) -> None:
        self._network = network.eval()

    def predict(self, x_NF: Floats) -> Floats:
        return predict_network(self._network, x_NF, torch.device("cpu"))


def architecture_of(problem: Problem, settings: dict[str, Any]) -> dict[str, Any]:
    features: list[dict[str, Any]] = [
        {"kind": "category", "size": len(f.vocabulary)}
        if f.kind == "category"
        else {"kind": "number", "mean": f.mean, "std": f.std}
        for f in problem.features
    ]
    return {
        "task": problem.task,
        "num_classes": problem.num_classes,
        "features": features,
        "hidden": list(settings["hidden"]),
        "embedding_dim": settings["embedding_dim"],
        "dropout": settings["dropout"],
    }


def _num_outputs(architecture: dict[str, Any]) -> int:
    task: Task = architecture["task"]
    return int(architecture["num_classes"]) if task == "multiclass" else 1


def write_network(network: Network, folder: Path) -> None:
    weights = {n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    (folder / ARCHITECTURE_FILE).write_bytes(canonical_json(network.architecture))


def read_network(folder: Path) -> Network:
    network = Network(json.loads((folder / ARCHITECTURE_FILE).read_bytes()))
    network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return network


def predict_network(network: Network, x_NF: Floats, device: torch.device) -> Floats:
    with torch.inference_mode():
        parts = [
            network.scores(torch.from_numpy(part).to(device)).cpu().numpy()
            for part in np.array_split(x_NF, max(1, math.ceil(len(x_NF) / PREDICT_ROWS)))
        ]
    scores: Floats = np.concatenate(parts)
    return scores
