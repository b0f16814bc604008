"""Feature flags in the ledger: what holds, who published it, and what the audit finds."""

import getpass
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rayapp.cli.app import main
from rayapp.config.load import load
from rayapp.config.routing import FlagsConfig
from rayapp.errors import Refused, UserError, WorkspaceError
from rayapp.govern.flags import (
    FLAGS_POINTER,
    current_flags,
    flag_history,
    list_flags,
    publish_flags,
)
from rayapp.ledger import Ledger
from rayapp.schemas.operations import EventKind
from rayapp.storage import Workspace

ROOT = Path(__file__).parents[2]
EXAMPLE = "configs/flags/flight_delay.yaml"


@pytest.fixture
def ledger(workspace: Workspace) -> Ledger:
    return Ledger.of(workspace, "ann")


def flags(name: str = "one", **default: str) -> FlagsConfig:
    """Flags on or off."""
    made = {
        flag: {"variants": {"on": True, "off": False}, "default": variant}
        for flag, variant in default.items()
    }
    return FlagsConfig.model_validate({"name": name, "flags": made})


def defaults(ledger: Ledger) -> dict[str, str]:
    return {name: flag.default for name, flag in current_flags(ledger).items()}


def test_a_set_replaces_itself_and_leaves_the_others(ledger: Ledger, workspace: Workspace) -> None:
    assert defaults(ledger) == {}
    assert publish_flags(ledger, flags(a="on", b="on"))
    assert publish_flags(Ledger.of(workspace, "bob"), flags("two", c="off"))
    assert publish_flags(ledger, flags(a="off", d="on"))
    assert defaults(ledger) == {"a": "off", "c": "off", "d": "on"}
    assert [(f.name, f.set_name, f.by) for f in list_flags(ledger)] == [
        ("a", "one", "ann"),
        ("c", "two", "bob"),
        ("d", "one", "ann"),
    ]
    told = [(p.by, p.set_name, p.added, p.changed, p.removed) for p in flag_history(ledger)]
    assert told == [
        ("ann", "one", ("d",), ("a",), ("b",)),
        ("bob", "two", ("c",), (), ()),
        ("ann", "one", ("a", "b"), (), ()),
    ]
    assert ledger.verify() == []


def test_a_set_without_flags_is_withdrawn(ledger: Ledger) -> None:
    publish_flags(ledger, flags(a="on"))
    assert publish_flags(ledger, flags())
    assert defaults(ledger) == {}
    assert publish_flags(ledger, flags("two", a="off"))  # the name is free again


def test_what_holds_already_is_no_event(ledger: Ledger) -> None:
    example = load(FlagsConfig, ROOT / EXAMPLE)
    assert [publish_flags(ledger, example) for _ in range(2)] == [True, False]
    assert not publish_flags(ledger, flags("never"))
    assert current_flags(ledger) == example.flags
    assert [e.kind for e in ledger.events()] == [EventKind.FLAGS_PUBLISHED]


def test_a_flag_is_in_one_set(ledger: Ledger) -> None:
    publish_flags(ledger, flags(a="on"))
    with pytest.raises(UserError, match="'a' is already in the set 'one'"):
        publish_flags(ledger, flags("two", a="off"))
    assert len(ledger.events()) == 1


def test_two_who_publish_at_once_do_not_undo_each_other(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = ledger.latest

    def meanwhile(kind: EventKind) -> Any:
        found = latest(kind)
        monkeypatch.undo()
        publish_flags(ledger, flags(a="on"))
        return found

    monkeypatch.setattr(ledger, "latest", meanwhile)
    with pytest.raises(Refused, match="somebody else published flags meanwhile"):
        publish_flags(ledger, flags("two", b="on"))
    assert defaults(ledger) == {"a": "on"}


def test_what_was_altered_is_found(ledger: Ledger) -> None:
    publish_flags(ledger, flags(a="on"))
    with sa.create_engine(ledger.url).begin() as connection:
        connection.execute(
            sa.text("UPDATE pointers SET target = 'x' WHERE name = :name"), {"name": FLAGS_POINTER}
        )
    assert [p.where for p in ledger.verify()] == [f"pointer {FLAGS_POINTER}"]


def test_flags_of_another_version_are_named(ledger: Ledger) -> None:
    published = {"sets": {"one": {"name": "one", "flags": {"a": {"variants": {"on": 1}}}}}}
    payload = {"set": "one", "published": published}
    ledger.move_pointer(FLAGS_POINTER, "digest", 0, EventKind.FLAGS_PUBLISHED, payload)
    with pytest.raises(WorkspaceError, match=r"published\.sets\.one\.flags\.a\.default"):
        current_flags(ledger)


# the command line


@pytest.fixture
def _in_project(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RAYAPP_WORKSPACE", workspace.uri)


@pytest.mark.usefixtures("_in_project")
def test_flags_are_published_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for command, says in (
        ("show", "There are no flags.\n"),
        ("history", "No flags were published yet.\n"),
    ):
        assert main(["flags", command]) == 0
        nothing = capsys.readouterr()
        assert (nothing.out, "rayapp flags publish" in nothing.err) == (says, True)
    assert main(["flags", "publish", EXAMPLE]) == 0
    assert capsys.readouterr().out == "1 flag of flight_delay: published.\n"
    assert main(["flags", "publish", EXAMPLE]) == 0
    assert capsys.readouterr().out == "1 flag of flight_delay: as they were already.\n"
    assert main(["flags", "show"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "flight-delay-model current ('trees') x-channel: staff or test → next" in shown
    assert "all → 5% next" in shown
    assert getpass.getuser() in shown
    assert main(["flags", "history"]) == 0
    assert "flight_delay flight-delay-model" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("_in_project")
def test_flags_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for command in (["publish", EXAMPLE], ["show"], ["history"]):
        assert main(["flags", *command, "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    made, shown, history = told
    assert made == {"set": "flight_delay", "flags": ["flight-delay-model"], "is_new": True}
    assert shown[0]["flag"]["targeting"][1]["shares"] == {"next": 0.05}
    assert history[0]["added"] == ["flight-delay-model"]


@pytest.mark.usefixtures("_in_project")
@pytest.mark.parametrize("text", ["name: x\n", "name: x\nflags: {a: {variants: {on: 1}}}\n"])
def test_a_file_with_a_mistake_is_not_published(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], workspace: Workspace
) -> None:
    path = tmp_path / "flags.yaml"
    path.write_text(text)
    assert main(["flags", "publish", str(path)]) == 2
    assert "missing" in capsys.readouterr().err
    assert Ledger.of(workspace, "test").events() == []
