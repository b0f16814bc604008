"""The state of one fit in one process: network, optimizer, place in the data.

In a process group (Ray's TorchTrainer) each worker has its own sequences, and gradients are those
of the mean over the answer tokens of all of them: of one worker with so many times the sequences,
were it not for their order.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rayapp.errors import DataError
from rayapp.families.base import BatchSource, Compute, Problem
from rayapp.families.llm.network import (
    MERGED_FOLDER,
    AnswerLoss,
    computing,
    open_network,
    write_merged,
    write_network,
)
from rayapp.families.llm.order import Place, steps
from rayapp.families.llm.packing import Packed, segments
from rayapp.families.llm.weights import base_folder
from rayapp.families.resuming import load_progress, save_progress

WARM_UP = 0.1
MAX_GRADIENT_NORM = 1.0


class Tuning:
    def __init__(
        self,
        problem: Problem,
        settings: dict[str, Any],
        compute: Compute,
        resume_from: Path | None,
    ) -> None:
        assert problem.base is not None, "a language model is tuned from weights"
        torch.set_num_threads(compute.num_threads)
        torch.manual_seed(problem.seed)
        self._base, self._base_name = base_folder(problem.base), problem.base.name
        self._seed, self._settings = problem.seed, settings
        self._device = torch.device(compute.device)
        self._network = open_network(self._base, settings, self._device, resume_from)
        loss = AnswerLoss(self._network, computing(settings))
        self._num_workers = dist.get_world_size() if dist.is_initialized() else 1
        self._loss: nn.Module = loss
        if self._num_workers > 1:
            ids = [self._device] if self._device.type == "cuda" else None
            self._loss = DistributedDataParallel(loss, device_ids=ids)
        self._learned = [p for p in loss.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._learned, lr=settings["learning_rate"], weight_decay=settings["weight_decay"]
        )
        self.steps_done = 0
        self._place = Place()
        if resume_from is not None:
            self._resume(resume_from)

    def steps(self, train: BatchSource, total: int) -> Iterator[float]:
        """The mean loss of each step that is left, over this worker's answer tokens. Raises
        DataError for no rows or no finite loss."""
        batches = steps(train, self._settings["batch_size"], self._seed, self._place)
        while self.steps_done < total:
            batch, self._place = next(batches)
            rank = dist.get_rank() if dist.is_initialized() else 0
            torch.manual_seed(
                (self._seed * 1_000_003 + self.steps_done) * 1_009 + rank
            )  # of dropout
            self._set_rate(total)
            loss = self._step(batch)
            if not math.isfinite(loss):
                raise DataError(
                    f"the training loss of step {self.steps_done + 1} is not finite",
                    "lower llm.learning_rate",
                )
            self.steps_done += 1
            yield loss

    def _set_rate(self, total: int) -> None:
        done = (self.steps_done + 1) / total
        share = (
            min(1.0, done / WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(1.0, done - 1 / total)))
        )
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings["learning_rate"] * share

    def _step(self, batch: Packed) -> float:
        """Gradients of micro-batches add up to those of the mean over the step's answer tokens."""
        self._network.train()
        num_own = int(batch.is_answer_NL[:, 1:].sum())
        num_all = torch.tensor(float(num_own), device=self._device)
        if self._num_workers > 1:
            dist.all_reduce(num_all)
        self._optimizer.zero_grad(set_to_none=True)
        scale = self._num_workers / max(1.0, float(num_all))  # workers' gradients are averaged
        total = 0.0
        size = self._settings["micro_batch_size"]
        starts = range(0, len(batch), size)
        for start in starts:
            is_last = start == starts[-1]
            waits = isinstance(self._loss, DistributedDataParallel) and not is_last
            with self._loss.no_sync() if waits else nullcontext():  # type: ignore[operator]
                loss, _ = self._loss(*self._tensors(batch.take(slice(start, start + size))))
                (loss * scale).backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(self._learned, MAX_GRADIENT_NORM)
        self._optimizer.step()
        return total / max(1, num_own)

    def _tensors(self, batch: Packed) -> tuple[Tensor, Tensor, Tensor]:
        """Padding at the end of every sequence is not computed."""
        used = _num_used(batch)
        arrays = (batch.tokens_NL, batch.positions_NL, batch.is_answer_NL)
        tokens, positions, is_answer = (
            torch.tensor(np.ascontiguousarray(array[:, :used]), device=self._device)
            for array in arrays
        )
        return tokens.long(), positions.long(), is_answer

    def measure(self, valid: BatchSource | None) -> dict[str, float]:
        """answer_loss in nats a token, token_accuracy, and exact_match: the share of rows of which
        every answer token is the likeliest, which greedy decoding would answer exactly."""
        if valid is None:
            return {}
        self._network.eval()
        module = AnswerLoss(self._network, computing(self._settings))
        loss_sum, num_tokens, num_wrong, num_rows, num_exact = 0.0, 0, 0, 0, 0
        for piece in valid():
            for start in range(0, len(piece), self._settings["micro_batch_size"]):
                batch = piece.take(slice(start, start + self._settings["micro_batch_size"]))
                with torch.no_grad():
                    loss, wrong = module(*self._tensors(batch))
                wrong_NL = np.zeros_like(batch.is_answer_NL)
                wrong_NL[:, : wrong.shape[1]] = wrong.cpu().numpy()
                exact, rows = exact_rows(batch, wrong_NL)
                loss_sum += float(loss)
                num_tokens += int(batch.is_answer_NL.sum())
                num_wrong += int(wrong_NL.sum())
                num_rows, num_exact = num_rows + rows, num_exact + exact
        if not num_rows:
            return {}
        return {
            "answer_loss": loss_sum / num_tokens,
            "token_accuracy": 1 - num_wrong / num_tokens,
            "exact_match": num_exact / num_rows,
        }

    def save(self, folder: Path) -> None:
        write_network(self._network, self._base, self._base_name, folder)
        state = {"steps_done": self.steps_done, "place": asdict(self._place)}
        save_progress(folder, self._optimizer, state)

    def save_last(self, folder: Path) -> None:
        self.save(folder)
        if self._settings["merge"]:
            write_merged(self._network, self._base, folder / MERGED_FOLDER)

    def _resume(self, folder: Path) -> None:
        state = load_progress(folder, self._optimizer)
        self.steps_done, self._place = state["steps_done"], Place(**state["place"])


def _num_used(batch: Packed) -> int:
    """Tokens up to the last answer's end; behind it is padding only."""
    answers = np.flatnonzero(batch.is_answer_NL.any(axis=0))
    return int(answers[-1]) + 1 if len(answers) else batch.is_answer_NL.shape[1]


def exact_rows(batch: Packed, wrong_NL: Any) -> tuple[int, int]:
    """Rows that have an answer without a wrong token, and rows that have an answer."""
    example_NL = segments(batch.positions_NL)
    stride = batch.positions_NL.shape[1] + 1
    key_NL = example_NL + stride * np.arange(len(batch))[:, None]
    answered = np.unique(key_NL[batch.is_answer_NL])
    failed = np.unique(key_NL[wrong_NL])
    return len(answered) - len(failed), len(answered)
