"""From a request id back to the weights that answered."""

import json
from datetime import timedelta
from typing import Any

from released import NOW
from rich.console import Console

from rayapp.govern.explain_language import ModelExplanation, explain_answers, render_answers
from rayapp.ledger import Ledger
from rayapp.schemas.language import PromptRecord, WeightsRef
from rayapp.schemas.operations import EventKind
from rayapp.serve.language.said import Said
from rayapp.storage import Workspace

OLD, NEW = "a" * 64, "b" * 64
PROMPT = {
    "model": "small",
    "messages": [{"role": "user", "content": "Where is [Paris]?"}],
    "temperature": 0,
}


def _add(ledger: Ledger, digest: str, name: str = "small-weights") -> None:
    weights = WeightsRef(
        name=name,
        uri=f"/workspace/weights/{digest}",
        digest=digest,
        files=(),
        task="generate",
        source="some_package==1.0/model.gguf",
        source_sha256="c" * 64,
        license="Apache-2.0",
        architecture="LlamaForCausalLM",
        num_parameters=134_515_008,
        max_context_tokens=4096,
    )
    payload = {"weights": weights.model_dump(mode="json")}
    ledger.append(EventKind.WEIGHTS_ADDED, name, payload)


def _part(number: int = 0, **fields: Any) -> PromptRecord:
    is_first = number == 0
    given = {
        "request_id": "req-1",
        "part": number,
        "endpoint": "small",
        "release_id": OLD,
        "at": NOW + timedelta(seconds=number),
        "route": "/v1/chat/completions",
        "num_prompt_tokens": 31 if is_first else 0,
        "num_cached_tokens": 16 if is_first else 0,
        "num_output_tokens": 32,
        "latency_ms": 1000.0 * (number + 1),
        "first_token_ms": 250.0,
        "prompt": json.dumps(PROMPT) if is_first else None,
        "cost_nano_usd": 5000,
    }
    return PromptRecord.model_validate(given | fields)


def _said(text: str) -> str:
    return json.dumps([{"index": 0, "text": text}])


def _text(explanation: ModelExplanation) -> str:
    console = Console(width=300, color_system=None)
    with console.capture() as capture:
        console.print(render_answers(explanation))
    return capture.get()


def _ledger(workspace: Workspace) -> Ledger:
    ledger = Ledger.of(workspace, "test")
    _add(ledger, OLD)
    return ledger


def test_parts_are_one_answer_and_lead_to_the_weights(workspace: Workspace) -> None:
    parts = [
        _part(0, output=_said("In [France], ")),
        _part(1, output=_said("on the Seine."), finish_reason="stop", num_output_tokens=9),
    ]
    explanation = explain_answers("req-1", parts, _ledger(workspace), workspace)
    (answer,) = explanation.answers
    assert (answer.num_prompt_tokens, answer.num_output_tokens) == (31, 41)
    assert (answer.cost_nano_usd, answer.finish_reason) == (10_000, "stop")
    text = _text(explanation)
    for expected in (
        "request req-1",
        "ended by stop",
        "31 of the prompt (16 cached), 41 of the answer",
        "cost: 0.000010000 USD, recorded in 2 parts",
        "first token after 250 ms, complete after 2,000 ms",
        "user: Where is [Paris]?",  # data is no markup
        "temperature = 0",
        "answered: In [France], on the Seine.",
        f"weights small-weights {OLD}, those of this name now",
        "source: some_package==1.0/model.gguf",
        f"sha256 of the source: {'c' * 64}",
        "license: Apache-2.0",
        "134,515,008 parameters",
    ):
        assert expected in text


def test_an_arm_is_told_with_its_chance(workspace: Workspace) -> None:
    part = _part(finish_reason="stop", arm="next", unit="u-17", propensity=0.05)
    text = _text(explain_answers("req-1", [part], _ledger(workspace), workspace))
    assert "arm next: unit 'u-17' is on it, as 5% of such units are" in text


def test_what_a_cascades_first_model_took_is_told_apart(workspace: Workspace) -> None:
    ledger = _ledger(workspace)
    _add(ledger, NEW, name="others")
    parts = [
        _part(0, release_id=NEW, arm="first", confidence=0.6125, max_error=0.2, prompt_digest="p1"),
        _part(1, arm="champion", max_error=0.2, num_prompt_tokens=40, cost_nano_usd=90_000),
        _part(2, arm="champion", max_error=0.2, num_output_tokens=8, finish_reason="stop"),
    ]
    explanation = explain_answers("req-1", parts, ledger, workspace)
    (answer,) = explanation.answers
    assert (answer.release_id, answer.num_prompt_tokens, answer.max_error) == (OLD, 71, 0.2)
    first, own = answer.stages
    assert (first.release_id, first.confidence, first.prompt_digest) == (NEW, 0.6125, "p1")
    assert (first.num_prompt_tokens, first.num_output_tokens, first.cost_nano_usd) == (31, 32, 5000)
    assert (own.release_id, own.confidence, own.cost_nano_usd) == (OLD, None, 95_000)
    assert (own.num_prompt_tokens, own.num_output_tokens) == (40, 40)
    assert first.cost_nano_usd + own.cost_nano_usd == answer.cost_nano_usd
    text = _text(explanation)
    for expected in (
        "cascade: the first model's answer is given where it finds it at least 0.8 likely",
        "first bbbbbbbbbbbb: 0.6125 likely, not given; 31 and 32 tokens, 0.000005000 USD",
        "champion aaaaaaaaaaaa: given; 40 and 40 tokens, 0.000095000 USD",
        "cost: 0.000100000 USD",
        "told the first model before, as asked below: prompt p1",
        f"weights small-weights {OLD}, those of this name now",
        f"weights others {NEW}, those of this name now",  # both are led back to where they are from
    ):
        assert expected in text
    assert "arm champion: where every" not in text  # the answer decides it
    assert text.index(f"weights small-weights {OLD}") < text.index(f"weights others {NEW}")


