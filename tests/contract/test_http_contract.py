"""The gateways keep to what they say of themselves, and take nothing that it forbids."""

from pathlib import Path

from language_case import LanguageCase
from serving_case import case_of_tasks

from benchmarks.http_contract import run


def test_endpoints_keep_to_their_description(tmp_path: Path) -> None:
    found = run(case_of_tasks(tmp_path).app, seed=1, max_examples=60)
    assert not found.failures, found.examples
    assert found.num_cases > 1000
    assert set(found.statuses) == {200, 202, 400, 405, 413, 415, 422}


def test_language_models_keep_to_theirs() -> None:
    found = run(LanguageCase().app, seed=1, max_examples=60, gateway="models")
    assert not found.failures, found.examples
    assert found.num_cases > 1000
    assert set(found.statuses) == {200, 400, 404, 405, 415}
