"""A mistake in a file that a config leads to is found before anything runs."""

import json
import shutil
from pathlib import Path

import pytest
from language_case import weights

from rayapp.cli.job_choice import CONFIG_OF_JOB, JOBS_OF_FOLDER, choose_job
from rayapp.config.load import load, read_yaml
from rayapp.config.release import ReleaseConfig
from rayapp.errors import ConfigError, ContractError, DataError, LeakageRefused
from rayapp.flows.references import check_references
from rayapp.flows.session import open_session
from rayapp.ledger import Ledger
from rayapp.schemas.operations import EventKind
from rayapp.storage import Workspace, sha256

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _check(path: str, workspace: Workspace | None = None) -> None:
    job = choose_job(path, read_yaml(path)[0], None)
    check_references(load(CONFIG_OF_JOB[job], path), path, None, workspace)


PATHS = [
    p.relative_to(ROOT).as_posix()
    for folder in JOBS_OF_FOLDER
    for p in sorted((ROOT / "configs" / folder).glob("*.yaml"))
]


@pytest.mark.parametrize("path", PATHS)
def test_every_config_leads_to_good_files(path: str) -> None:
    _check(path)


TRAINING = "configs/training/flight_delay_trees.yaml"
RELEASE = "configs/releases/flight_delay_trees.yaml"
SWEEP = "configs/sweeps/flight_delay_trees.yaml"
SNAPSHOT = "configs/snapshots/flight_delay.yaml"
POLICY = "configs/policies/flight_delay.yaml"


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("configs/contracts/weather.odcs.yaml", "kind: DataContract", "kind: [", "not valid YAML"),
        (SNAPSHOT, "task: binary", "tsk: binary", "did you mean 'task'"),
        (POLICY, "metric: auc", "metric: rmse", f"{POLICY}: gate"),
        (POLICY, "metric: auc", "metric: rmse", "binary has no metric 'rmse'"),
        (TRAINING, "  - carrier\n", "  - carier\n", "no column 'carier'"),
        (TRAINING, "  - carrier\n", "  - carier\n", f"{TRAINING}: line "),
        (TRAINING, "  - carrier\n", "  - carrier name\n", "gets a physicalName in its contract"),
        (TRAINING, "  - carrier\n", "  - origin\n", "'origin' is listed twice"),
        (RELEASE, "    - carrier\n", "    - carier\n", "no column 'carier'"),
        (RELEASE, "    - carrier\n", "    - carier\n", f"{RELEASE}: line "),
        (RELEASE, "    - carrier\n", "    - carier\n", "did you mean 'carrier'"),
        (SNAPSHOT, "base: flights", "base: weather", f"{SNAPSHOT}: view: "),
        (SWEEP, "  max_depth:", "  max_dept:", "did you mean 'max_depth'"),
        (SWEEP, "flight_delay_trees", "loans", "cannot be read"),
    ],
)
def test_a_mistake_far_below_is_named(file: str, old: str, new: str, says: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new, 1))
    with pytest.raises((ConfigError, ContractError)) as error:
        _check("configs/golden_paths/flight_delay.yaml")
    assert says in str(error.value)


def test_a_missing_file_is_named() -> None:
    Path(SNAPSHOT).unlink()
    with pytest.raises(ConfigError, match=r"flight_delay\.yaml: cannot be read"):
        _check("configs/training/flight_delay_trees.yaml")


def test_a_feature_from_the_future_is_refused_before_anything_runs() -> None:
    text = Path(TRAINING).read_text()
    Path(TRAINING).write_text(text.replace("features:\n", "features:\n  - dep_delay\n"))
    with pytest.raises(LeakageRefused, match=r"line \d+: feature 'dep_delay'.*knownAt: outcome"):
        _check(TRAINING)


def test_candidates_of_one_golden_path_belong_together() -> None:
    path = "configs/golden_paths/flight_delay.yaml"
    other = Path("configs/releases/flight_delay_neural.yaml")
    text = other.read_text()
    other.write_text(text.replace("endpoint: flight-delay", "endpoint: other"))
    with pytest.raises(ConfigError, match="2 endpoints"):
        _check(path)
    other.write_text(text)
    config = load(CONFIG_OF_JOB["golden_path"], path, [f"releases=[{other}]"])
    with pytest.raises(ConfigError, match=r"which no release of .* trains"):
        check_references(config, path, None)
    shutil.copy(SNAPSHOT, "configs/snapshots/copy.yaml")
    config = load(CONFIG_OF_JOB["golden_path"], path, ["snapshot=configs/snapshots/copy.yaml"])
    with pytest.raises(ConfigError, match="name the same snapshot"):
        check_references(config, path, None)


