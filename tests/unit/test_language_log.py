"""The prompt log from a gateway to its table, and what answers of every kind cost by it."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from deltalake import write_deltalake
from language_case import TEXT, LanguageCase, with_settings
from log_case import NOON, die, record

from rayapp.flows.operations import explain_request
from rayapp.govern.explain_language import ModelExplanation
from rayapp.observe.costs import cost_by_tenant, cost_of_loans
from rayapp.observe.node_log import NodeLog
from rayapp.observe.prompts import PROMPTS, PROMPTS_TABLE, find_prompts, read_prompts
from rayapp.schemas.language import PromptRecord
from rayapp.storage import Workspace


@pytest.fixture
def log(workspace: Workspace) -> NodeLog:
    return NodeLog(workspace)


def part(number: int, request_id: str = "q", at: datetime = NOON, **extra: Any) -> dict[str, Any]:
    made = {
        "request_id": request_id,
        "part": number,
        "endpoint": "big",
        "release_id": "r",
        "at": at,
        "route": "/v1/completions",
        "num_prompt_tokens": 1,
        "num_cached_tokens": 0,
        "num_output_tokens": 2,
        "latency_ms": 1.5,
    }
    return made | extra


def test_a_record_has_the_columns_of_the_table() -> None:
    assert {*PROMPTS.schema.names} - {"date"} == set(PromptRecord.model_fields)


async def test_what_a_gateway_records_is_read_back_in_order(
    workspace: Workspace, log: NodeLog
) -> None:
    case = LanguageCase(with_settings(record_every_tokens=2))
    text = "one\ntwo “three” \u2028 four \\ five 🙂"
    await case.chat(text, headers={"x-request-id": "a"}, stream=True)
    await case.chat(headers={"x-request-id": "b"})
    for made in reversed(case.sink.records):
        log.prompts(made["endpoint"]).append([made])
    assert find_prompts(workspace, "a") == []  # it is not committed yet
    assert log.commit() == len(case.sink.records) == 5
    assert log.commit() == 0
    parts = find_prompts(workspace, "a")
    assert [one.part for one in parts] == [0, 1, 2, 3]
    said = [orjson.loads(one.output) for one in parts if one.output]
    assert "".join(choice["text"] for one in said for choice in one) == text
    assert orjson.loads(parts[0].prompt or "")["messages"][0]["content"] == text
    assert [one.prompt for one in parts[1:]] == [None] * 3
    assert [one.finish_reason for one in parts] == [None, None, None, "stop"]
    assert sum(one.num_output_tokens for one in parts) == 7
    assert (parts[0].at, parts[0].release_id) == (case.app._now(), "digest-of-engine")
    (whole,) = find_prompts(workspace, "b")
    assert TEXT in (whole.output or "")


async def test_what_a_shadow_made_of_it_is_no_part_of_the_answer(
    workspace: Workspace, log: NodeLog
) -> None:
    case = LanguageCase(with_settings({"big": {"shadow": {"model": "small"}}}))
    await case.chat(headers={"x-request-id": "a"})
    await case.app._drained()
    for made in case.sink.records:
        log.prompts(made["endpoint"]).append([made])
    log.commit()
    assert [part.endpoint for part in find_prompts(workspace, "a")] == ["big"]
    explanation = explain_request(workspace, "a")
    assert isinstance(explanation, ModelExplanation)
    (answer,) = explanation.answers
    assert (answer.endpoint, answer.release_id) == ("big", "digest-of-engine")
    (shadow,) = answer.shadows
    assert (shadow.endpoint, shadow.release_id) == ("big.shadow", "digest-of-other")


def test_parts_are_found_by_model_and_time(workspace: Workspace, log: NodeLog) -> None:
    later = NOON + timedelta(seconds=1)
    log.prompts("big").append([part(1, at=later), part(0), part(0, "p")])
    log.prompts("small").append([part(0, "s", endpoint="small")])
    log.flush()
    uri = workspace.table(PROMPTS_TABLE)

    def found(**wanted: Any) -> list[tuple[str, int]]:
        rows = read_prompts(uri, **wanted).to_pylist()
        return [(row["request_id"], row["part"]) for row in rows]

    assert found(endpoint="big") == [("p", 0), ("q", 0), ("q", 1)]
    assert found(since=later) == [("q", 1)]
    assert found(until=later, endpoint="small") == [("s", 0)]
    assert found(request_id="q") == [("q", 0), ("q", 1)]


def test_there_may_be_no_table_yet(workspace: Workspace) -> None:
    assert read_prompts(workspace.table(PROMPTS_TABLE)).num_rows == 0
    assert find_prompts(workspace, "q") == []


def test_a_request_that_was_begun_twice_is_kept_twice(workspace: Workspace, log: NodeLog) -> None:
    """A replica that died had begun its answer, and so had its successor; both were paid for."""
    first, second = log.prompts("big"), NodeLog(workspace).prompts("big")
    first.append([part(0, cost_nano_usd=5, loan_id="one")])
    die(first)
    again = part(0, at=NOON + timedelta(milliseconds=1), cost_nano_usd=6, loan_id="two")
    second.append([again])
    assert log.flush() == 2
    assert cost_of_loans(workspace, ["one", "two"]) == {"one": 5, "two": 6}


# costs


def priced(request_id: str, cost_nano_usd: int, loan_id: str | None, **extra: Any) -> Any:
    paid = {"tenant": "acme", "cost_nano_usd": cost_nano_usd, "loan_id": loan_id}
    return record("toy", request_id) | paid | extra


def test_costs_are_those_of_both_logs(workspace: Workspace, log: NodeLog) -> None:
    assert cost_of_loans(workspace, ["one"]) == {"one": 0}
    assert cost_by_tenant(workspace, NOON, NOON + timedelta(days=1), "nano_usd") == {}
    log.predictions("toy").append([priced("a", 7, "one"), priced("b", 1, None)])
    acme: dict[str, Any] = {"tenant": "acme", "loan_id": "one"}
    log.prompts("big").append(
        [
            part(0, cost_nano_usd=10, **acme),
            part(1, cost_nano_usd=20, **acme),
            part(0, "r", cost_nano_usd=400, loan_id="two"),
            part(0, "s", cost_nano_usd=8000, tenant="acme", loan_id=None),
            part(0, "t", cost_nano_usd=500, at=NOON + timedelta(days=1), **acme),
        ]
    )
    log.flush()
    costs = cost_of_loans(workspace, ["one", "two", "three"])
    assert costs == {"one": 537, "two": 400, "three": 0}
    today = cost_by_tenant(workspace, NOON, NOON + timedelta(days=1), "nano_usd")
    assert today == {"acme": 37, "": 400}  # what no budget paid for is not in it


def test_tokens_are_counted_for_the_loans_that_paid_them(
    workspace: Workspace, log: NodeLog
) -> None:
    """In a log from before there were such loans nobody has paid tokens."""
    acme: dict[str, Any] = {"tenant": "acme", "cost_nano_usd": 10, "loan_id": "money"}
    table = PROMPTS.rows([orjson.dumps(part(0, "old", **acme))]).drop_columns(["token_loan_id"])
    write_deltalake(workspace.table(PROMPTS_TABLE), table, partition_by=["endpoint", "date"])
    until = NOON + timedelta(days=1)
    assert cost_of_loans(workspace, ["money", "tokens"]) == {"money": 10, "tokens": 0}
    assert cost_by_tenant(workspace, NOON, until, "tokens") == {}
    log.prompts("big").append([part(0, **acme, token_loan_id="tokens"), part(1, **acme)])
    log.flush()
    assert cost_of_loans(workspace, ["money", "tokens"]) == {"money": 30, "tokens": 3}
    assert cost_by_tenant(workspace, NOON, until, "tokens") == {"acme": 3}
    assert cost_by_tenant(workspace, NOON, until, "nano_usd") == {"acme": 30}


def test_the_logs_of_one_name_do_not_meet(tmp_path: Path) -> None:
    """An endpoint of predictions and a model may bear one name."""
    workspace = Workspace(str(tmp_path))
    log = NodeLog(workspace)
    log.predictions("toy").append([record("toy", "a")])
    log.prompts("toy").append([part(0, endpoint="toy")])
    assert log.commit() == 2
    assert [one.request_id for one in find_prompts(workspace, "q")] == ["q"]
