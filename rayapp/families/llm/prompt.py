"""A row of raw columns → a chat → tokens: the same for training, evaluation and whoever asks later.

The base model's own chat template decides how a chat is spelled, so a tuned model is asked in the
form that its base was trained on, and any server that applies the template asks it the same way.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from rayapp.errors import DataError
from rayapp.schemas.prompt import Message


class Tokenizer(Protocol):
    """What is used of a tokenizer of transformers."""

    eos_token_id: int

    def apply_chat_template(self, conversation: Sequence[Message], **options: Any) -> Any: ...
    def encode(self, text: str, **options: Any) -> list[int]: ...


class Example(NamedTuple):
    """tokens: prompt and answer. The answer begins after num_prompt_tokens and ends with the token
    that ends a turn: these are learned, the prompt is not."""

    tokens: list[int]
    num_prompt_tokens: int


def prompt_tokens(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Up to where the model's turn begins."""
    return _tokens(tokenizer, _spelled(tokenizer, messages, add_generation_prompt=True))


def example(tokenizer: Tokenizer, messages: Sequence[Message], answer: str) -> Example:
    """Prompt and answer are tokenised apart, so that the prompt's tokens are those that a server
    will have made of it, whatever the answer begins with.

    Raises DataError where the template spells a finished chat otherwise than a prompt with its
    answer behind it.
    """
    prompt = _spelled(tokenizer, messages, add_generation_prompt=True)
    finished = [*messages, {"role": "assistant", "content": answer}]
    whole = _spelled(tokenizer, finished, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise DataError(
            "the base model's chat template does not put an answer behind its prompt: "
            f"{prompt[-40:]!r} is not the start of {whole[-80:]!r}",
            "take a base model whose template only appends",
        )
    learned = _tokens(tokenizer, whole[len(prompt) :])
    end = tokenizer.eos_token_id
    if end in learned:  # what a template writes between turns is never the model's to say
        learned = learned[: len(learned) - learned[::-1].index(end)]
    else:
        learned = [*learned, end]
    asked = _tokens(tokenizer, prompt)
    return Example([*asked, *learned], len(asked))


def _spelled(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool
) -> str:
    found: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return found


def _tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """The template has written the special tokens already."""
    return tokenizer.encode(text, add_special_tokens=False)
