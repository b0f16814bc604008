"""How many tokens a prompt has, counted by the model's own tokenizer and chat template before any
engine is asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayapp.errors import RequestError
from rayapp.schemas.language import prompts_of


class PromptCounter:
    """Of one model's weights. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def count(self, fields: Mapping[str, Any]) -> list[int]:
        """Of a request's messages, or of each prompt or input that it has. Raises RequestError for
        messages that the chat template cannot take."""
        if "messages" in fields:
            return [self._of_chat(fields)]
        given = fields.get("prompt", fields.get("input"))
        return [self._of_text(one) for one in prompts_of(given)]

    def _of_chat(self, fields: Mapping[str, Any]) -> int:
        messages = [
            {**message, "content": _as_text(message.get("content"))}
            for message in fields["messages"]
        ]
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages,
                tools=fields.get("tools"),
                add_generation_prompt=fields.get("add_generation_prompt", True),
                tokenize=False,
                **(fields.get("chat_template_kwargs") or {}),
            )
        except Exception as error:  # noqa: BLE001 - whatever the model's own template raises
            raise RequestError(
                f"the model's chat template does not take these messages ({error})",
                "see which roles and contents the model knows",
                400,
                "invalid_request",
                "messages",
            ) from None
        return len(self._tokenizer.encode(rendered, add_special_tokens=False))

    def _of_text(self, given: Any) -> int:
        """A text, or a list of token ids. What is neither, the engine refuses."""
        if isinstance(given, str):
            return len(self._tokenizer.encode(given))
        return len(given) if isinstance(given, list) else 0


def _as_text(content: Any) -> str:
    """As vLLM joins a content of several parts."""
    if not isinstance(content, list):
        return content or ""
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "\n".join(part for part in parts if isinstance(part, str))
