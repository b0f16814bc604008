"""A small language model answers first; where it is not sure the name's own does, and both are
paid."""

import math
import re
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from language_case import TEXT, Caller, chat, events_of, text_of, weights, with_settings
from memory_bank import MemoryBank
from pydantic import ValidationError
from serving_case import estimate, evaluation_of, until
from test_language_adapters import ENGINES, Site, language
from test_language_tokens import of_tokens

from rayapp.config.tenants import TokenLimitsConfig
from rayapp.errors import ConfigError
from rayapp.serve.callers.limits import Grant, Keeper
from rayapp.serve.callers.token_limits import TokenLimiter
from rayapp.serve.endpoints.cascade import Counts
from rayapp.serve.language import cascade
from rayapp.serve.language.confidence import heard
from rayapp.serve.language.fitting import require_fitting

CASCADE: dict[str, Any] = {"first": {"model": "mine"}, "max_error": 0.2}
SURE, UNSURE = -0.01, -0.1  # of six tokens: 1 − P is 0.06, and 0.45
NUM = 6  # tokens of the question, and of each answer to it


def prices(of_input: float, of_output: float) -> dict[str, float]:
    return {"usd_per_million_input_tokens": of_input, "usd_per_million_output_tokens": of_output}


class Cascaded(Site):
    """big: dear, by the engine other; mine: cheap, an adapter of the weights of engine."""

    def __init__(
        self,
        high: float | None = 0.03,
        big: Any = None,
        tokens: int | None = None,
        limiter: TokenLimiter | None = None,
        **cascade: Any,
    ) -> None:
        self.bank = MemoryBank()
        models = {
            "big": {"engine": "other", "cascade": CASCADE | cascade, **prices(3, 9), **(big or {})},
            "mine": {"engine": "engine", "endpoint": "tuned", **prices(1, 2)},
            "small": {"engine": "other"},
        }
        budgets = None if tokens is None else of_tokens(tokens, self.bank)
        config = with_settings(models, engines=ENGINES)
        super().__init__(config, token_budgets=budgets, token_limiter=limiter)
        self.budgets = budgets
        self.first, self.own = self.case.engines["engine"], self.case.engines["other"]
        low = None if high is None else 0.0
        found = evaluation_of((estimate("calibration_error", low, high),))
        self.evaluations["tuned"] = found
        self.promote("r1", told=language())

    async def spent(self) -> int:
        assert self.budgets is not None
        await self.budgets.drain()
        return self.bank.spent

    def records(self, *names: str) -> list[tuple[Any, ...]]:
        return [tuple(record[name] for name in names) for record in self.case.sink.records]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_sure_answer_is_the_first_models_at_its_price(is_stream: bool) -> None:
    site = Cascaded(tokens=1000)
    site.first.logprob = SURE
    answer = await site.ask("big", stream=is_stream)
    assert (answer.status_code, answer.headers["x-release"]) == (200, "r1")
    assert "x-degraded" not in answer.headers
    assert said(answer, is_stream) == TEXT
    assert site.own.asked == []
    (record,) = site.case.sink.records
    assert (record["arm"], record["release_id"], record["propensity"]) == ("first", "r1", 1.0)
    assert record["cost_nano_usd"] == NUM * 1000 + NUM * 2000
    assert record["confidence"] == pytest.approx(math.exp(NUM * SURE))
    assert record["max_error"] == 0.2
    assert site.case.meter.cascades == [Counts(1, 0, 0)]
    assert await site.spent() == 2 * NUM
    assert site.case.is_idle()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_unsure_answer_is_paid_and_the_names_own_is_given(is_stream: bool) -> None:
    site = Cascaded(tokens=1000)
    site.first.logprob = UNSURE
    options = {"stream_options": {"include_usage": True}} if is_stream else {}
    answer = await site.ask("big", stream=is_stream, **options)
    assert (answer.status_code, answer.headers["x-release"]) == (200, "digest-of-other")
    assert said(answer, is_stream) == TEXT
    usage = events_of(answer.content)[-2]["usage"] if is_stream else answer.json()["usage"]
    first = {"prompt_tokens": NUM, "completion_tokens": NUM}
    assert usage["first_model"] == first
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (2 * NUM, 2 * NUM)
    assert usage["total_tokens"] == 4 * NUM
    assert site.records("part", "release_id", "arm", "finish_reason") == [
        (0, "r1", "first", None),
        (1, "digest-of-other", "champion", "stop"),
    ]
    unsure = pytest.approx(math.exp(NUM * UNSURE))
    assert site.records("confidence", "max_error") == [(unsure, 0.2), (None, 0.2)]
    costs = [(NUM * 1000 + NUM * 2000,), (NUM * 3000 + NUM * 9000,)]
    assert site.records("cost_nano_usd") == costs
    (asked, none), (nothing, given) = site.records("prompt", "output")
    assert (none, nothing) == (None, None)
    assert orjson.loads(asked)["messages"][-1]["content"] == TEXT
    assert orjson.loads(given)[0]["text"] == TEXT
    told = [(release, counts["output"]) for _, release, _, counts in site.case.meter.token_counts]
    assert told == [("r1", NUM), ("digest-of-other", NUM)]
    assert site.case.meter.cascades == [Counts(0, 1, 0)]
    assert await site.spent() == 4 * NUM
    assert site.case.is_idle()


