"""What the gateways answer against what /openapi.json says of them, by schemathesis.

    python -m benchmarks.http_contract [--cases 5000] [--seed 1] [OUTPUT.json]

An endpoint of each task behind the real gateway, and the gateway of language models before engines
without a model, called in this process. Requests are made from the description: good ones, and ones
that break it in one place; of each gateway at least so many as --cases says. Told: their number by
status and by operation, and everything that a check found.
"""

import argparse
import logging
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.openapi.checks import RejectedPositiveData

from benchmarks import results_file

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "positive_data_acceptance",
)
REFUSALS = ("400", "404", "405", "413", "415", "422")
ENOUGH_MS = 20_000
"""For one answer, on a machine that is busy with other things too."""
MOST_TOKENS = 8
"""Of an answer, so that it fits into the context of an engine of the tests."""
UNSAID = (b'"context_length_exceeded"', b"which none of `tools` is")
DESCRIPTIONS = {"endpoints": "/openapi.json", "models": "/v1/openapi.json"}
NUM_SEARCHED = {"endpoints": 10, "models": 3}
"""Operations with a body; of the others there is one good request each."""
MAX_EXAMPLES = 10


@dataclass
class Findings:
    statuses: Counter[int] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def num_cases(self) -> int:
        return self.statuses.total()

    def add(self, label: str, recorder: ScenarioRecorder) -> None:
        for interaction in recorder.interactions.values():
            if interaction.response is not None:
                self.statuses[interaction.response.status_code] += 1
                self.operations[label] += 1
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.failure_info is not None:
                    self.failures[f"{check.name}: {label}"] += 1
                    if len(self.examples) < MAX_EXAMPLES:
                        body = recorder.cases[case_id].value.body
                        failure = check.failure_info.failure
                        self.examples.append(f"{label} {body!r:.1000}: {failure!s:.1000}")

    def summary(self) -> dict[str, Any]:
        return {
            "num_cases": self.num_cases,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "operations": dict(self.operations),
            "failures": dict(self.failures),
            "examples": self.examples,
        }


def config(seed: int, max_examples: int) -> SchemathesisConfig:
    """max_examples: of the search for each operation, besides the limits of every field."""
    no_answers = {"responses": False}  # their random ids would make each run another
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "workers": 1,
            "continue-on-failure": True,
            "generation": {"mode": "all", "max-examples": max_examples, "database": "none"},
            "phases": {
                "stateful": {"enabled": False},
                **{name: {"extra-data-sources": no_answers} for name in ("examples", "fuzzing")},
            },
            "checks": {
                "enabled": False,
                **{name: {"enabled": True} for name in CHECKS},
                "negative_data_rejection": {"enabled": True, "expected-statuses": [*REFUSALS]},
            },
        }
    )


@schemathesis.hook("before_call")
def _complete(context: Any, case: Any, kwargs: Any) -> None:
    """JSON Schema cannot say that a tensor has as many values as its shape says, nor that all of
    them have equally many; good requests are made so. Nor how long an answer takes: a request that
    gives it less than ENOUGH_MS would rightly be told 504, of which nothing follows. Nor how much a
    model's context has left for an answer."""
    given = (case.headers or {}).get("x-deadline-ms", "")
    if given.isdigit() and int(given) < ENOUGH_MS:
        case.headers["x-deadline-ms"] = str(ENOUGH_MS)
    is_good = case.meta is not None and case.meta.generation.mode.is_positive
    if is_good and case.path.startswith("/v1/") and isinstance(case.body, dict):
        _fit(case.body)
    if not is_good or not case.path.endswith("/infer"):
        return
    num_rows = min(len(tensor["data"]) for tensor in case.body["inputs"])
    for tensor in case.body["inputs"]:
        tensor["data"] = tensor["data"][:num_rows]
        tensor["shape"] = [num_rows]


def _fit(body: dict[str, Any]) -> None:
    """2 and 2.0 are the same to JSON Schema; of tokens only the first is an id."""
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name):
            body[name] = MOST_TOKENS
    for name in ("prompt", "input", "stop_token_ids"):
        if isinstance(body.get(name), list):
            body[name] = [_ids(one) for one in body[name]]


def _ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_ids(one) for one in value]
    return int(value) if isinstance(value, float) else value


@schemathesis.hook("filter_failure")
def _counts(context: Any, failure: Failure, case: Any, response: Any) -> bool:
    """Some refusals of what keeps to the description are in order, since JSON Schema has no words
    for why: a feature cannot be computed of the rows (of a whole number beyond 2**53 as a float,
    say), which the answer tells apart; a time that in UTC is before year 1 or after 9999; a prompt
    that is too long for the model; a choice of a tool that is not one of those sent."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    if response.status_code != 422:
        return not any(words in response.content for words in UNSAID)
    is_at_an_end = any(day in repr(case.body) for day in ("'0001-01-01", "'9999-12-31"))
    return not (is_at_an_end or b'"unusable_rows"' in response.content)


def run(app: Any, seed: int, max_examples: int, gateway: str = "endpoints") -> Findings:
    found = Findings()
    path, settings = DESCRIPTIONS[gateway], config(seed, max_examples)
    schema = schemathesis.openapi.from_asgi(path, app, config=settings)
    for event in _events(schema):
        found.add(event.label or "", event.recorder)
    return found


def _events(schema: Any) -> Iterator[events.ScenarioFinished]:
    for event in from_schema(schema).execute():
        if isinstance(event, events.FatalError | events.NonFatalError):
            raise RuntimeError(str(event))
        if isinstance(event, events.ScenarioFinished):
            yield event


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000, help="at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("output", nargs="?", help="default: benchmarks/results/http-contract-DATE")
    chosen = parser.parse_args()
    output = results_file.path_of("http-contract", chosen.output)
    logging.disable(logging.ERROR)
    sys.path.append("tests/unit")
    from language_case import LanguageCase
    from serving_case import case_of_tasks

    began_s = time.perf_counter()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for gateway, app in (
            ("endpoints", case_of_tasks(Path(folder)).app),
            ("models", LanguageCase().app),
        ):
            max_examples = math.ceil(chosen.cases / NUM_SEARCHED[gateway])
            found[gateway] = run(app, chosen.seed, max_examples, gateway)
    result = {
        "seed": chosen.seed,
        "schemathesis": schemathesis.__version__,
        "seconds": round(time.perf_counter() - began_s, 1),
        **{gateway: one.summary() for gateway, one in found.items()},
    }
    results_file.tell(output, result | results_file.measured_here())
    if any(one.failures or one.num_cases < chosen.cases for one in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
