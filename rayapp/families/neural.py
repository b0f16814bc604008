"""A multi-layer perceptron over standardised numbers and category embeddings (PyTorch).

In a process group (Ray's TorchTrainer, nccl with GPUs and gloo without) the gradients are averaged
by DistributedDataParallel; alone it is a plain module. A checkpoint is weights, optimizer state and
the number of finished epochs, all as safetensors and JSON; shuffling and dropout are functions of
(seed, epoch), so a resumed fit on a CPU ends with the same weights as a whole one.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rayapp.errors import DataError
from rayapp.families.base import (
    ENCODED_ROWS,
    Batch,
    BatchSource,
    Compute,
    Problem,
    Progress,
    Reading,
)
from rayapp.families.network import (
    Network,
    NetworkModel,
    architecture_of,
    predict_network,
    read_network,
    write_network,
)
from rayapp.families.resuming import load_progress, save_progress
from rayapp.families.scores import tune_metrics

SHUFFLE_ROWS = 262_144
"""Rows that are mixed at a time; a split that is larger is mixed in windows of this size."""
WARM_UP = 0.1
MAX_GRADIENT_NORM = 5.0


class Neural:
    def trainer(self) -> str:
        return "torch"

    def unit(self) -> str:
        return "epoch"

    def reading(self) -> Reading:
        return ENCODED_ROWS

    def num_steps(self, settings: dict[str, Any]) -> int:
        return int(settings["num_epochs"])

    def fit(
        self,
        problem: Problem,
        settings: dict[str, Any],
        train: BatchSource,
        valid: BatchSource | None,
        checkpoint_every: int,
        resume_from: Path | None,
        on_progress: Callable[[Progress], None],
        compute: Compute,
    ) -> None:
        torch.set_num_threads(compute.num_threads)
        run = _Run(problem, settings, compute, resume_from)
        if resume_from is None and problem.task == "regression":
            run.scale_label(train)
        total = self.num_steps(settings)
        for epoch in range(min(run.epochs_done, total - 1), total):
            loss = run.train_epoch(epoch, train) if epoch >= run.epochs_done else math.nan
            metrics = run.measure(valid)
            if math.isfinite(loss):
                metrics["train_loss"] = loss
            done = epoch + 1
            on_progress(
                Progress(
                    step=done,
                    total_steps=total,
                    metrics=metrics,
                    is_checkpoint=done == total or done % checkpoint_every == 0,
                    save=run.save,
                )
            )

    def load(self, folder: Path, num_threads: int = 1) -> "NetworkModel":
        """Sets PyTorch's thread count for the whole process: it has no narrower switch."""
        torch.set_num_threads(num_threads)
        return NetworkModel(read_network(folder))


