"""The cheapest language model that is quick and good enough: each constraint has somebody whom it
refuses, and quality is what an evaluation measured or nothing."""

import re
from typing import Any

import pytest
from language_case import with_settings
from pydantic import ValidationError
from serving_case import estimate, evaluation_of
from test_language_adapters import ENGINES, Site, language

from rayapp.schemas.release import DeclaredMetric, Evaluation
from rayapp.serve.endpoints.objective import Objective

OBJECTIVE: dict[str, Any] = {
    "max_p95_ms": 5000,
    "metric": "exact_match",
    "min_quality": 0.7,
    "explore": 0.001,
    "min_answers": 20,
    "usual_prompt_tokens": 100,
    "usual_output_tokens": 10,
    "candidates": {"tuned": {"model": "mine"}, "other": {"model": "small"}},
}


def prices(of_input: float, of_output: float) -> dict[str, float]:
    return {"usd_per_million_input_tokens": of_input, "usd_per_million_output_tokens": of_output}


class Chosen(Site):
    """big: an engine's weights, dear; mine: an adapter of them; small: other weights, cheapest."""

    def __init__(self, **objective: Any) -> None:
        models = {
            "big": {"objective": OBJECTIVE | objective, **prices(3, 9)},
            "mine": {"engine": "engine", "endpoint": "tuned", **prices(2, 9)},
            "small": prices(1, 1),
        }
        super().__init__(with_settings(models, engines=ENGINES))

    @property
    def objective(self) -> Objective[Any, Any, Any]:
        found = self.case.app._models._routes.choosing["big"]
        assert isinstance(found, Objective)
        return found

    def measure(self) -> None:
        """As if each had answered quickly, often enough."""
        for latency in self.objective._latencies:
            for _ in range(20):
                latency.note(0.001, self.objective._clock_s())

    def release(
        self, tuned: float = 0.8, untuned: float | None = 0.75, metric: str = "exact_match"
    ) -> None:
        """The lower ends of the intervals that the adapter's evaluation has."""
        found = evaluation_of((estimate(metric, tuned, tuned + 0.1),))
        beneath = () if untuned is None else (estimate(metric, untuned, untuned + 0.1),)
        self.evaluations["tuned"] = found.model_copy(update={"untuned": beneath})
        self.promote("r1", told=language(system="Answer in JSON."))
        self.measure()


async def test_the_cheapest_of_those_that_are_good_enough_answers_at_its_own_prices() -> None:
    site = Chosen()
    site.release()
    answer = await site.ask("big", text="one two")
    assert (answer.headers["x-release"], answer.json()["model"]) == ("r1", "big")
    assert "x-degraded" not in answer.headers
    record = site.case.sink.records[-1]
    assert (record["arm"], record["endpoint"]) == ("tuned", "big")
    assert record["propensity"] == pytest.approx(1 - 0.001 / 2)
    assert record["cost_nano_usd"] == 5 * 2000 + 2 * 9000
    assert ("tuned", "cheapest") in site.case.meter.choices
    problems = (await site.state())["problems"]
    assert list(problems) == ["big/other"]  # cheaper still, and nobody measured it
    assert "weights other (digest-of-ot): no sealed evaluation measured" in problems["big/other"]


async def test_who_is_not_good_enough_is_not_chosen_and_the_reason_is_told() -> None:
    site = Chosen()
    site.release(tuned=0.69)
    answer = await site.ask("big", text="one two")
    assert answer.headers["x-release"] == "digest-of-engine"
    told = (await site.state())["problems"]["big/tuned"]
    assert "exact_match is 0.6900 at the worse end of its interval, at least 0.7" in told
    assert site.case.sink.records[-1]["cost_nano_usd"] == 5 * 3000 + 2 * 9000


async def test_weights_as_they_are_are_asked_as_they_were_measured() -> None:
    """With the prompt of the adapter whose evaluation measured them."""
    site = Chosen()
    site.release(tuned=0.1)
    await site.ask("big", text="one two")
    asked = site.case.engine.asked[-1][1]
    assert asked["model"] == "engine"
    assert asked["messages"][0] == {"role": "system", "content": "Answer in JSON."}


@pytest.mark.parametrize("untuned", [None, 0.6])
async def test_where_nobody_is_good_enough_the_best_answers_and_says_so(
    untuned: float | None,
) -> None:
    site = Chosen(min_quality=0.95)
    site.release(untuned=untuned)
    answer = await site.ask("big")
    assert answer.headers["x-degraded"] == "objective:quality"
    assert answer.headers["x-release"] == "r1"
    assert site.case.sink.records[-1]["degraded"] == "objective:quality"


