"""The endpoints keep to what /openapi.json says of them, and take nothing that it forbids."""

from pathlib import Path

from serving_case import case_of_tasks

from benchmarks.http_contract import run


def test_answers_keep_to_the_description(tmp_path: Path) -> None:
    found = run(case_of_tasks(tmp_path).app, seed=1, max_examples=60)
    assert not found.failures, found.examples
    assert found.num_cases > 1000
    assert set(found.statuses) == {200, 202, 400, 405, 413, 415, 422}
