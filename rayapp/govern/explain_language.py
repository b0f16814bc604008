"""From one answer of a language model back to the weights that gave it, and to the release of the
adapter, where one was beside them."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any

from rich.markup import escape
from rich.tree import Tree

from rayapp.config.serving import FIRST
from rayapp.govern.explain import (
    Provenance,
    add_release,
    arm_line,
    last_before,
    provenance,
    readable,
)
from rayapp.ledger import Ledger
from rayapp.schemas.language import PromptRecord, WeightsRef
from rayapp.schemas.operations import EventKind
from rayapp.schemas.record import Record, short
from rayapp.schemas.traffic import NANO, SHADOW, is_shadows
from rayapp.storage import Workspace

_SAID_BY_OTHER_FIELDS = {"model", "messages", "prompt", "input", "suffix"}


class Stage(Record):
    """What one model took to answer, of those that a cascade asked in turn. confidence: how likely
    it found its own answer; None where that was not asked for, or not told."""

    release_id: str
    arm: str | None
    prompt_digest: str | None
    num_prompt_tokens: int
    num_output_tokens: int
    cost_nano_usd: int
    confidence: float | None


class ModelAnswer(Record):
    """One answer of a language model, put together from the parts that it was recorded in.

    finish_reason: why it ended; None while it goes on, or where its gateway died. Counts and cost
    are over all parts, latencies those of the last one. stages: the models that were asked, in
    order; the last one's answer was given. max_error: of the cascade by which it was, or None.
    shadows: what they answered to the same, which nobody got.
    """

    endpoint: str
    release_id: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    cost_nano_usd: int
    finish_reason: str | None
    first_token_ms: float | None
    latency_ms: float
    parts: tuple[PromptRecord, ...]
    stages: tuple[Stage, ...]
    max_error: float | None
    shadows: tuple["ModelAnswer", ...] = ()

    @property
    def began_at(self) -> datetime:
        first = self.parts[0]
        return first.at - timedelta(milliseconds=first.latency_ms)


class Weights(Record):
    """What answered. release: of the adapter beside the weights, None where they answered as they
    are. weights and added_at: None where the ledger does not know them. is_newest: no others were
    added under their name since."""

    release_id: str
    digest: str
    release: Provenance | None
    weights: WeightsRef | None
    added_at: datetime | None
    is_newest: bool


class ModelExplanation(Record):
    """answers: in order of time; more than one where a caller used an id again. weights: those that
    answered, and after them those that a cascade asked before and those of shadows, the latter as
    far as they can be read; first use first."""

    request_id: str
    answers: tuple[ModelAnswer, ...]
    weights: tuple[Weights, ...]


def explain_answers(
    request_id: str, parts: Sequence[PromptRecord], ledger: Ledger, workspace: Workspace
) -> ModelExplanation:
    """parts: those of the prompt log with this id, in order of time, also of shadows. Raises what
    `explain` does for a release's manifest."""
    given = [part for part in parts if not is_shadows(part.endpoint)]
    shadows = [part for part in parts if is_shadows(part.endpoint)]
    answers = _with_shadows(
        [_answer(of_one) for of_one in _by_answer(given)],
        [_answer(of_one) for of_one in _by_answer(shadows)],
    )
    used = dict.fromkeys(
        (
            *(answer.release_id for answer in answers),
            *(stage.release_id for answer in answers for stage in answer.stages),
        )
    )
    read = partial(_weights, ledger=ledger, workspace=workspace)
    heard = [part.release_id for part in shadows if part.release_id not in used]
    weights = (*map(read, used), *readable(heard, read))
    return ModelExplanation(request_id=request_id, answers=answers, weights=weights)


def _with_shadows(
    answers: Sequence[ModelAnswer], shadows: Sequence[ModelAnswer]
) -> tuple[ModelAnswer, ...]:
    """A shadow begins once the answer has: it heard the last such one that began before."""
    heard: dict[int, list[ModelAnswer]] = defaultdict(list)
    for shadow in shadows:
        alike = {
            number: one.began_at
            for number, one in enumerate(answers)
            if one.endpoint + SHADOW == shadow.endpoint
            and one.parts[0].tenant == shadow.parts[0].tenant
        }
        number = last_before(alike, shadow.began_at)
        if number is not None:
            heard[number].append(shadow)
    return tuple(
        one.model_copy(update={"shadows": tuple(heard[number])})
        for number, one in enumerate(answers)
    )


def _by_answer(parts: Sequence[PromptRecord]) -> list[list[PromptRecord]]:
    """Each answer begins with part 0; of two at a time under one id, a part belongs to the one that
    it continues."""
    answers: list[list[PromptRecord]] = []
    for part in parts:
        continued = next((one for one in reversed(answers) if _continues(one[-1], part)), None)
        if continued is None:
            answers.append([part])
        else:
            continued.append(part)
    return answers


def _continues(last: PromptRecord, part: PromptRecord) -> bool:
    is_same = (last.endpoint, last.tenant) == (part.endpoint, part.tenant)
    return is_same and last.finish_reason is None and part.part == last.part + 1


