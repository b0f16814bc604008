"""A domain that the code has never heard of: only a contract and YAML, all three tasks."""

import json
from pathlib import Path

import pytest
from shells import PROJECT, Shell
from use_cases import write_use_case

from rayapp.ledger import Ledger
from rayapp.release.promote import champion_pointer
from rayapp.schemas.operations import EventKind

# every family learns every task in tests/contract/test_families.py; a fit costs half a minute here
FAMILIES = {
    "binary": ("tabular", "neural"),
    "multiclass": ("neural",),
    "regression": ("tabular",),
}


@pytest.mark.parametrize("task", FAMILIES)
def test_golden_path_from_contract_and_yaml_alone(task: str, shell: Shell, tmp_path: Path) -> None:
    serving = (PROJECT / "configs/serving/gateway.yaml").read_text()
    use_case = write_use_case(tmp_path / "project", task, FAMILIES[task], serving)
    user = shell.in_folder(use_case.folder)
    finished = user.rayapp("submit", use_case.golden_path, "--json", timeout_s=600)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    figures = json.loads(finished.stdout)["figures"]
    assert figures["is_new"]
    assert set(figures["runs"]) == {f"{use_case.name}_{family}" for family in FAMILIES[task]}
    (answer,) = shell.rayapp_json("ask", use_case.endpoint, "--rows", "1")
    prediction = answer["prediction"]
    if task == "binary":
        assert 0 <= prediction <= 1
    elif task == "multiclass":
        assert sum(prediction.values()) == pytest.approx(1, abs=1e-5)
        assert len(prediction) == use_case.rows["cultivar"].nunique()
    else:
        assert 25 < prediction < 346, "outside of every label of the data"


def test_a_candidate_that_learned_from_shuffled_labels_is_refused(
    shell: Shell, tmp_path: Path
) -> None:
    use_case = write_use_case(tmp_path / "project", "binary", ("tabular",))
    rows = use_case.rows
    rows["diagnosis"] = rows["diagnosis"].sample(frac=1, random_state=5).to_numpy()
    rows.to_csv(use_case.folder / "data" / f"{use_case.name}.csv", index=False)
    before = Ledger.of(shell.workspace, "test").pointer(champion_pointer(use_case.endpoint))
    user = shell.in_folder(use_case.folder)
    finished = user.rayapp("submit", use_case.golden_path, timeout_s=600)
    assert finished.returncode == 3, finished.stdout + finished.stderr
    assert "gate useful: fail - auc" in finished.stdout
    assert finished.stdout.count("required ≥") == 1, "a reason is told once"
    ledger = Ledger.of(shell.workspace, "test")
    assert ledger.pointer(champion_pointer(use_case.endpoint)) == before
    assert ledger.events(EventKind.RELEASE_REFUSED)