def said(answer: Any, is_stream: bool) -> str:
    if is_stream:
        return text_of(events_of(answer.content))
    return str(answer.json()["choices"][0]["message"]["content"])


def choices(answer: Any, is_stream: bool) -> Sequence[Any]:
    if not is_stream:
        return list(answer.json()["choices"])
    events = [event for event in events_of(answer.content) if isinstance(event, dict)]
    return [choice for event in events for choice in event["choices"]]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("wish", [None, False, True])
async def test_probabilities_are_told_to_those_alone_who_asked_for_them(
    wish: bool | None, is_stream: bool
) -> None:
    site = Cascaded()
    site.first.logprob = SURE
    given = {} if wish is None else {"logprobs": wish}
    answer = await site.ask("big", stream=is_stream, **given)
    assert site.first.asked[-1][1]["logprobs"] is True
    found = [choice["logprobs"] for choice in choices(answer, is_stream)]
    assert any(found) == bool(wish)
    assert orjson.loads(site.case.sink.records[0]["prompt"]).get("logprobs") == wish
    site.first.logprob = UNSURE
    await site.ask("big", stream=is_stream, **given)
    assert site.own.asked[-1][1].get("logprobs") == wish  # as the caller has it


async def test_the_limit_is_on_the_whole_answer() -> None:
    """Each token's probability is over 0.9, that of all six under 0.8."""
    site = Cascaded()
    site.first.logprob = math.log(0.8) / NUM - 1e-6
    await site.ask("big")
    site.first.logprob = math.log(0.8) / NUM + 1e-6
    await site.ask("big")
    assert site.case.meter.cascades == [Counts(0, 1, 0), Counts(1, 0, 0)]


async def test_of_several_answers_the_least_sure_decides() -> None:
    """The fake's second answer is a word shorter, so a little surer."""
    site = Cascaded(max_error=0.055)
    site.first.logprob = SURE
    await site.ask("big", n=2)
    assert site.case.meter.cascades == [Counts(0, 1, 0)]


async def test_completions_cascade_too() -> None:
    site = Cascaded()
    site.first.logprob = SURE
    asked = {"model": "big", "prompt": TEXT}
    sure = await site.case.post("/v1/completions", asked)
    assert sure.headers["x-release"] == "r1"
    assert sure.json()["choices"][0]["logprobs"] is None
    echoed = await site.case.post("/v1/completions", asked | {"echo": True})
    assert echoed.headers["x-release"] == "digest-of-other"  # the prompt's tokens are among them


# whose probabilities say nothing is not asked


