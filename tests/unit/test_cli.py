"""The command line without a cluster: choosing jobs, messages, exit codes, ports, and its speed."""

import json
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from heads import known_head

from rayapp.cli.app import main
from rayapp.cli.head_state import (
    Head,
    client_environment,
    ensure_token,
    is_alive,
    read_head,
    running_head,
    temp_dir,
    write_head,
)
from rayapp.cli.job_choice import (
    choose_job,
    next_commands,
    path_in,
    require_small,
    submission_id,
)
from rayapp.cli.ports import port_from
from rayapp.errors import ConfigError, Unavailable, UserError, WorkspaceError
from rayapp.storage import Workspace

ROOT = Path(__file__).parents[2]
FOUND = {
    "champions": ["flight-delay", "user-agent"],
    "models": {"small": "generate", "vectors": "embed", "headers": "generate"},
    "adapters": {"headers": "user-agent"},
    "training": "configs/training/b.yaml",
    "family": "neural",
    "best_settings": {"learning_rate": 0.01, "embedding_dim": 8},
}


def _head(workspace: Workspace, pid: int, started_s: float) -> Head:
    return known_head(workspace=workspace.uri, pid=pid, started_s=started_s)


@pytest.mark.parametrize(
    ("path", "keys", "job"),
    [
        ("configs/snapshots/a.yaml", [], "build_snapshot"),
        ("configs/training/a.yaml", [], "train"),
        ("configs/sweeps/a.yaml", [], "tune"),
        ("configs/releases/a.yaml", [], "release"),
        ("configs/golden_paths/a.yaml", [], "golden_path"),
        ("configs/operations/a.yaml", ["endpoint", "snapshot", "output_table"], "score_batch"),
        ("configs/operations/a.yaml", ["endpoint", "psi_alert"], "monitor"),
    ],
)
def test_a_configs_folder_names_its_job(path: str, keys: list[str], job: str) -> None:
    assert choose_job(path, keys, None) == job


@pytest.mark.parametrize(
    ("path", "keys", "wanted"),
    [
        ("configs/policies/a.yaml", ["gates"], None),
        ("configs/flags/a.yaml", ["name", "flags"], None),
        ("configs/operations/a.yaml", ["endpoint"], None),
        ("configs/operations/a.yaml", ["nonsense"], None),
        ("configs/training/a.yaml", [], "trian"),
    ],
)
def test_no_job_is_guessed(path: str, keys: list[str], wanted: str | None) -> None:
    with pytest.raises(ConfigError):
        choose_job(path, keys, wanted)


def test_job_option_decides() -> None:
    assert choose_job("configs/releases/a.yaml", [], "evaluate") == "evaluate"


def test_config_path_is_the_one_that_the_job_sees(tmp_path: Path) -> None:
    assert path_in(tmp_path, str(tmp_path / "configs/a.yaml")) == "configs/a.yaml"
    with pytest.raises(UserError, match="outside the working directory"):
        path_in(tmp_path / "project", str(tmp_path / "a.yaml"))


def test_submission_id_is_one_that_ray_takes() -> None:
    assert submission_id("train", "configs/training/my model.yaml", 7) == "train-my-model-7"


def test_a_large_working_directory_is_refused_naming_the_largest_file() -> None:
    require_small({"a": 5 * 1024 * 1024})
    with pytest.raises(UserError, match=r"5\.0 MB; largest: big\.csv \(5\.0 MB\)"):
        require_small({"small.py": 10, "big.csv": 5 * 1024 * 1024})


def test_every_job_has_a_next_command() -> None:
    from rayapp.cli.job_choice import CONFIG_OF_JOB

    for job in CONFIG_OF_JOB:
        assert next_commands(job, "configs/x/a.yaml", FOUND), job


def test_after_a_sweep_its_settings_are_trained() -> None:
    (command,) = next_commands("tune", "configs/sweeps/a.yaml", FOUND)
    assert command == (
        "rayapp submit configs/training/b.yaml neural.learning_rate=0.01 neural.embedding_dim=8"
    )