def _answer(parts: Sequence[PromptRecord]) -> ModelAnswer:
    last = parts[-1]
    return ModelAnswer(
        endpoint=last.endpoint,
        release_id=last.release_id,
        num_prompt_tokens=sum(part.num_prompt_tokens for part in parts),
        num_cached_tokens=sum(part.num_cached_tokens for part in parts),
        num_output_tokens=sum(part.num_output_tokens for part in parts),
        cost_nano_usd=sum(part.cost_nano_usd or 0 for part in parts),
        finish_reason=last.finish_reason,
        first_token_ms=last.first_token_ms,
        latency_ms=last.latency_ms,
        parts=tuple(parts),
        stages=tuple(_stages(parts)),
        max_error=last.max_error,
    )


def _stages(parts: Sequence[PromptRecord]) -> list[Stage]:
    found = []
    for (release_id, arm), grouped in groupby(parts, key=lambda p: (p.release_id, p.arm)):
        of_one = list(grouped)
        stage = Stage(
            release_id=release_id,
            arm=arm,
            prompt_digest=of_one[0].prompt_digest,
            num_prompt_tokens=sum(part.num_prompt_tokens for part in of_one),
            num_output_tokens=sum(part.num_output_tokens for part in of_one),
            cost_nano_usd=sum(part.cost_nano_usd or 0 for part in of_one),
            confidence=of_one[0].confidence,
        )
        found.append(stage)
    return found


def _weights(release_id: str, ledger: Ledger, workspace: Workspace) -> Weights:
    release, digest = None, release_id
    if ledger.latest(EventKind.RELEASE_SEALED, subject=release_id) is not None:
        release = provenance(release_id, ledger, workspace)
        language = release.signed.manifest.bundle.bundle_schema.language
        digest = release_id if language is None else language.base_digest
    named = [
        (event, event.record(WeightsRef, "weights"))
        for event in ledger.events(EventKind.WEIGHTS_ADDED)
    ]
    found = next((pair for pair in reversed(named) if pair[1].digest == digest), None)
    told: dict[str, Any] = {"release_id": release_id, "digest": digest, "release": release}
    if found is None:
        return Weights(**told, weights=None, added_at=None, is_newest=False)
    event, weights = found
    newest = [ref.digest for _, ref in named if ref.name == weights.name][-1]
    return Weights(
        **told,
        weights=weights,
        added_at=event.at,
        is_newest=newest == digest,
    )


def render_answers(explanation: ModelExplanation) -> Tree:
    """The explanation as a tree for a terminal."""
    tree = Tree(f"request {escape(explanation.request_id)}")
    shown: set[str] = set()
    for weights in explanation.weights:
        for answer in explanation.answers:
            if answer.release_id == weights.release_id:
                _add_answer(tree, answer)
        if weights.release is not None:
            add_release(tree, weights.release)
        if weights.digest not in shown:  # a release may be an adapter of those that answered too
            _add_weights(tree, weights)
        shown.add(weights.digest)
    return tree


def _add_answer(tree: Tree, answer: ModelAnswer) -> None:
    first, last = answer.parts[0], answer.parts[-1]
    ended = answer.finish_reason or "nothing that was recorded: it goes on, or its gateway died"
    branch = tree.add(
        escape(f"{answer.endpoint} at {last.at:%Y-%m-%d %H:%M:%S %Z}, ended by {ended}")
    )
    cached = f" ({answer.num_cached_tokens:,} cached)" if answer.num_cached_tokens else ""
    branch.add(
        f"tokens: {answer.num_prompt_tokens:,} of the prompt{cached}, "
        f"{answer.num_output_tokens:,} of the answer"
    )
    parts = f"{len(answer.parts)} parts" if len(answer.parts) > 1 else "one part"
    branch.add(f"cost: {answer.cost_nano_usd / NANO:.9f} USD, recorded in {parts}")
    began = f"first token after {answer.first_token_ms:,.0f} ms, " if answer.first_token_ms else ""
    branch.add(f"time: {began}complete after {answer.latency_ms:,.0f} ms")
    if answer.max_error is not None or len(answer.stages) > 1:
        _add_stages(branch, answer)
    if last.tenant is not None:
        branch.add(escape(f"tenant: {last.tenant}"))
    if last.prompt_digest is not None:
        branch.add(escape(f"told before: prompt {last.prompt_digest}"))
    if first.prompt_digest != last.prompt_digest:
        told = f"prompt {first.prompt_digest}" if first.prompt_digest else "nothing"
        branch.add(escape(f"told the first model before, as asked below: {told}"))
    if last.degraded is not None:
        branch.add(escape(f"degraded: {last.degraded}, answered by a stand-in"))
    is_left_to_chance = last.propensity is not None and last.propensity < 1
    if last.arm is not None and (answer.max_error is None or is_left_to_chance):
        branch.add(escape(arm_line(last)))
    if last.trace_id is not None:
        branch.add(escape(f"in trace {last.trace_id}"))
    _add_prompt(branch, first)
    _add_output(branch, answer)
    for shadow in answer.shadows:
        _add_shadow(branch, shadow)


