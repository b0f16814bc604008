"""Rows answered by a tuned language model and by what it was tuned from, a batch at a time.

For evaluation: greedy, so that the same rows get the same answers. Who serves it uses an engine.
"""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayapp.families.base import Base
from rayapp.families.llm.prompt import prompt_tokens
from rayapp.families.llm.rows import tokenizer_of
from rayapp.families.llm.weights import base_folder
from rayapp.schemas.model import LanguageSchema
from rayapp.transforms import feature_table

TUNED, UNTUNED = "_tuned", "_untuned"
"""Columns that `Answers` adds: what each model said of a row."""
SAID = pa.struct(
    [
        ("texts", pa.list_(pa.string())),
        ("num_tokens", pa.list_(pa.int32())),  # of each, with the token that ends it
    ]
)


class Answers:
    """A step of Ray Data, in an actor: raw rows → the same rows with both answers. files: of the
    bundle's model, by name; bytes, as a path of the driver says nothing on another node."""

    def __init__(
        self,
        base: Base,
        language: LanguageSchema,
        files: Mapping[str, bytes],
        max_tokens: int,
        num_threads: int,
    ) -> None:
        import torch  # with transformers and peft: in the environment of language models only
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(num_threads)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer: Any = tokenizer_of(base.weights)
        self._language, self._max_tokens = language, max_tokens
        options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
        untuned = AutoModelForCausalLM.from_pretrained(base_folder(base.weights), **options)
        with tempfile.TemporaryDirectory(prefix="rayapp-tuned-") as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            if language.method == "full":
                tuned = AutoModelForCausalLM.from_pretrained(folder, **options)
            else:  # merged into a copy: beside each layer, an adapter costs more than the layer
                adapted = PeftModel.from_pretrained(copy.deepcopy(untuned), folder)
                tuned = adapted.merge_and_unload()
        self._tuned: Any = tuned.to(self._device).eval()
        self._untuned: Any = untuned.to(self._device).eval()

    def __call__(self, table: pa.Table) -> pa.Table:
        prompt = self._language.chat
        rows = feature_table(self._language.features, table).to_pylist()
        asked = [prompt_tokens(self._tokenizer, prompt.messages(row)) for row in rows]
        for name, model in ((TUNED, self._tuned), (UNTUNED, self._untuned)):
            said = [
                {"texts": [text], "num_tokens": [num_tokens]}
                for text, num_tokens in self._answers(model, asked)
            ]
            table = table.append_column(name, pa.array(said, SAID))
        return table

    def _answers(self, model: Any, asked: Sequence[Sequence[int]]) -> list[tuple[str, int]]:
        """One for each prompt, with how many tokens it has."""
        import torch

        longest = max((len(tokens) for tokens in asked), default=0)
        end = self._tokenizer.eos_token_id
        padded = [[end] * (longest - len(tokens)) + list(tokens) for tokens in asked]
        is_said = [[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in asked]
        if not padded:
            return []
        with torch.no_grad():
            found = model.generate(
                input_ids=torch.tensor(padded, device=self._device),
                attention_mask=torch.tensor(is_said, device=self._device),
                do_sample=False,
                max_new_tokens=self._max_tokens,
                eos_token_id=end,
                pad_token_id=end,
            )
        said = found[:, longest:]
        texts = self._tokenizer.batch_decode(said, skip_special_tokens=True)
        counts = [_num_tokens(tokens, end) for tokens in said.tolist()]
        return [(text.strip(), count) for text, count in zip(texts, counts, strict=True)]


def _num_tokens(tokens: Sequence[int], end: int) -> int:
    """Up to the first that ends an answer, which counts; what follows fills up the batch."""
    return tokens.index(end) + 1 if end in tokens else len(tokens)
