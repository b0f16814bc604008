"""A judge of answers whose errors are known, and what it is configured by."""

import hashlib
from collections.abc import Sequence
from typing import Any

from rayapp.config.judging import JudgeConfig
from rayapp.evaluate.judging import Case, Chat
from rayapp.schemas.prompt import Prompt

PROMPT = Prompt(name="is_it_right", system=None, user="{x}|{expected}|{answered}")
ANCHORS = {"path": "anchors.jsonl", "sha256": "0" * 64, "owner": "people"}
JUDGE = {
    "metric": "judged_right",
    "prompt": "configs/prompts/toy.yaml",
    "weights": "tiny",
    "verdict": {"right": "RIGHT", "wrong": "WRONG"},
    "anchors": ANCHORS,
}


def judge_config(**settings: Any) -> JudgeConfig:
    return JudgeConfig.model_validate(JUDGE | settings)


class ErringJudge:
    """Calls sensitivity of the right answers right and specificity of the wrong ones wrong; which
    ones, their texts decide. silent: a share of answers that it says something else of."""

    def __init__(self, sensitivity: float, specificity: float, silent: float = 0.0) -> None:
        self.sensitivity, self.specificity, self.silent = sensitivity, specificity, silent
        self.num_asked = 0

    def __call__(self, chats: Sequence[Chat]) -> list[str]:
        self.num_asked += len(chats)
        return [self._said(chat[-1]["content"]) for chat in chats]

    def _said(self, text: str) -> str:
        _, expected, answered = text.split("|")
        if _chance("silent", text) < self.silent:
            return "I would rather not say"
        if expected == answered:
            return "RIGHT" if _chance("judge", text) < self.sensitivity else "WRONG"
        return "wrong." if _chance("judge", text) < self.specificity else "Right"


def _chance(salt: str, text: str) -> float:
    digest = hashlib.sha256(f"{salt} {text}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def cases(num_cases: int, truth: float, of: str) -> list[Case]:
    """The first share of them is right. of: makes their texts others than those of another set."""
    return [
        Case({"x": f"{of}{i}"}, "yes", "yes" if i < truth * num_cases else "no")
        for i in range(num_cases)
    ]