@pytest.mark.parametrize(
    ("high", "says"),
    [
        (
            0.051,
            "is not known to be calibrated: calibration_error 0.0000 to 0.0510 over 100 rows, at "
            "most 0.05 is allowed; more rows may tell",
        ),
        (None, "its evaluation has no calibration_error with an interval"),
    ],
)
async def test_who_is_not_known_to_be_calibrated_is_not_asked(
    high: float | None, says: str
) -> None:
    site = Cascaded(high)
    answer = await site.ask("big")
    assert answer.headers["x-release"] == "digest-of-other"
    assert (site.first.asked, len(site.own.asked)) == ([], 1)
    assert says in (await site.state())["problems"]["big/first"]
    assert site.records("arm", "cost_nano_usd") == [("champion", NUM * 3000 + NUM * 9000)]
    assert site.records("confidence", "max_error") == [(None, 0.2)]


async def test_weights_that_nobody_measured_are_not_asked() -> None:
    models = {
        "big": {"cascade": CASCADE | {"first": {"model": "small"}}, **prices(3, 9)},
        "small": prices(1, 2),
    }
    site = Site(with_settings(models))
    assert (await site.ask("big")).headers["x-release"] == "digest-of-engine"
    told = (await site.state())["problems"]["big/first"]
    assert "weights other (digest-of-ot): no sealed evaluation measured them" in told
    assert "none of the models chosen among here (big, small) is an adapter of these" in told


async def test_an_adapter_that_nobody_chooses_among_is_no_evidence_of_its_weights() -> None:
    first = {"first": {"model": "plain"}}
    models = {
        "big": {"engine": "engine", "cascade": CASCADE | first, **prices(3, 9)},
        "plain": {"engine": "engine", "adapters": True, **prices(1, 2)},
    }
    site = Site(with_settings(models, engines=ENGINES))
    site.promote("r1")
    assert (await site.ask("tuned")).headers["x-release"] == "r1"
    told = (await site.state())["problems"]["big/first"]
    assert told.endswith(
        "next: give one of them the `endpoint` of a release for these weights, which `adapters: "
        "true` alone does not do"
    )


# who fails


async def test_who_is_never_asked_as_no_time_is_left_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Cascaded(tokens=1000)
    site.first.logprob = UNSURE

    def slowly(*given: Any) -> Any:
        site.case.later_s = 1e6
        return heard(*given)

    monkeypatch.setattr(cascade, "heard", slowly)
    answer = await site.ask("big")
    assert (answer.headers["x-release"], answer.headers["x-degraded"]) == ("r1", "cascade")
    assert site.own.asked == []
    assert await site.spent() == 2 * NUM
    assert site.bank.loans == {}


@pytest.mark.parametrize("trouble", [{"is_away": True}, {"status": 500}, {"errs_at": 1}])
async def test_where_the_first_fails_the_names_own_answers_alone(trouble: dict[str, Any]) -> None:
    site = Cascaded(tokens=1000)
    for name, value in trouble.items():
        setattr(site.first.trouble, name, value)
    answer = await site.ask("big", stream="errs_at" in trouble)
    assert (answer.status_code, answer.headers["x-release"]) == (200, "digest-of-other")
    assert site.records("arm", "part") == [("champion", 0)]
    assert await site.spent() == 2 * NUM
    assert site.case.is_idle()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_where_the_names_own_fails_the_first_answer_is_given_and_says_so(
    is_stream: bool,
) -> None:
    site = Cascaded(tokens=1000)
    site.first.logprob, site.own.trouble.is_away = UNSURE, True
    answer = await site.ask("big", stream=is_stream)
    assert (answer.headers["x-release"], answer.headers["x-degraded"]) == ("r1", "cascade")
    assert said(answer, is_stream) == TEXT
    assert site.records("arm", "degraded", "part") == [("first", "cascade", 0)]
    assert site.records("confidence") == [(pytest.approx(math.exp(NUM * UNSURE)),)]
    assert site.case.meter.cascades == [Counts(0, 0, 1)]
    assert await site.spent() == 2 * NUM


async def test_a_first_model_that_hangs_leaves_half_of_the_time() -> None:
    site = Cascaded(tokens=1000)
    site.first.trouble.hangs_at = 1
    caller = Caller(site.case.app, "/v1/chat/completions", orjson.dumps(ask_of(stream=True)), {})
    await until(lambda: site.first.num_ongoing)
    site.case.later_s = 70  # of 120
    await caller.done()
    assert (caller.status, caller.headers["x-release"]) == (200, "digest-of-other")
    assert site.case.is_idle()


