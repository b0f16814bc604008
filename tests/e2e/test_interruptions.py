"""What a job leaves when its driver is killed, and what two jobs that want the same do."""

from pathlib import Path

import pytest
from shells import Shell, job_driver
from use_cases import UseCase, write_use_case
from waiting import AT_ONCE_S, until

from rayapp.ledger import Ledger
from rayapp.register.registry import open_registry
from rayapp.schemas.operations import EventKind

NUM_ROUNDS = 1_500
TRAINING = "configs/training/breast_cancer_tabular.yaml"
LONG = (f"tabular.num_rounds={NUM_ROUNDS}", "checkpoint_every=50")
WAIT_S = 120


@pytest.fixture(scope="module")
def use_case(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    return write_use_case(tmp_path_factory.mktemp("use") / "project", "binary", ("tabular",))


def _wait_for_checkpoint(shell: Shell) -> str:
    """Id of the run that has a checkpoint and no result yet."""
    ledger = Ledger.of(shell.workspace, "test")
    found: list[str] = []

    def is_there() -> bool:
        for event in ledger.events(EventKind.RUN_STARTED):
            folder = Path(shell.workspace.train_storage) / event.subject
            state = folder / "checkpoint_manager_snapshot.json"
            if event.payload["config"]["name"] == "breast_cancer_tabular" and state.exists():
                found.append(event.subject)
        return bool(found)

    until(is_there, every_s=AT_ONCE_S)
    return found[0]


def test_a_killed_driver_goes_on_when_its_config_is_submitted_again(
    shell: Shell, use_case: UseCase
) -> None:
    user = shell.in_folder(use_case.folder)
    first = user.start("submit", TRAINING, *LONG)
    run_id = _wait_for_checkpoint(shell)
    job_driver(shell, "jobs.train").kill()
    told, _ = first.communicate(timeout=WAIT_S)
    assert first.returncode not in (0, 2, 3), told

    again = user.rayapp("submit", TRAINING, *LONG)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"continuing {run_id}" in again.stdout
    rounds = [
        int(line.split("round ")[1].split("/")[0])
        for line in again.stdout.splitlines()
        if "round " in line
    ]
    assert min(rounds) > 50, "started from nothing"
    assert max(rounds) == NUM_ROUNDS
    assert ["run_id", run_id] in [line.split() for line in again.stdout.splitlines()]


def test_of_two_golden_paths_at_once_one_is_refused_and_one_promotes(
    shell: Shell, use_case: UseCase
) -> None:
    user = shell.in_folder(use_case.folder)
    both = [user.start("submit", use_case.golden_path) for _ in range(2)]
    told = [process.communicate(timeout=600)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], "\n\n".join(told)
    refused = next(text for text, p in zip(told, both, strict=True) if p.returncode == 1)
    assert "is being worked on by" in refused
    assert "run this again" in refused
    assert " && ray job stop golden_path-" in refused

    ledger = Ledger.of(shell.workspace, "test")
    moved = [
        event
        for event in ledger.events(EventKind.CHAMPION_MOVED)
        if event.payload["endpoint"] == use_case.endpoint
    ]
    assert len(moved) == 1
    registry = open_registry(shell.workspace.mlflow_url)
    version = registry.champion(use_case.endpoint)
    assert version is not None
    assert registry.versions(use_case.endpoint) == {version: moved[0].payload["release_id"]}
    assert shell.rayapp("audit", "verify").returncode == 0
