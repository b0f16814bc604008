"""Rows answered by a tuned language model, by what it was tuned from and by a champion, in batches.

For evaluation: the same rows get the same answers on the same machine, by the likeliest tokens or
by samples of a seed. Who serves it uses an engine.
"""

import copy
import hashlib
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from rayapp.families.llm.prompt import Example, example
from rayapp.families.llm.rows import tokenizer_of
from rayapp.families.llm.weights import base_folder
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import LanguageSchema
from rayapp.schemas.release import Answerer
from rayapp.transforms import feature_table

TUNED, UNTUNED, CHAMPION = "_tuned", "_untuned", "_champion"
ANSWERERS: dict[Answerer, str] = {"tuned": TUNED, "untuned": UNTUNED, "champion": CHAMPION}
"""Columns that `Answers` adds: what each model said of a row. No champion, no column."""
SAID = pa.struct(
    [
        ("texts", pa.list_(pa.string())),  # one for each sample
        ("num_tokens", pa.list_(pa.int32())),  # of each text, with the token that ends it
        ("nats", pa.list_(pa.float64())),  # the surprise of each text, as the model itself reads it
        ("right_nats", pa.float64()),  # the surprise of the row's right answer, over its tokens
        ("right_tokens", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("seconds", pa.float64()),  # its share of the time that its batch took
        ("hardware", pa.string()),
    ]
)


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn. temperature None: the likeliest token each time, so one sample."""

    max_tokens: int
    num_samples: int = 1
    temperature: float | None = None
    top_p: float = 1.0
    seed: int = 0

    def options(self) -> dict[str, Any]:
        """Of `generate`; what the weights' own defaults say of sampling is set aside."""
        if self.temperature is None:
            return {"do_sample": False}
        chosen = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return {"do_sample": True, **chosen}

    def seed_of(self, sample: int, asked: Sequence[Sequence[int]]) -> int:
        """By what is asked, so that it does not matter which process asks it, or after what."""
        text = repr((self.seed, sample, [list(tokens) for tokens in asked]))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def device_of(num_threads: int) -> str:
    """Where this process computes: on the GPU that Ray gave it, else on a CPU, with num_threads.
    Ray does not hide GPUs from a worker that asked for none; an engine may be on them."""
    import torch  # with transformers: in the environment of language models only

    torch.set_num_threads(num_threads)
    has_gpu = bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))
    return "cuda" if has_gpu else "cpu"


def _hardware(device: str, num_threads: int) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {num_threads} threads"