def _add_shadow(tree: Tree, shadow: ModelAnswer) -> None:
    ended = shadow.finish_reason or "nothing that was recorded"
    branch = tree.add(
        escape(
            f"heard by a shadow, {short(shadow.release_id)}, whose answer nobody got: ended by "
            f"{ended}, complete after {shadow.latency_ms:,.0f} ms, "
            f"{shadow.num_output_tokens:,} tokens"
        )
    )
    degraded = shadow.parts[-1].degraded
    if degraded is not None:
        branch.add(escape(f"degraded: {degraded}"))
    _add_output(branch, shadow)


def _add_stages(branch: Tree, answer: ModelAnswer) -> None:
    """Who was asked, how sure it was, and what that came to. Answers from before limits were
    recorded have none."""
    most = answer.max_error
    enough = "likely enough" if most is None else f"at least {1 - most:.4g} likely"
    stages = branch.add(f"cascade: the first model's answer is given where it finds it {enough}")
    for stage in answer.stages:
        cost = f"{stage.cost_nano_usd / NANO:.9f} USD"
        tokens = f"{stage.num_prompt_tokens:,} and {stage.num_output_tokens:,} tokens"
        end = "given" if stage is answer.stages[-1] else "not given"
        doubt = f"{_doubt(stage)}, " if stage.arm == FIRST else ""
        stages.add(escape(f"{stage.arm} {short(stage.release_id)}: {doubt}{end}; {tokens}, {cost}"))
    if answer.stages[0].arm != FIRST:
        stages.add(
            "the first model gave no answer: it may not be asked (`problems` of GET /v1/ping says "
            "why), or failed, or took too long"
        )


def _doubt(stage: Stage) -> str:
    if stage.confidence is None:
        return "how likely was not told"
    return f"{stage.confidence:.4f} likely"


def _add_prompt(branch: Tree, first: PromptRecord) -> None:
    if first.prompt is None:
        branch.add("asked: the log has no first part")
        return
    fields: dict[str, Any] = json.loads(first.prompt)
    asked = branch.add(escape(f"asked at {first.route}"))
    for message in fields.get("messages", ()):
        asked.add(escape(f"{message['role']}: {_text(message.get('content'))}"))
    for name in ("prompt", "input", "suffix"):
        if name in fields:
            asked.add(escape(f"{name}: {_text(fields[name])}"))
    for name in sorted(fields.keys() - _SAID_BY_OTHER_FIELDS):
        asked.add(escape(f"{name} = {json.dumps(fields[name], ensure_ascii=False)}"))


def _add_output(branch: Tree, answer: ModelAnswer) -> None:
    said = [choice for part in answer.parts if part.output is not None for choice in _choices(part)]
    for at in sorted({choice["index"] for choice in said}):
        of_choice = [choice for choice in said if choice["index"] == at]
        texts = [choice["text"] for choice in of_choice if "text" in choice]
        if texts:
            is_kept = all(isinstance(text, str) for text in texts)
            text = "".join(texts) if is_kept else ", ".join(map(_text, texts))
            branch.add(escape(f"answered: {text}"))
        calls = [call for choice in of_choice for call in choice.get("tool_calls", ())]
        for name, arguments in _whole_calls(calls):
            branch.add(escape(f"called: {name} {arguments}"))


def _whole_calls(calls: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Name and arguments of tools' calls. Of a stream each part of the log has a piece of the
    arguments, and says again whose it is."""
    made: dict[int, tuple[str, str]] = {}
    for call in calls:
        at = call.get("index", len(made))
        name, arguments = made.get(at, ("", ""))
        function = call.get("function") or {}
        made[at] = (
            name or _text(function.get("name", "")),
            arguments + _text(function.get("arguments", "")),
        )
    return list(made.values())


def _choices(part: PromptRecord) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(part.output or "[]")
    return found


def _text(value: Any) -> str:
    """As the log keeps it: the text itself, or what stands for one that it does not keep."""
    match value:
        case str():
            return value
        case {"sha256": str(digest), "chars": int(chars)}:
            return f"{chars:,} characters that the log does not keep, sha256 {short(digest)}"
        case None:
            return "nothing"
    return json.dumps(value, ensure_ascii=False)


def _add_weights(tree: Tree, found: Weights) -> None:
    weights = found.weights
    if weights is None or found.added_at is None:
        tree.add(f"[red]weights {escape(found.digest)}: not in the ledger[/red]")
        return
    state = "those of this name now" if found.is_newest else "not those of this name now"
    branch = tree.add(escape(f"weights {weights.name} {found.digest}, {state}"))
    branch.add(f"added: {found.added_at:%Y-%m-%d %H:%M:%S %Z}")
    branch.add(escape(f"source: {weights.source}"))
    if weights.source_sha256 is not None:
        branch.add(f"sha256 of the source: {weights.source_sha256}")
    branch.add(escape(f"license: {weights.license}"))
    branch.add(escape(f"model: {weights.architecture}, {weights.num_parameters:,} parameters"))
    branch.add(escape(f"kept in: {weights.uri} ({len(weights.files)} files)"))