LANGUAGE = "configs/releases/user_agent_lora.yaml"
GOLDEN = "configs/golden/user_agent.yaml"
TUNING = "configs/training/user_agent_lora.yaml"


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (LANGUAGE, "    - type\n", "    - kind\n", "no column 'kind'"),
        (LANGUAGE, "  slices:", "  cluster_by: site\n  slices:", "no column 'site'"),
        (LANGUAGE, "  slices:", "  graders: {exact_match: {kind: exact}}\n  slices:", "already"),
        (GOLDEN, "sha256: ", "sha256: 0", "sha256"),
        (GOLDEN, "min_items: 36", "min_items: 37", "36 items, min_items is 37"),
        ("configs/golden/user_agent.jsonl", "Chrome", "Chromium", "give the new one a new version"),
        (TUNING, "read_user_agent.yaml", "read_user_agnt.yaml", "mean configs/prompts/read_user_a"),
        (TUNING, "  - useragent\n", "  - site: useragent\n", "shows ['useragent'], `features`"),
    ],
)
def test_a_mistake_in_what_a_language_model_is_asked_is_named(
    file: str, old: str, new: str, says: str
) -> None:
    text = Path(LANGUAGE).read_text().replace("  slices:", f"  golden: {GOLDEN}\n  slices:")
    Path(LANGUAGE).write_text(text)
    _check(LANGUAGE)
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new, 1))
    with pytest.raises((ConfigError, DataError)) as error:
        _check(LANGUAGE)
    assert says in str(error.value)


def test_a_file_that_is_not_there_is_named_once() -> None:
    text = Path(LANGUAGE).read_text()
    absent = "configs/golden/absent.yaml"
    Path(LANGUAGE).write_text(text.replace("  slices:", f"  golden: {absent}\n  slices:"))
    with pytest.raises(ConfigError) as error:
        _check(LANGUAGE)
    assert error.value.what.startswith(f"{absent}: cannot be read")


def test_weights_that_a_workspace_does_not_have_are_told_where_it_is_known(
    workspace: Workspace,
) -> None:
    _check(LANGUAGE)
    with pytest.raises(ConfigError, match=rf"{TUNING}: line \d+: there are no weights 'smollm2-"):
        _check(LANGUAGE, workspace)


def test_a_sequence_that_the_weights_cannot_read_is_told_with_its_own_line(
    workspace: Workspace,
) -> None:
    name = "smollm2-135m-instruct"
    payload = {"weights": weights(name, "generate").model_dump(mode="json")}
    Ledger.of(workspace, "test").append(EventKind.WEIGHTS_ADDED, name, payload)
    lines = Path(TUNING).read_text().splitlines()
    (number,) = (n for n, line in enumerate(lines, 1) if line.startswith("  sequence_tokens:"))
    with pytest.raises(ConfigError, match=f"{TUNING}: line {number}: llm.sequence_tokens is 512"):
        _check(TUNING, workspace)


def test_weights_of_a_judge_are_looked_up_too(workspace: Workspace, project: Path) -> None:
    payload = {"weights": weights("smollm2-135m-instruct", "generate").model_dump(mode="json")}
    payload["weights"]["max_context_tokens"] = 8192
    ledger = Ledger.of(workspace, "test")
    ledger.append(EventKind.WEIGHTS_ADDED, "smollm2-135m-instruct", payload)
    _check(LANGUAGE, workspace)
    labelled = [{"answered": str(n), "is_right": n < 10} for n in range(20)]
    lines = "\n".join(map(json.dumps, labelled)).encode()
    (project / "anchors.jsonl").write_bytes(lines)
    file = {"path": "anchors.jsonl", "sha256": sha256(lines)}
    judge = {
        "metric": "judged_right",
        "prompt": "configs/prompts/judge_user_agent.yaml",
        "weights": "nobody-added",
        "verdict": {"right": "RIGHT", "wrong": "WRONG"},
        "anchors": {**file, "owner": "web-traffic", "min_of_each": 10},
    }
    text = Path(LANGUAGE).read_text()
    Path(LANGUAGE).write_text(text.replace("  slices:", f"  judge: {json.dumps(judge)}\n  slices:"))
    _check(LANGUAGE)
    with pytest.raises(ConfigError, match=rf"{LANGUAGE}: line \d+: .* no weights 'nobody-added'"):
        _check(LANGUAGE, workspace)


def test_whole_weights_are_no_release_and_that_is_told_before_they_are_trained(
    tmp_path: Path,
) -> None:
    training, path = (
        Path("configs/training/user_agent_lora.yaml"),
        "configs/golden_paths/user_agent.yaml",
    )
    text = training.read_text()
    lora = "  lora:\n    rank: 16\n    alpha: 32\n"
    assert lora in text
    text = text.replace(lora, "  method: full\n").replace(
        "workers:\n", "workers:\n  use_gpu: true\n"
    )
    training.write_text(text)
    with pytest.raises(ConfigError, match=f"{training}: .*makes whole weights"):
        _check(path)
    from rayapp.flows import stages  # three seconds, of which no other test here needs one

    _check(LANGUAGE)  # they can be evaluated
    session = open_session({"RAYAPP_WORKSPACE": str(tmp_path / "workspace")}, lambda text: None)
    with pytest.raises(ConfigError, match="makes whole weights"):
        stages.release(session, load(ReleaseConfig, LANGUAGE))