def test_an_answer_that_a_cascades_first_model_was_sure_of_says_how_sure(
    workspace: Workspace,
) -> None:
    part = _part(arm="first", confidence=0.93, max_error=0.2, finish_reason="stop")
    text = _text(explain_answers("req-1", [part], _ledger(workspace), workspace))
    assert "first aaaaaaaaaaaa: 0.9300 likely, given; 31 and 32 tokens, 0.000005000 USD" in text
    assert "gave no answer" not in text


def test_a_first_model_that_was_not_asked_is_told(workspace: Workspace) -> None:
    part = _part(arm="champion", max_error=0.2, finish_reason="stop")
    text = _text(explain_answers("req-1", [part], _ledger(workspace), workspace))
    assert "champion aaaaaaaaaaaa: given; 31 and 32 tokens" in text
    assert "the first model gave no answer: it may not be asked (`problems` of GET /v1/ping" in text


def test_a_cascades_answer_from_before_limits_were_recorded_is_told(workspace: Workspace) -> None:
    parts = [
        _part(0, release_id="f" * 64, arm="first"),
        _part(1, finish_reason="stop", arm="champion"),
    ]
    text = _text(explain_answers("req-1", parts, _ledger(workspace), workspace))
    assert "is given where it finds it likely enough" in text
    assert "first ffffffffffff: how likely was not told, not given; 31 and 32 tokens" in text


def test_without_a_cascade_there_is_no_word_of_one(workspace: Workspace) -> None:
    explanation = explain_answers("req-1", [_part()], _ledger(workspace), workspace)
    assert "cascade" not in _text(explanation)


def test_an_id_that_was_used_again_is_two_answers(workspace: Workspace) -> None:
    parts = [
        _part(0),
        _part(0, tenant="acme"),
        _part(1, tenant="acme", finish_reason="stop"),
        _part(1, finish_reason="client_gone"),
    ]
    explanation = explain_answers("req-1", parts, _ledger(workspace), workspace)
    ends = [answer.finish_reason for answer in explanation.answers]
    assert ends == ["client_gone", "stop"]
    assert len(explanation.weights) == 1


def test_an_answer_without_an_end_says_so(workspace: Workspace) -> None:
    text = _text(explain_answers("req-1", [_part(0)], _ledger(workspace), workspace))
    assert "ended by nothing that was recorded" in text


def test_former_and_unknown_weights_are_told_as_such(workspace: Workspace) -> None:
    ledger = _ledger(workspace)
    _add(ledger, NEW)
    _add(ledger, "d" * 64, name="others")
    parts = [_part(finish_reason="stop"), _part(finish_reason="stop", release_id="e" * 64)]
    text = _text(explain_answers("req-1", parts, ledger, workspace))
    assert f"weights small-weights {OLD}, not those of this name now" in text
    assert f"weights {'e' * 64}: not in the ledger" in text


def test_text_that_the_log_does_not_keep_is_told_by_its_digest(workspace: Workspace) -> None:
    kept = {"sha256": "f" * 64, "chars": 17}
    prompt = {"model": "small", "messages": [{"role": "user", "content": kept}]}
    output = json.dumps([{"index": 0, "text": kept, "tool_calls": [{"function": {"name": kept}}]}])
    part = _part(prompt=json.dumps(prompt), output=output, finish_reason="stop")
    text = _text(explain_answers("req-1", [part], _ledger(workspace), workspace))
    told = f"17 characters that the log does not keep, sha256 {'f' * 12}"
    for who in ("user", "answered", "called"):
        assert f"{who}: {told}" in text


def test_a_streams_calls_of_tools_are_put_together(workspace: Workspace) -> None:
    def piece(**function: str) -> dict[str, Any]:
        return {"index": 0, "function": function}

    pieces = [
        piece(name="weather", arguments=""),
        piece(arguments='{"city": '),
        piece(arguments='"Rome"}'),
    ]
    output = json.dumps([{"index": 0, "tool_calls": pieces}])
    text = _text(
        explain_answers(
            "req-1",
            [_part(output=output, finish_reason="tool_calls")],
            _ledger(workspace),
            workspace,
        )
    )
    assert 'called: weather {"city": "Rome"}' in text