class _Run:
    """The state of one fit in one process."""

    def __init__(
        self,
        problem: Problem,
        settings: dict[str, Any],
        compute: Compute,
        resume_from: Path | None,
    ) -> None:
        self.problem = problem
        self.settings = settings
        self.device = torch.device(compute.device)
        torch.manual_seed(problem.seed)
        network = (
            read_network(resume_from)
            if resume_from
            else Network(architecture_of(problem, settings))
        )
        self.network = network.to(self.device)
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.module: nn.Module = self.network
        if self.world_size > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            self.module = DistributedDataParallel(self.network, device_ids=ids)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings["learning_rate"],
            weight_decay=settings["weight_decay"],
        )
        self.epochs_done = 0
        self.steps_done = 0
        if resume_from is not None:
            self._resume(resume_from)
        rows_per_step = settings["batch_size"] * self.world_size
        self.total_steps = settings["num_epochs"] * max(1, problem.num_rows // rows_per_step)

    def scale_label(self, train: BatchSource) -> None:
        """One pass to learn the label's mean and deviation, over the rows of all workers."""
        sums = torch.zeros(3, dtype=torch.float64)
        for batch in train():
            y_N = batch.y_N.astype(np.float64)
            sums += torch.tensor([len(y_N), y_N.sum(), (y_N**2).sum()], dtype=torch.float64)
        sums = sums.to(self.device)
        if self.world_size > 1:
            dist.all_reduce(sums)
        count, total, squares = sums.tolist()
        if not count:
            raise _no_rows()
        mean = total / count
        self.network.label_mean.fill_(mean)
        std = math.sqrt(max(squares / count - mean**2, 0.0)) or 1.0
        self.network.label_std.fill_(std)

    def train_epoch(self, epoch: int, train: BatchSource) -> float:
        """Mean loss over this worker's rows. Raises DataError for no rows or no finite loss."""
        torch.manual_seed(self.problem.seed * 1_000_003 + epoch)
        self.module.train()
        loss_sum = torch.zeros((), device=self.device)
        num_rows = 0
        seed = (self.problem.seed, epoch)
        for batch in _mixed(train(), self.settings["batch_size"], seed):
            loss = self._step(batch)
            loss_sum += loss * len(batch.y_N)
            num_rows += len(batch.y_N)
        if not num_rows:
            raise _no_rows()
        mean_loss = float(loss_sum) / num_rows
        if not math.isfinite(mean_loss):
            raise DataError(
                f"the training loss of epoch {epoch + 1} is not finite",
                "lower learning_rate, or look for extreme values in the features",
            )
        self.epochs_done = epoch + 1
        return mean_loss

    def _step(self, batch: Batch) -> Tensor:
        x_NF = torch.from_numpy(batch.x_NF).to(self.device)
        y_N = torch.from_numpy(batch.y_N).to(self.device)
        rate = self.settings["learning_rate"] * _schedule(self.steps_done / self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._loss(self.module(x_NF), y_N)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.steps_done += 1
        return loss.detach()

    def _loss(self, out: Tensor, y_N: Tensor) -> Tensor:
        if self.problem.task == "binary":
            return nn.functional.binary_cross_entropy_with_logits(out, y_N)
        if self.problem.task == "multiclass":
            return nn.functional.cross_entropy(out, y_N.long())
        scaled_N = (y_N - self.network.label_mean) / self.network.label_std
        return nn.functional.smooth_l1_loss(out, scaled_N)

    def measure(self, valid: BatchSource | None) -> dict[str, float]:
        if valid is None:
            return {}
        self.network.eval()
        batches = [batch for batch in valid() if batch.y_N.size]
        if not batches:
            return {}
        scores = [predict_network(self.network, batch.x_NF, self.device) for batch in batches]
        y_N = np.concatenate([batch.y_N for batch in batches])
        return tune_metrics(self.problem.task, np.concatenate(scores), y_N)

    def save(self, folder: Path) -> None:
        done = {"epochs_done": self.epochs_done, "steps_done": self.steps_done}
        save_progress(folder, self.optimizer, done)
        write_network(self.network, folder)

    def _resume(self, folder: Path) -> None:
        done = load_progress(folder, self.optimizer)
        self.epochs_done, self.steps_done = done["epochs_done"], done["steps_done"]


def _schedule(done: float) -> float:
    """Share of the learning rate after a share `done` of the steps: up in a line, down a cosine."""
    if done < WARM_UP:
        return (done + 0.01) / (WARM_UP + 0.01)
    rest = min(1.0, (done - WARM_UP) / (1 - WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * rest)) + 1e-3


def _mixed(batches: Iterator[Batch], batch_size: int, seed: tuple[int, int]) -> Iterator[Batch]:
    """Batches of batch_size rows, mixed within windows of SHUFFLE_ROWS; the last may be smaller."""
    generator = np.random.default_rng(seed)
    window: list[Batch] = []
    held = 0
    for batch in batches:
        window.append(batch)
        held += len(batch.y_N)
        if held >= SHUFFLE_ROWS:
            yield from _emit(window, batch_size, generator)
            window, held = [], 0
    if held:
        yield from _emit(window, batch_size, generator)


def _emit(window: list[Batch], batch_size: int, generator: np.random.Generator) -> Iterator[Batch]:
    x_NF = np.concatenate([batch.x_NF for batch in window])
    y_N = np.concatenate([batch.y_N for batch in window])
    order = generator.permutation(len(y_N))
    for start in range(0, len(y_N), batch_size):
        rows = order[start : start + batch_size]
        yield Batch(x_NF[rows], y_N[rows])


def _no_rows() -> DataError:
    return DataError("a pass over the training rows yielded none", "check the train split")
