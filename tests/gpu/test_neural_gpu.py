"""The neural family on a real GPU: it learns there, and answers the same on a CPU afterwards."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rayapp.config.training import NeuralConfig
from rayapp.families.base import Batch, Compute, Problem, Progress
from rayapp.families.neural import Neural
from rayapp.schemas.model import EncodedFeature

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def test_fit_on_cuda_and_answer_on_cpu(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    number_N = generator.normal(size=50_000).astype(np.float32)
    category_N = generator.integers(0, 4, 50_000).astype(np.float32)
    chance_N = 1 / (1 + np.exp(-2 * number_N - (category_N == 1)))
    y_N = (generator.random(50_000) < chance_N).astype(np.float32)
    rows = Batch(np.stack([number_N, category_N], axis=1), y_N)
    features = (
        EncodedFeature(name="number", expression="number", kind="number"),
        EncodedFeature(
            name="category",
            expression="category",
            kind="category",
            vocabulary=("a", "b", "c", "d"),
        ),
    )
    seen: list[Progress] = []
    before = torch.cuda.max_memory_allocated()

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        progress.save(tmp_path / str(progress.step))

    Neural().fit(
        Problem("binary", 2, features, 7, len(y_N)),
        NeuralConfig(num_epochs=2).model_dump(),
        lambda: iter([rows]),
        lambda: iter([rows]),
        1,
        None,
        on_progress,
        Compute("cuda"),
    )
    assert torch.cuda.max_memory_allocated() > before
    assert seen[-1].metrics["auc"] > 0.8
    scores_NK = Neural().load(tmp_path / "2").predict(rows.x_NF)
    assert scores_NK[:, 1][y_N == 1].mean() > scores_NK[:, 1][y_N == 0].mean() + 0.2