def test_a_stand_in_a_tenant_and_embeddings_are_told(workspace: Workspace) -> None:
    part = _part(
        prompt=json.dumps({"model": "vectors", "input": ["one", "two"]}),
        route="/v1/embeddings",
        first_token_ms=None,
        tenant="acme",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        degraded="unavailable",
        finish_reason="stop",
    )
    text = _text(explain_answers("req-1", [part], _ledger(workspace), workspace))
    assert "tenant: acme" in text
    assert "degraded: unavailable, answered by a stand-in" in text
    assert "in trace 0af7651916cd43dd8448eb211c80319c" in text
    assert 'input: ["one", "two"]' in text
    assert "answered:" not in text


def test_a_tools_call_in_several_parts_is_one(workspace: Workspace) -> None:
    """Each part of the log says again which tool it is."""
    said = Said()
    outputs: list[str] = []
    for arguments in ('{"city": ', '"Paris"}'):
        function = {"name": "look_up", "arguments": arguments}
        call = {"index": 0, "id": "call-1", "type": "function", "function": function}
        if outputs:  # an engine names it once
            call = {"index": 0, "function": {"arguments": arguments}}
        said.add({"index": 0, "delta": {"tool_calls": [call]}})
        outputs.append(json.dumps(said.taken(is_last=bool(outputs))))
    parts = [
        _part(0, output=outputs[0]),
        _part(1, output=outputs[1], finish_reason="tool_calls"),
    ]
    text = _text(explain_answers("req-1", parts, _ledger(workspace), workspace))
    assert 'called: look_up {"city": "Paris"}' in text


def test_weights_that_answered_with_and_without_an_adapter_are_told_once(
    workspace: Workspace,
) -> None:
    parts = [_part(0, release_id=NEW, arm="first"), _part(1, arm="champion", finish_reason="stop")]
    explanation = explain_answers("req-1", parts, _ledger(workspace), workspace)
    as_they_are = explanation.weights[0]
    beneath = as_they_are.model_copy(update={"release_id": NEW})
    both = explanation.model_copy(update={"weights": (as_they_are, beneath)})
    assert _text(both).count(f"weights small-weights {OLD}") == 1


def test_what_a_shadow_made_of_it_is_told_beneath_the_answer(workspace: Workspace) -> None:
    ledger = _ledger(workspace)
    _add(ledger, NEW, name="others")
    parts = [
        _part(0, output=_said("In France."), finish_reason="stop"),
        _part(
            0,
            endpoint="small.shadow",
            release_id=NEW,
            output=_said("In [Texas]."),
            finish_reason="stop",
            latency_ms=480.0,
            num_output_tokens=9,
            cost_nano_usd=0,
        ),
    ]
    explanation = explain_answers("req-1", parts, ledger, workspace)
    (answer,) = explanation.answers
    assert (answer.endpoint, answer.release_id, answer.cost_nano_usd) == ("small", OLD, 5000)
    (shadow,) = answer.shadows
    assert (shadow.endpoint, shadow.release_id) == ("small.shadow", NEW)
    text = _text(explanation)
    told = "heard by a shadow, bbbbbbbbbbbb, whose answer nobody got: ended by stop, complete after"
    assert f"{told} 480 ms, 9 tokens" in text
    assert text.index("answered: In France.") < text.index(told) < text.index("In [Texas].")
    assert f"weights others {NEW}, those of this name now" in text  # who it was
    assert text.count("ended by stop") == 2


def test_a_shadow_is_told_with_the_answer_that_it_heard(workspace: Workspace) -> None:
    """A caller may use an id again."""
    heard = {"endpoint": "small.shadow", "finish_reason": "stop", "latency_ms": 10.0}
    parts = [
        _part(0, finish_reason="stop"),
        _part(0, finish_reason="stop", tenant="acme", at=NOW + timedelta(seconds=20)),
        _part(0, finish_reason="stop", at=NOW + timedelta(seconds=30)),
        _part(0, **heard, at=NOW + timedelta(seconds=31)),
    ]
    explanation = explain_answers("req-1", parts, _ledger(workspace), workspace)
    assert [len(answer.shadows) for answer in explanation.answers] == [0, 0, 1]
    parts[-1] = _part(0, **heard, at=NOW + timedelta(seconds=21))
    explanation = explain_answers("req-1", parts, _ledger(workspace), workspace)
    assert [len(answer.shadows) for answer in explanation.answers] == [1, 0, 0]


def test_a_shadow_whose_release_is_gone_keeps_no_answer_from_being_explained(
    workspace: Workspace,
) -> None:
    ledger = _ledger(workspace)
    ledger.append(EventKind.RELEASE_SEALED, NEW, {})
    given = _part(0, finish_reason="stop")
    shadow = _part(0, endpoint="small.shadow", release_id=NEW, finish_reason="stop")
    explanation = explain_answers("req-1", [given, shadow], ledger, workspace)
    assert [one.release_id for one in explanation.weights] == [OLD]
    assert "heard by a shadow, bbbbbbbbbbbb" in _text(explanation)
