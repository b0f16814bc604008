"""What a judge says, read: its words → verdicts, and how often these were wrong of anchors.

A judge is whatever replies to chats; who that is, `flows.judging` decides. The same chat is asked
once. Words that are no verdict are none: they are counted, and never become a right or a wrong one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayapp.config.judging import JudgeConfig, VerdictConfig
from rayapp.errors import ConfigError, JudgeRefused
from rayapp.evaluate.graders import normalised
from rayapp.evaluate.judge import Anchors, power_bounds
from rayapp.evaluate.statistics import Floats
from rayapp.schemas.prompt import Message, Prompt

EXPECTED, ANSWERED = "expected", "answered"
"""What a judge's prompt shows beside the model's features."""
Chat = list[Message]
Judge = Callable[[Sequence[Chat]], Sequence[str]]
"""What is said to each chat, in their order."""
_MAX_CHARS = 60


def read_verdict(said: str, config: VerdictConfig) -> bool | None:
    """Whether it calls the answer right; None where it says neither word, or more than one.

    >>> words = VerdictConfig(right="right", wrong="wrong")
    >>> [read_verdict(said, words) for said in ("Right.", "wrong", "right or wrong?")]
    [True, False, None]
    """
    text = said
    if config.take == "last_line":
        lines = [line for line in said.splitlines() if line.strip()]
        text = lines[-1] if lines else ""
    word = normalised(text)
    return {normalised(config.right): True, normalised(config.wrong): False}.get(word)


def check_judge(config: JudgeConfig, prompt: Prompt, features: Sequence[str]) -> None:
    """Raises ConfigError for a judge that could judge nothing. features: what the judged model is
    asked by."""
    right, wrong = (normalised(word) for word in (config.verdict.right, config.verdict.wrong))
    if not right or not wrong or right == wrong:
        raise ConfigError(
            f"evaluation.judge.verdict: {config.verdict.right!r} and {config.verdict.wrong!r} "
            "cannot be told apart by their letters",
            "choose two words",
        )
    taken = sorted({EXPECTED, ANSWERED} & set(features))
    if taken:
        raise ConfigError(
            f"evaluation.judge.prompt: {taken[0]!r} is a feature, and what a judge is shown",
            "rename the feature of the training config",
        )
    known = {*features, EXPECTED, ANSWERED}
    unknown = sorted(prompt.places - known)
    if unknown:
        raise ConfigError(
            f"evaluation.judge.prompt: {prompt.name} shows {{{unknown[0]}}}, which a judge is not "
            "told",
            f"it is told {', '.join(sorted(known))}",
        )
    if ANSWERED not in prompt.places:
        raise ConfigError(
            f"evaluation.judge.prompt: {prompt.name} does not show {{{ANSWERED}}}",
            "a judge must see what it judges",
        )


@dataclass(frozen=True)
class Case:
    """An answer to be judged. values: of the row's features."""

    values: Mapping[str, Any]
    expected: str
    answered: str

    def chat(self, prompt: Prompt) -> Chat:
        shown = {EXPECTED: self.expected, ANSWERED: self.answered}
        return prompt.messages({**self.values, **shown})


@dataclass(frozen=True)
class Read:
    """A verdict on each case, in their order. example: what was said that is none, of the first."""

    verdicts: tuple[bool | None, ...]
    example: str | None

    def take(self, start: int, stop: int) -> "Read":
        return Read(self.verdicts[start:stop], self.example)

    @property
    def num_unread(self) -> int:
        return sum(verdict is None for verdict in self.verdicts)


def verdicts_of(cases: Sequence[Case], prompt: Prompt, judge: Judge, config: VerdictConfig) -> Read:
    chats = [case.chat(prompt) for case in cases]
    keys = [tuple(tuple(sorted(message.items())) for message in chat) for chat in chats]
    distinct = dict(zip(keys, chats, strict=True))
    said = dict(zip(distinct, judge(list(distinct.values())), strict=True))
    read = {key: read_verdict(text, config) for key, text in said.items()}
    example = next((said[key] for key, verdict in read.items() if verdict is None), None)
    return Read(tuple(read[key] for key in keys), example)


@dataclass(frozen=True)
class Verdicts:
    """Of one model's answers, item by item: how many have a verdict, and how many of these are
    right."""

    right_N: Floats
    read_N: Floats
    num_answers: int

    @classmethod
    def of_samples(cls, found: Sequence[bool | None], per_item: int) -> "Verdicts":
        """found: item by item, of each its samples."""
        found_NK = np.array([-1 if f is None else int(f) for f in found]).reshape(-1, per_item)
        return cls(
            (found_NK == 1).sum(axis=1).astype(np.float64),
            (found_NK >= 0).sum(axis=1).astype(np.float64),
            len(found),
        )

    @property
    def num_unread(self) -> int:
        return self.num_answers - int(self.read_N.sum())


def count_anchors(is_right: Sequence[bool], read: Read) -> Anchors:
    """How the judge did on those that it gave a verdict on."""
    pairs = [(r, f) for r, f in zip(is_right, read.verdicts, strict=True) if f is not None]
    return Anchors(
        num_right=sum(r for r, _ in pairs),
        called_right=sum(r and f for r, f in pairs),
        num_wrong=sum(not r for r, _ in pairs),
        called_wrong=sum(not r and not f for r, f in pairs),
    )


def refuse_unread(what: str, read: Read, config: JudgeConfig) -> None:
    """Raises JudgeRefused where too many have no verdict."""
    num_unread, num_all = read.num_unread, len(read.verdicts)
    if num_unread / num_all > config.max_unread_share:
        words = f"{config.verdict.right!r} or {config.verdict.wrong!r}"
        raise JudgeRefused(
            f"judge {config.metric}: {num_unread} of {num_all} {what} have no verdict, at most "
            f"{config.max_unread_share:.1%} may: it should say {words}, and said "
            f"{_shortened(read.example or '')!r}",
            "mend its prompt, give it more max_tokens, or take: last_line where it reasons first",
        )


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}…"


def refuse_coin(metric: str, anchors: Anchors, confidence: float) -> None:
    """Raises JudgeRefused where a judge tells right from wrong no better than chance, or may."""
    low, high = power_bounds(anchors, confidence)
    if low <= 0:
        raise JudgeRefused(
            f"judge {metric}: it called {anchors.called_right} of {anchors.num_right} right "
            f"anchors right and {anchors.called_wrong} of {anchors.num_wrong} wrong ones wrong; "
            f"sensitivity + specificity − 1 is {anchors.power:.3f} [{low:.3f}, {high:.3f}], which "
            "must lie above 0: it may be guessing",
            "take a better judge or prompt; if it is good, more anchors would show it",
        )