async def test_an_evaluation_that_is_not_what_was_sealed_is_no_evidence() -> None:
    site = Chosen()
    site.promote("r1")
    site.measure()
    problems = (await site.state())["problems"]
    assert problems["big/tuned"] == (
        "release r1: no sealed evaluation measured it; next: release again"
    )
    assert "weights engine" in problems["big/champion"]
    assert (await site.ask("mine")).headers["x-release"] == "r1"  # where there is no choice


async def test_an_adapter_that_answers_by_a_names_settings_answers_alone() -> None:
    """A choice between models is the name's, not that of every adapter of its weights."""
    objective = OBJECTIVE | {"candidates": {"other": {"model": "small"}}}
    big = {"adapters": True, "objective": objective, **prices(3, 9)}
    site = Site(with_settings({"big": big, "small": prices(1, 1)}, engines=ENGINES))
    site.promote("r1")
    answer = await site.ask("tuned", text="one two")
    assert (answer.status_code, answer.headers["x-release"]) == (200, "r1")


async def test_the_way_of_a_declared_metric_is_the_evaluations() -> None:
    site = Chosen(metric="length", min_quality=0.5)
    found = evaluation_of((estimate("length", 0.1, 0.4),))
    declared = DeclaredMetric(name="length", meaning="m", higher_is_better=False, unit="share")
    site.evaluations["tuned"] = found.model_copy(update={"metrics": (declared,)})
    site.promote("r1")
    site.measure()
    assert (await site.ask("big")).headers["x-release"] == "r1"
    neither = declared.model_copy(update={"higher_is_better": None})
    changed: Evaluation = found.model_copy(update={"metrics": (neither,)})
    site.evaluations["tuned"] = changed
    site.promote("r2")
    told = (await site.state())["problems"]["big/tuned"]
    assert "release r2: its evaluation has no length that can be better or worse" in told


@pytest.mark.parametrize(("latency", "is_stream"), [("first_token", True), ("answer", False)])
async def test_only_what_the_limit_is_for_is_measured(latency: str, is_stream: bool) -> None:
    site = Chosen(latency=latency)
    site.release()
    tuned = site.objective._latencies[1]
    await site.ask("big", stream=not is_stream)
    assert tuned.num_answers == 20
    await site.ask("big", stream=is_stream)
    assert (tuned.num_answers, tuned.num_slow) == (21, 0)
    site.case.engine.trouble.is_away = True
    await site.ask("big", stream=not is_stream)  # whoever fails took longer than any limit
    assert (tuned.num_answers, tuned.num_slow) == (22, 1)


async def test_who_is_too_slow_is_left_and_comes_back_with_another_release() -> None:
    site = Chosen()
    site.release()
    for _ in range(3):
        site.objective._latencies[1].note(6.0, site.objective._clock_s())
    assert (await site.ask("big")).headers["x-release"] == "digest-of-engine"
    assert "its p95 exceeded 5000 ms" in (await site.state())["problems"]["big/tuned"]
    site.promote("r2", told=language())
    await site.ask("big")
    assert site.objective._latencies[1].num_slow == 0
    assert site.objective._latencies[0].num_answers >= 20  # the weights stay measured


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"candidates": {"champion": {"model": "small"}}}, "can be named champion"),
        ({"candidates": {n: {"model": "small"} for n in "ab"}}, "two of `candidates` are the same"),
        ({"candidates": {"a": {"model": "big"}}}, "candidates.a.model`: 'big' is none of"),
        ({"candidates": {}}, "at least 1 item"),
        ({"candidates": {"a": {"model": "vectors"}}}, "`models.vectors` has no prices, by which"),
        ({"max_p95_ms": 120_000}, "max_p95_ms` 120000 has no effect with deadline_ms 120000"),
        ({"latency": "both"}, "'first_token' or 'answer'"),
        ({"usual_prompt_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_settings(changed: dict[str, Any], says: str) -> None:
    objective = {**OBJECTIVE, "candidates": {"other": {"model": "small"}}, **changed}
    models = {"big": {"objective": objective, **prices(3, 9)}, "small": prices(1, 1)}
    with pytest.raises(ValidationError, match=re.escape(says)):
        with_settings(models)


def test_there_is_one_way_to_choose() -> None:
    split = {"salt": "s", "arms": {"a": {"model": "small", "share": 0.5}}}
    both = {"big": {"split": split, "objective": OBJECTIVE}}
    with pytest.raises(ValidationError, match="`split` and `objective` both say who answers"):
        with_settings(both)