async def test_who_goes_away_has_nothing_to_pay() -> None:
    site = Cascaded(tokens=1000)
    site.first.logprob, site.own.trouble.hangs_before = UNSURE, True
    caller = Caller(site.case.app, "/v1/chat/completions", orjson.dumps(ask_of()), {})
    await until(lambda: site.own.num_ongoing)
    caller.go()
    await caller.done()
    assert (site.case.sink.records, await site.spent()) == ([], 0)
    assert site.case.is_idle()


async def test_an_answer_that_breaks_off_before_anything_was_given_costs_nothing() -> None:
    site = Cascaded(tokens=1000)
    site.first.logprob, site.own.trouble.breaks_at = UNSURE, 1
    assert (await site.ask("big")).status_code == 503
    assert (site.case.sink.records, await site.spent()) == ([], 0)
    assert site.case.is_idle()


def ask_of(**fields: Any) -> dict[str, Any]:
    return chat(**fields) | {"model": "big"}


# what is paid


@pytest.mark.parametrize(("tokens", "status"), [(4 * NUM, 200), (4 * NUM - 1, 429)])
async def test_what_both_may_come_to_is_reserved_before_either_is_asked(
    tokens: int, status: int
) -> None:
    site = Cascaded(tokens=tokens)
    site.first.logprob = UNSURE
    answer = await site.ask("big", max_tokens=NUM)
    assert answer.status_code == status
    assert bool(site.first.asked) == (status == 200)
    assert await site.spent() == (tokens if status == 200 else 0)


@pytest.mark.parametrize(("burst", "num_first"), [(4 * NUM, 1), (3 * NUM, 0)])
async def test_a_rate_that_leaves_tokens_for_one_of_them_leaves_the_names_own(
    burst: int, num_first: int
) -> None:
    """Told to try again later, a caller would find no more tokens than now."""
    limits = TokenLimitsConfig.model_validate({"default": {"tokens_per_s": 1, "burst": burst}})
    keeper = Keeper(limits, lambda: 0.0)

    async def lease(tenant: str, wanted: float) -> Grant:
        return keeper.lease_whole(tenant, wanted)

    limiter = TokenLimiter(limits, lease, keeper.give_back, 1.0, lambda: 0.0)
    site = Cascaded(tokens=1000, limiter=limiter)
    site.first.logprob = SURE
    answer = await site.ask("big", max_tokens=NUM)
    assert answer.status_code == 200
    assert (len(site.first.asked), len(site.own.asked)) == (num_first, 1 - num_first)
    assert site.case.is_idle()


@pytest.mark.parametrize(
    ("cascade", "big", "says"),
    [
        ({"max_error": 1}, {}, "less than 1"),
        ({"max_calibration_error": 0}, {}, "greater than 0"),
        ({"first": {"model": "big"}}, {}, "cascade.first.model`: 'big' is none of"),
        ({"first": {"model": "small"}}, {}, "`models.small` has no prices, by which big"),
        ({}, prices(1, 2), "must cost less than big"),
        ({}, prices(0.5, 9), "must cost less than big"),
        ({}, {"split": {"salt": "s", "arms": {"a": {"model": "small", "share": 1}}}}, "both say"),
    ],
)
def test_settings(cascade: dict[str, Any], big: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        Cascaded(big=big, **cascade)


def test_a_limit_of_time_may_be_for_a_cascade_alone() -> None:
    Cascaded(big={"timeout_ms": 5000})


def test_vectors_have_no_confidence() -> None:
    models = {
        "vectors": {"cascade": CASCADE | {"first": {"model": "more"}}, **prices(3, 3)},
        "more": {"engine": "vectors", **prices(1, 1)},
    }
    known = {name: weights(name, "embed") for name in ("engine", "other", "vectors")}
    with pytest.raises(ConfigError, match="vectors makes vectors of texts"):
        require_fitting(with_settings(models), known)