def network_of(folder: Path) -> Any:
    """Whole weights, in full numbers."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


@dataclass(frozen=True)
class Tuned:
    """What tuning has made of weights. files: of the bundle's model, by name; bytes, as a path of
    the driver says nothing on another node."""

    weights: WeightsRef
    language: LanguageSchema
    files: Mapping[str, bytes] = field(repr=False)

    def network(self, untuned: Any) -> Any:
        """untuned: the weights, which stay as they are."""
        from peft import PeftModel  # in the environment of language models only

        with tempfile.TemporaryDirectory(prefix="rayapp-tuned-") as folder:
            for name, data in self.files.items():
                (Path(folder) / name).write_bytes(data)
            if self.language.method == "full":
                return network_of(Path(folder))
            # merged into a copy: beside each layer, an adapter costs more than the layer
            adapted: Any = PeftModel.from_pretrained(copy.deepcopy(untuned), folder)
            return adapted.merge_and_unload()


@dataclass(frozen=True)
class _Asked:
    """A model as it is asked: with its own tokenizer, prompt and features."""

    network: Any
    tokenizer: Any
    language: LanguageSchema

    def examples(self, table: pa.Table, label: str) -> list[Example]:
        rows = feature_table(self.language.features, table).to_pylist()
        messages = [self.language.chat.messages(row) for row in rows]
        right = table.column(label).to_pylist()
        return [example(self.tokenizer, *pair) for pair in zip(messages, right, strict=True)]


class Answers:
    """A step of Ray Data, in an actor: raw rows → the same rows with what each model says. label:
    the column that has the right answers."""

    def __init__(
        self,
        tuned: Tuned,
        champion: Tuned | None,
        label: str,
        decoding: Decoding,
        num_threads: int,
    ) -> None:
        self._device = device_of(num_threads)
        self._hardware = _hardware(self._device, num_threads)
        self._label, self._decoding = label, decoding
        untuned = network_of(base_folder(tuned.weights))
        networks = {TUNED: (tuned, tuned.network(untuned)), UNTUNED: (tuned, untuned)}
        if champion is not None:
            is_same = champion.weights.digest == tuned.weights.digest
            beneath = untuned if is_same else network_of(base_folder(champion.weights))
            networks[CHAMPION] = champion, champion.network(beneath)
        self._models = {
            name: _Asked(network.to(self._device).eval(), tokenizer_of(one.weights), one.language)
            for name, (one, network) in networks.items()
        }

    def __call__(self, table: pa.Table) -> pa.Table:
        said = {
            name: pa.array(self._said(model, model.examples(table, self._label)), SAID)
            for name, model in self._models.items()
        }
        for name, column in said.items():
            table = table.append_column(name, column)
        return table

    def _said(self, model: _Asked, made: Sequence[Example]) -> list[dict[str, Any]]:
        asked = [one.tokens[: one.num_prompt_tokens] for one in made]
        began = time.perf_counter()
        writer = Writer(model.tokenizer, self._device)
        samples = [
            writer.answers(model.network, asked, self._decoding, n)
            for n in range(self._decoding.num_samples)
        ]
        seconds = (time.perf_counter() - began) / max(len(made), 1)
        return [
            {
                "texts": [answers[i][0] for answers in samples],
                "num_tokens": [len(answers[i][1]) for answers in samples],
                "nats": [
                    self._nats(model.network, _answered(one, answers[i][1])) for answers in samples
                ],
                "right_nats": self._nats(model.network, one),
                "right_tokens": len(one.tokens) - one.num_prompt_tokens,
                "prompt_tokens": one.num_prompt_tokens,
                "seconds": seconds,
                "hardware": self._hardware,
            }
            for i, one in enumerate(made)
        ]

    def _nats(self, model: Any, one: Example) -> float:
        """The surprise of what follows the prompt. Row by row: a batch's logits over a whole
        vocabulary can be larger than the model."""
        import torch

        num_tokens = len(one.tokens) - one.num_prompt_tokens
        tokens = torch.tensor([one.tokens], device=self._device)
        with torch.no_grad():
            found = model(input_ids=tokens, logits_to_keep=num_tokens + 1, use_cache=False)
        logits = found.logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, tokens[0, -num_tokens:], reduction="sum")
        return float(loss)


@dataclass(frozen=True)
class Writer:
    """Models on one device write, several prompts at a time."""

    tokenizer: Any
    device: str

    def answers(
        self, model: Any, asked: Sequence[Sequence[int]], decoding: Decoding, sample: int = 0
    ) -> list[tuple[str, list[int]]]:
        """One for each prompt, with its tokens."""
        import torch

        longest = max((len(tokens) for tokens in asked), default=0)
        end = self.tokenizer.eos_token_id
        padded = [[end] * (longest - len(tokens)) + list(tokens) for tokens in asked]
        is_said = [[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in asked]
        if not padded:
            return []
        torch.manual_seed(decoding.seed_of(sample, asked))
        with torch.no_grad():
            found = model.generate(
                input_ids=torch.tensor(padded, device=self.device),
                attention_mask=torch.tensor(is_said, device=self.device),
                max_new_tokens=decoding.max_tokens,
                eos_token_id=end,
                pad_token_id=end,
                **decoding.options(),
            )
        said = found[:, longest:]
        texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        ended = [_ended(tokens, end) for tokens in said.tolist()]
        return [(text.strip(), tokens) for text, tokens in zip(texts, ended, strict=True)]


def _ended(tokens: list[int], end: int) -> list[int]:
    """Up to the first that ends an answer, which counts; what follows fills up the batch."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def _answered(asked: Example, answer: Sequence[int]) -> Example:
    """The same prompt, with this answer."""
    prompt = asked.tokens[: asked.num_prompt_tokens]
    return Example([*prompt, *answer], asked.num_prompt_tokens)
