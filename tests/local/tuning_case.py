"""What test_tuning.py asks, computed in the environment of language models, where transformers and
peft are: python tuning_case.py FOLDER, one JSON object out. The model has two layers and 64 words.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rayapp.config.training import LlmConfig
from rayapp.errors import RayappError
from rayapp.families.base import Compute, Problem, Progress, family
from rayapp.families.llm.network import AnswerLoss
from rayapp.families.llm.packing import Packed, pack
from rayapp.families.llm.prompt import Example
from rayapp.schemas.language import WeightsRef
from rayapp.storage import digest_folder, folder_digest

LENGTH, NUM_STEPS, CHECKPOINT_EVERY = 32, 30, 10
END = 2


def main(folder: Path) -> dict[str, Any]:
    case = Case(folder)
    return {
        "packing": case.packed_against_apart(),
        "fits": case.fits(),
        "accumulation": case.accumulated(),
        "files": case.files_are_read_by_others(),
        "full": case.full(),
        "full_in_bfloat16": case.full_in_bfloat16(),
        "refused": case.refused(),
    }


class Case:
    """The answer is one of two, by the prompt's last word."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base"
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            eos_token_id=END,
            initializer_range=0.2,  # else no adapter could make one word much likelier
        )
        LlamaForCausalLM(config).save_pretrained(self.base)
        files = digest_folder(self.base)
        self.weights = WeightsRef(
            name="tiny",
            uri=str(self.base),
            digest=folder_digest(files),
            files=files,
            task="generate",
            source="made here",
            source_sha256=None,
            license="none",
            architecture="LlamaForCausalLM",
            num_parameters=0,
            max_context_tokens=128,
        )
        generator = np.random.default_rng(5)
        self.examples = []
        for _ in range(120):
            last = int(generator.integers(2))
            prompt = [*generator.integers(5, 64, generator.integers(3, 9)).tolist(), 3 + last]
            answer = [*((10, 11), (20, 21))[last], END]
            self.examples.append(Example([*prompt, *answer], len(prompt)))
        self.packed = pack(self.examples, LENGTH, 0)

    def source(self) -> Iterator[Packed]:
        for start in range(0, len(self.packed), 10):
            yield self.packed.take(slice(start, start + 10))

    def fit(
        self, name: str, resume: Path | None = None, train: Any = None, **settings: Any
    ) -> list[Progress]:
        chosen: dict[str, Any] = {
            "base_model": "tiny",
            "prompt": "unused",
            "sequence_tokens": LENGTH,
            "num_steps": NUM_STEPS,
            "batch_size": 4,
            "learning_rate": 0.02,
            "lora": {"dropout": 0.1},
        }
        config = LlmConfig.model_validate(chosen | settings)
        seen: list[Progress] = []

        def on_progress(progress: Progress) -> None:
            seen.append(progress)
            if progress.is_checkpoint:
                progress.save(self.folder / name / str(progress.step))

        problem = Problem("text", 0, (), 7, len(self.examples), self.weights)
        family("llm").fit(
            problem,
            config.model_dump(),
            train or self.source,
            self.source,
            CHECKPOINT_EVERY,
            resume,
            on_progress,
            Compute(),
        )
        return seen

    def packed_against_apart(self) -> dict[str, float]:
        loss = AnswerLoss(AutoModelForCausalLM.from_pretrained(self.base)).eval()
        together = self._loss(loss, self.packed)
        apart = sum(self._loss(loss, pack([one], LENGTH, 0)) for one in self.examples)
        row = pack(self.examples[:1], LENGTH, 0)
        ids = torch.tensor(row.tokens_NL).long()
        labels = ids.masked_fill(~torch.tensor(row.is_answer_NL), -100)
        whole = loss.network(input_ids=ids, labels=labels).loss
        return {
            "together": together,
            "apart": apart,
            "first": self._loss(loss, row) / int(row.is_answer_NL.sum()),
            "first_by_transformers": float(whole),
        }

    def _loss(self, loss: AnswerLoss, packed: Packed) -> float:
        tensors = [torch.tensor(array) for array in packed.columns().values()]
        with torch.no_grad():
            return float(loss(tensors[0].long(), tensors[1].long(), tensors[2])[0])

    def fits(self) -> dict[str, Any]:
        whole = self.fit("whole", merge=True)
        resumed = self.fit("resumed", self.folder / "whole" / "10", merge=True)
        again = self.fit("again", self.folder / "whole" / str(NUM_STEPS), merge=True)
        other = self.fit("other", merge=True)
        return {
            "steps": [[p.step, p.is_checkpoint] for p in whole],
            "resumed_steps": [p.step for p in resumed if p.is_checkpoint],
            "again_steps": [p.step for p in again],
            "first": whole[0].metrics,
            "last": whole[-1].metrics,
            "digests": {
                name: self._digests(name) for name in ("whole", "resumed", "again", "other")
            },
            "same_history": [p.metrics for p in whole] == [p.metrics for p in other],
        }

    def _digests(self, name: str) -> dict[str, str]:
        folder = self.folder / name / str(NUM_STEPS)
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def accumulated(self) -> float:
        """The largest difference of a learned weight between micro-batches of 1 and of 4."""
        plain: dict[str, Any] = {"num_steps": 5, "lora": {}}
        self.fit("small", micro_batch_size=1, **plain)
        self.fit("large", micro_batch_size=4, **plain)
        small, large = (self._tuned(self.folder / name / "5") for name in ("small", "large"))
        return max(float((a - b).abs().max()) for a, b in zip(small, large, strict=True))

    def _tuned(self, folder: Path) -> list[torch.Tensor]:
        network = PeftModel.from_pretrained(self._fresh(), folder)
        return [p.detach() for name, p in network.named_parameters() if "lora_" in name]

    def _fresh(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.base)

    def files_are_read_by_others(self) -> dict[str, Any]:
        folder = self.folder / "whole" / str(NUM_STEPS)
        tokens = torch.tensor(self.packed.tokens_NL[:2]).long()
        adapted = PeftModel.from_pretrained(self._fresh(), folder).eval()
        merged = AutoModelForCausalLM.from_pretrained(folder / "merged").eval()
        with torch.no_grad():
            logits = [model(input_ids=tokens).logits for model in (adapted, merged, self._fresh())]
        config = json.loads((folder / "adapter_config.json").read_text())
        return {
            "merged_differs_by": float((logits[0] - logits[1]).abs().max()),
            "base_differs_by": float((logits[0] - logits[2]).abs().max()),
            "config": {key: config[key] for key in ("r", "peft_type", "base_model_name_or_path")},
        }

    def full(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"method": "full", "lora": {}, "learning_rate": 0.003}
        whole = self.fit("full", **plain)
        self.fit("full_resumed", self.folder / "full" / "10", **plain)
        return {
            "last": whole[-1].metrics,
            "whole": self._digests("full"),
            "resumed": self._digests("full_resumed"),
        }

    def full_in_bfloat16(self) -> dict[str, Any]:
        """A fit that learns, and one whose steps are smaller than bfloat16 can tell."""
        plain: dict[str, Any] = {"method": "full", "lora": {}, "precision": "bfloat16"}
        learned = self.fit("half", **plain, learning_rate=0.003)
        self.fit("small_steps", **plain, learning_rate=2e-5, num_steps=5)
        small = AutoModelForCausalLM.from_pretrained(self.folder / "small_steps" / "5")
        pairs = list(zip(small.parameters(), self._fresh().parameters(), strict=True))
        moved = sum(int((a != b.to(a.dtype)).sum()) for a, b in pairs)
        return {
            "last": learned[-1].metrics,
            "moved": moved / sum(a.numel() for a, _ in pairs),
            "dtype": str(small.dtype),
        }

    def refused(self) -> dict[str, str]:
        attempts: dict[str, dict[str, Any]] = {
            "qlora": {"method": "qlora"},
            "no rows": {"train": lambda: iter(())},
        }
        found = {}
        for name, given in attempts.items():
            try:
                self.fit("refused", **given)
            except RayappError as error:
                found[name] = str(error)
        return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))) + "\n")