def test_after_weights_they_are_served_and_then_asked() -> None:
    (command,) = next_commands("add_weights", "configs/weights/a.yaml", FOUND)
    assert command == "rayapp submit configs/serving/llm.yaml"
    assert next_commands("deploy", "configs/serving/llm.yaml", FOUND) == [
        "rayapp ask flight-delay",
        'rayapp ask small "What is the capital of France?"',
        'rayapp ask headers "What is the capital of France?"',
    ]


def test_weights_that_the_heads_workspace_lacks_are_told_before_any_job(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import psutil

    this = psutil.Process()
    head = _head(workspace, this.pid, this.create_time())
    write_head(workspace, head)
    for name, value in client_environment(head).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    assert main(["submit", "configs/training/user_agent_lora.yaml"]) == 2
    assert "there are no weights 'smollm2-135m-instruct'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["http", "80", "70000", "-1", "8e3"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="RAYAPP_HTTP_PORT"):
        port_from({"RAYAPP_HTTP_PORT": text}, "RAYAPP_HTTP_PORT", 8000)


def test_port_defaults() -> None:
    assert port_from({"RAYAPP_HTTP_PORT": ""}, "RAYAPP_HTTP_PORT", 8000) == 8000


def test_head_file_round_trip(workspace: Workspace) -> None:
    assert read_head(workspace) is None
    head = _head(workspace, 1, 2.0)
    write_head(workspace, head)
    assert read_head(workspace) == head
    assert client_environment(head)["RAY_AUTH_MODE"] == "token"


def test_a_reused_pid_is_not_our_head(workspace: Workspace) -> None:
    import psutil

    this = psutil.Process()
    assert is_alive(_head(workspace, this.pid, this.create_time()))
    assert not is_alive(_head(workspace, this.pid, this.create_time() - 60))


def test_a_dead_head_is_not_running(workspace: Workspace) -> None:
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    write_head(workspace, _head(workspace, finished.pid, 0.0))
    with pytest.raises(Unavailable, match="no Ray head is running"):
        running_head(workspace)


def test_a_broken_head_file_is_named(workspace: Workspace) -> None:
    (workspace.local / "head.json").write_text("{")
    with pytest.raises(WorkspaceError, match=r"head\.json"):
        read_head(workspace)


def test_token_is_made_once_and_for_its_owner_alone(workspace: Workspace) -> None:
    path = ensure_token(workspace)
    first = path.read_text()
    assert ensure_token(workspace).read_text() == first
    assert len(first) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_socket_paths_fit(workspace: Workspace) -> None:
    longest = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.12"
    assert len(str(temp_dir(workspace)) + longest) < 107
    assert temp_dir(workspace) != temp_dir(Workspace("/elsewhere"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["submit", "--help"], 0),
        (["sbmit"], 2),
        (["submit"], 2),
        (["submit", "configs/training/nothing.yaml"], 2),
        (["submit", "configs/training/flight_delay_trees.yaml", "seed=x"], 2),
        (["submit", "configs/training/flight_delay_trees.yaml"], 1),
        (["ask", "flight-delay"], 1),
        (["ask", "flight-delay", "--print-body"], 2),
        (["ask", "flight-delay", "--max-tokens", "5"], 2),
        (["ask", "small", "why?"], 1),
        (["ask", "small", "why?", "--rows", "3"], 2),
        (["ask", "small", "why?", "--print-body"], 0),
        (["keys", "create", "Not A Name"], 2),
        (["keys", "revoke", "nothing"], 2),
        (["keys", "list"], 0),
        (["flags", "publish", "configs/flags/nothing.yaml"], 2),
        (["flags", "history"], 0),
        (["releases"], 0),
        (["plan", "abcdef"], 2),
        (["env"], 1),
        (["down"], 0),
    ],
)
def test_exit_codes_without_a_head(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RAYAPP_WORKSPACE", str(tmp_path))
    assert main(arguments) == code


def test_a_mistake_is_one_message_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYAPP_WORKSPACE", str(tmp_path))
    assert main(["env"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: no Ray head is running")
    assert "next: start one: rayapp up" in output.err


def test_where_there_is_no_key_yet_it_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYAPP_WORKSPACE", str(tmp_path))
    main(["keys", "list"])
    output = capsys.readouterr()
    assert output.out == "no key was made yet\n"
    assert "next: rayapp keys create TENANT" in output.err


def test_json_is_the_only_thing_on_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYAPP_WORKSPACE", str(tmp_path))
    main(["down", "--json"])
    assert json.loads(capsys.readouterr().out)["was_running"] is False


def test_doctor_finds_a_workspace_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYAPP_WORKSPACE", "/proc/nowhere")
    assert main(["doctor", "--json"]) == 2
    findings = {f["check"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings["python"]["state"] == "ok"
    assert findings["workspace"]["state"] == "problem"
    assert "RAYAPP_WORKSPACE" in findings["workspace"]["advice"]


def test_ports_are_told_apart(pytestconfig: pytest.Config) -> None:
    """A port that somebody listens on is not free. Sockets are allowed here for this one look."""
    import pytest_socket

    from rayapp.cli.ports import free_ports, is_free, require_free

    pytest_socket.enable_socket()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)
        assert port not in free_ports(3)
        with pytest.raises(UserError, match=rf"port {port} \(tests\) is taken by .*"):
            require_free(port, "RAYAPP_X_PORT", "tests")


def _project(folder: Path) -> Path:
    for name, text in {
        ".gitignore": "/out/\n",
        "jobs/train.py": "x",
        "configs/training/a.yaml": "xx",
        "out/big.csv": "xxx",
        "tests/test_a.py": "x",
        ".venv/lib/a.py": "x",
        "rayapp/__pycache__/a.pyc": "x",
        "rayapp/data/tests/a.py": "x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_code_and_configs_travel_and_nothing_else(tmp_path: Path) -> None:
    from rayapp.cli.submit import EXCLUDES, files_that_travel

    assert files_that_travel(_project(tmp_path), EXCLUDES) == {
        ".gitignore": 6,
        "jobs/train.py": 1,
        "configs/training/a.yaml": 2,
        "rayapp/data/tests/a.py": 1,
    }


def test_a_workspace_in_the_project_stays_there(tmp_path: Path) -> None:
    """It holds the signing key and the head's token, and outgrows the limit with the first run."""
    from rayapp.cli.submit import files_that_travel, left_out

    project = _project(tmp_path / "project")
    before = files_that_travel(project, left_out(project, []))
    for name in ("state/ws/keys/ray_token", "my-env/bin/python", "jobs/state/ws/kept.py"):
        (project / name).parent.mkdir(parents=True)
        (project / name).write_text("x")
    (tmp_path / "link").symlink_to(project)
    folders = [tmp_path / "link/state/ws", project / "my-env", tmp_path / "elsewhere", project]
    sizes = files_that_travel(project, left_out(project, folders))
    assert sizes == before | {"jobs/state/ws/kept.py": 1}


def test_a_workspace_that_is_the_project_sends_no_job(tmp_path: Path) -> None:
    from rayapp.cli.submit import require_apart

    (tmp_path / "link").symlink_to(tmp_path)
    require_apart(tmp_path, tmp_path / "ws")
    for workspace in (tmp_path, tmp_path / "link"):
        with pytest.raises(UserError, match="and the workspace's keys with it"):
            require_apart(tmp_path, workspace)


def test_this_project_is_small_enough_to_travel() -> None:
    from rayapp.cli.submit import EXCLUDES, files_that_travel

    sizes = files_that_travel(ROOT, EXCLUDES)
    require_small(sizes)
    assert {"jobs/train.py", "rayapp/errors.py", "serve_apps/__init__.py"} <= sizes.keys()


FIGURES = {
    "endpoint": "flight-delay",
    "release_id": "ab" * 32,
    "is_new": True,
    "runs": {"trees": {"auc": 0.75}},
    "test": {"auc": [0.7312, 0.7251, 0.7371], "log_loss": [None, None, None]},
    "card": "/ws/artifacts/cards/c/card.html",
}


def test_summary_shows_release_urls_and_next_commands(workspace: Workspace, tmp_path: Path) -> None:
    from rayapp.cli.ask import Answer
    from rayapp.cli.summary import read_figures, summary

    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"figures": FIGURES}))
    answers = [Answer("req-1", "ab" * 32, {}, 0.4, True, 3.0)]
    shown = summary(
        read_figures(str(path)), _head(workspace, 1, 0.0), answers, workspace.mlflow_url
    )
    assert dict(shown["Release"])["auc"] == "0.7312  [0.7251, 0.7371]"
    assert dict(shown["Release"])["log_loss"] == "not defined on these rows"
    assert dict(shown["Look at"])["endpoint"] == "http://127.0.0.1:2/v2/models/flight-delay"
    assert dict(shown["Look at"])["page"].startswith("http://127.0.0.1:2/docs ")
    assert dict(shown["Look at"])["card"] == "/ws/artifacts/cards/c/card.html"
    assert len(shown["Next"]) == 3
    assert shown["Next"][0][0] == "rayapp explain req-1"


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_what_was_answered_before_a_refusal_is_shown(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    json_flag: list[str],
) -> None:
    """Where a budget ends after the first row, that one was paid for."""
    from rayapp.cli import ask as rows
    from rayapp.cli import head_state

    def ask(*_: object) -> Iterator[rows.Answer]:
        yield rows.Answer("req-1", "ab" * 32, {}, 0.4, True, 3.0)
        raise UserError("answered 429: the budget is spent", "wait")

    monkeypatch.setattr(rows, "ask", ask)
    monkeypatch.setattr(head_state, "running_head", lambda _: _head(workspace, 1, 0.0))
    monkeypatch.setenv("RAYAPP_WORKSPACE", workspace.uri)
    assert main(["ask", "flight-delay", *json_flag]) == 2
    told = capsys.readouterr()
    assert "req-1" in told.out
    assert "budget is spent" in told.err


@pytest.mark.parametrize("text", ["", "[]", '{"figures": 3}', '{"figures": {"endpoint": "a"}}'])
def test_summary_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    from rayapp.cli.summary import read_figures

    (tmp_path / "figures.json").write_text(text)
    with pytest.raises(UserError):
        read_figures(str(tmp_path / "figures.json"))


def test_a_jobs_figures_are_its_last_line_of_json() -> None:
    from rayapp.cli.submit import _LastLine

    shown: list[str] = []
    lines = _LastLine(shown.append)
    for chunk in ("start\n{not", " json}\nmid", 'dle {"a": 0}\n', '{"run_', 'id": "r1"}\n'):
        lines.add(chunk)
    assert lines.end() == {"run_id": "r1"}
    assert "".join(shown) == 'start\n{not json}\nmiddle {"a": 0}\n'


def test_a_job_without_figures_shows_all_it_said() -> None:
    from rayapp.cli.submit import _LastLine

    shown: list[str] = []
    lines = _LastLine(shown.append)
    lines.add("{cut off")
    assert lines.end() == {}
    assert shown == ["{cut off"]


def test_what_is_not_as_configured_yet_is_told_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job is done all the same: what is awaited may still come."""
    from rayapp.cli import submit as submitting

    problem = "nothing was released for endpoint 'b' yet; next: correct the name"
    figures = {"champions": ["a"], "models": {}, "adapters": {}, "problems": [problem]}
    done = submitting.Outcome("deploy-1", "SUCCEEDED", 0, "", figures)
    monkeypatch.setattr(submitting, "submit", lambda *given: done)
    monkeypatch.setenv("RAYAPP_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.chdir(ROOT)
    assert main(["submit", "configs/serving/gateway.yaml"]) == 0
    output = capsys.readouterr()
    assert "problem: nothing was released for endpoint 'b' yet\n  next: correct" in output.err
    assert "problems" not in output.out + output.err


def test_figures_are_shown_for_a_person() -> None:
    from rayapp.cli.terminal import readable

    figures = {
        "id": "r1",
        "is_new": True,
        "rows": 12000,
        "test": {"auc": [0.73451, 0.7303, 0.7388]},
    }
    assert readable(figures) == {
        "id": "r1",
        "is_new": "yes",
        "rows": "12,000",
        "test.auc": "0.7345  [0.7303, 0.7388]",
    }
