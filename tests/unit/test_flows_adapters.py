"""What a gateway for language models lacks is told before anything that answers is touched."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving_case import ENDPOINT, seal_release
from test_language_adapters import language, released
from test_language_cascade import prices

from rayapp.config.language import LanguageConfig
from rayapp.config.serving import ServeFile
from rayapp.errors import ConfigError
from rayapp.flows import adapters as looked_up
from rayapp.flows import deploying
from rayapp.flows.adapters import adapters
from rayapp.flows.awaited import awaited_models
from rayapp.flows.deploying import served_models
from rayapp.flows.passed import passed
from rayapp.flows.session import Session, open_session
from rayapp.register.manifest import seal, write_manifest
from rayapp.register.signing import load_or_create_key
from rayapp.release.promote import promote
from rayapp.schemas.language import Task, WeightsRef
from rayapp.schemas.operations import EventKind
from rayapp.schemas.release import SignedManifest, Verdict
from rayapp.storage import Workspace

ENGINES: dict[str, Any] = {
    "writer": {"weights": "writer", "max_adapters": 2},
    "vectors": {"weights": "vectors"},
}


@pytest.fixture
def session(workspace: Workspace) -> Session:
    """Its workspace has weights that write, and others that make vectors."""
    session = open_session({"RAYAPP_WORKSPACE": workspace.uri}, lambda text: None)
    add_weights(session, "writer", "generate")
    add_weights(session, "vectors", "embed")
    return session


def add_weights(session: Session, name: str, task: Task) -> None:
    weights = WeightsRef(
        name=name,
        uri=f"/weights/{name}",
        digest=f"digest-of-{name}",
        files=(),
        task=task,
        source=f"/models/{name}",
        source_sha256=None,
        license="MIT",
        architecture="none",
        num_parameters=10,
        max_context_tokens=64,
    )
    payload = {"weights": weights.model_dump(mode="json")}
    session.ledger.append(EventKind.WEIGHTS_ADDED, name, payload)


def release(session: Session, endpoint: str, base: str, is_promoted: bool = True) -> SignedManifest:
    """An adapter, sealed for an endpoint. base: the weights that it is one of."""
    form = released("", endpoint, language(base=base)).manifest
    passed = (Verdict(gate="useful", value="pass", reason="fine"),)
    manifest = form.model_copy(update={"verdicts": passed})
    signed = seal(manifest, load_or_create_key(session.workspace.keys))
    write_manifest(session.workspace, signed)
    if is_promoted:
        promote(session.ledger, signed, 0)
    return signed


def config_of(**models: Any) -> LanguageConfig:
    given = {"writer": {"engine": "writer", "adapters": True}, "vectors": {"engine": "vectors"}}
    return LanguageConfig.model_validate({"engines": ENGINES, "models": {**given, **models}})


def file_of(config: LanguageConfig) -> ServeFile:
    engines = [
        {
            "name": name,
            "import_path": "serve_apps.llm:build_engine",
            "route_prefix": None,
            "args": args,
        }
        for name, args in ENGINES.items()
    ]
    args = config.model_dump(mode="json", exclude_unset=True)
    gateway = {"name": "llm", "import_path": "serve_apps.llm:build", "args": args}
    return ServeFile.model_validate({"applications": [*engines, gateway]})


@pytest.mark.parametrize(
    "other",
    [
        {"fallback": [{"model": "vectors"}]},
        {"cascade": {"first": {"model": "vectors"}, "max_error": 0.2}, **prices(3, 9)},
    ],
)
def test_one_that_cannot_answer_is_refused_before_serve_is_touched(
    session: Session, other: dict[str, Any]
) -> None:
    """A builder would say so too late: what answered until then is gone."""
    config = config_of(
        other={"engine": "writer", **other}, vectors={"engine": "vectors", **prices(1, 1)}
    )
    with pytest.raises(ConfigError, match="vectors cannot answer for other: its weights vectors"):
        deploying.deploy_file(session, file_of(config))


def test_a_model_that_nobody_answers_for_is_told_and_not_recommended(
    session: Session, tmp_path: Path
) -> None:
    release(session, "tuned", "writer")
    other = release(session, "elsewhere", "huge")
    rows = seal_release(session.workspace, tmp_path / "rows", 1, ENDPOINT)
    promote(session.ledger, rows, 0)
    config = config_of(
        near={"engine": "writer", "endpoint": "tuend"},
        rows={"engine": "writer", "endpoint": ENDPOINT},
        named={"engine": "writer", "endpoint": "elsewhere", "release": other.release_id},
        mine={"engine": "writer", "endpoint": "tuned"},
    )
    answering = adapters(session.workspace, config)
    near, of_rows, named = awaited_models(session.workspace, config, answering)
    assert near == (
        "model 'near': nothing was released for endpoint 'tuend'; did you mean 'tuned'?; next: "
        "correct the name, or release for it: rayapp submit configs/releases/NAME.yaml "
        "endpoint=tuend"
    )
    which = f"release {rows.release_id[:12]} of endpoint {ENDPOINT!r} is no adapter of weights"
    assert of_rows.startswith(f"model 'rows': {which} 'writer' as they are now")
    assert named.startswith(f"model 'named': release {other.release_id[:12]} of endpoint")
    found = served_models(session, config, answering)
    assert found.tasks == {
        "writer": "generate",
        "vectors": "embed",
        "mine": "generate",
        "tuned": "generate",
    }
    assert found.adapters == {"mine": "tuned", "tuned": "tuned"}
    assert found.champions == {"tuned"}


def test_a_champion_that_a_model_answers_by_is_read_once_and_among_the_figures(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(session, "tuned", "writer")
    release(session, "elsewhere", "huge")
    read = list[str]()

    def counted(workspace: Workspace, release_id: str) -> SignedManifest:
        read.append(release_id)
        return passed(workspace, release_id)

    monkeypatch.setattr(looked_up, "passed", counted)
    monkeypatch.setattr(deploying, "deploy", lambda *given: {"llm_url": "http://127.0.0.1:1/v1"})
    here = replace(session, environ={**session.environ, "RAYAPP_LLM_VENV": sys.prefix})
    figures = deploying.deploy_file(here, file_of(config_of()))
    assert figures == {
        "llm_url": "http://127.0.0.1:1/v1",
        "champions": ["tuned"],
        "models": {"writer": "generate", "vectors": "embed", "tuned": "generate"},
        "adapters": {"tuned": "tuned"},
        "problems": [],
    }
    assert len(read) == len(set(read)) == 2  # a manifest may be far away


def test_a_release_that_is_named_answers_without_being_champion(session: Session) -> None:
    signed = release(session, "tuned", "writer", is_promoted=False)
    named = {"engine": "writer", "endpoint": "tuned", "release": signed.release_id}
    config = config_of(next=named)
    answering = adapters(session.workspace, config)
    assert answering == {"next": signed}
    assert awaited_models(session.workspace, config, answering) == []
    found = served_models(session, config, answering)
    assert (found.adapters, found.champions) == ({"next": "tuned"}, set())
