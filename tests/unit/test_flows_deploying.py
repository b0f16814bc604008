"""What a serving config names is looked at before anything that answers is touched."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from serving_case import ENDPOINT, seal_release

from rayapp.config.language import EngineConfig, LanguageConfig
from rayapp.config.load import load
from rayapp.config.prompts import PromptConfig
from rayapp.config.routing import FlagsConfig
from rayapp.config.serving import ServeFile, ServingConfig
from rayapp.errors import ConfigError, GateRefused, UserError, WorkspaceError
from rayapp.flows.awaited import awaited
from rayapp.flows.deploying import _weights, _with_prompts, check_models, check_named
from rayapp.flows.references import check_references
from rayapp.flows.session import Session, open_session
from rayapp.govern.flags import publish_flags
from rayapp.ledger import Ledger
from rayapp.register.manifest import manifest_uri, seal, write_manifest
from rayapp.register.signing import load_or_create_key
from rayapp.release.promote import promote
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.operations import EventKind
from rayapp.schemas.prompt import Prompt
from rayapp.schemas.release import Verdict
from rayapp.serve.cluster.config_file import own_configs
from rayapp.storage import Workspace

Check = Callable[..., set[str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, list[str], dict[str, str]]:
    """A session whose workspace has a champion, another release that passed, one that did not, and
    one of another endpoint; what it says; and their ids."""
    folder, said = tmp_path_factory.mktemp("site"), list[str]()
    session = open_session({"RAYAPP_WORKSPACE": str(folder / "workspace")}, said.append)
    workspace = session.workspace
    made = {"champion": seal_release(workspace, folder / "1", 1, ENDPOINT)}
    promote(Ledger.of(workspace, "test"), made["champion"], 0)
    made["second"] = seal_release(workspace, folder / "2", 2, ENDPOINT)
    made["other"] = seal_release(workspace, folder / "3", 3, "other")
    bad = (Verdict(gate="speed", value="fail", reason="slow"),)
    manifest = made["second"].manifest.model_copy(update={"verdicts": bad})
    made["refused"] = seal(manifest, load_or_create_key(workspace.keys))
    write_manifest(workspace, made["refused"])
    return session, said, {name: signed.release_id for name, signed in made.items()}


def check(site: Any, **endpoint: Any) -> set[str]:
    return check_named(site[0], ServingConfig.model_validate({"endpoints": {ENDPOINT: endpoint}}))


def split(release_id: str) -> dict[str, Any]:
    return {"split": {"salt": "s", "arms": {"new": {"release": release_id, "share": 0.5}}}}


def test_what_is_there_is_fine(site: Any) -> None:
    assert check(site, **split(site[2]["second"])) == {ENDPOINT}
    assert check_named(site[0], ServingConfig()) == {ENDPOINT}


def test_no_units_are_given_to_an_endpoint_without_a_release(site: Any) -> None:
    """They would get 503, and no replica would be ready after a restart."""
    arms = {"new": {"endpoint": f"{ENDPOINT}s", "share": 0.5}}
    with pytest.raises(UserError, match=f"nothing was released; did you mean '{ENDPOINT}'"):
        check(site, split={"salt": "s", "arms": arms})
    rules = [{"name": "r", "when": {"tenants": ["acme"]}, "endpoint": "nobody"}]
    with pytest.raises(UserError, match="units are given to endpoint 'nobody'"):
        check(site, rules=rules)


def awaits(site: Any, **endpoints: Any) -> list[str]:
    config = ServingConfig.model_validate({"endpoints": endpoints})
    check_named(site[0], config)
    return awaited(site[0].workspace, config)


def test_a_feed_that_was_never_published_is_told(site: Any) -> None:
    assert awaits(site, **{ENDPOINT: {"feeds": ["nofeed"]}}) == [
        f"endpoint {ENDPOINT!r}: feed 'nofeed' was never published; next: rayapp submit "
        "configs/features/NAME.yaml"
    ]


def test_a_flag_that_a_rule_waits_for_is_told(site: Any) -> None:
    def problems() -> list[str]:
        rule = {"name": "next", "when": {"flag": "model", "is": "next"}, "release": second}
        return awaits(site, **{ENDPOINT: {"rules": [rule]}})

    def publish(**variants: str) -> None:
        flag = {"variants": {"current": "trees", **variants}, "default": "current"}
        config = FlagsConfig.model_validate({"name": "set", "flags": {"model": flag}})
        publish_flags(site[0].ledger, config)

    second = site[2]["second"]
    told = f"endpoint {ENDPOINT!r}: rule 'next' takes nothing: flag 'model' "
    step = "; next: rayapp flags publish configs/flags/NAME.yaml"
    assert problems() == [f"{told}is not published{step}"]
    publish(other="neural")
    assert problems() == [f"{told}has no variant 'next'{step}"]
    publish(next="neural")
    assert problems() == []


@pytest.mark.parametrize(
    ("release", "error", "says"),
    [
        ("missing", UserError, "there is no release ffffffffffff"),
        ("other", UserError, "was sealed for 'other', not for"),
        ("refused", GateRefused, "speed is fail: slow"),
    ],
)
def test_a_release_that_could_not_answer_is_refused(
    site: Any, release: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        check(site, **split(site[2].get(release, "f" * 64)))


def test_a_store_that_does_not_answer_is_not_taken_for_one_without_the_release(site: Any) -> None:
    unreadable = "e" * 64
    Path(manifest_uri(site[0].workspace, unreadable)).mkdir(parents=True)
    with pytest.raises(WorkspaceError, match="cannot be read") as error:
        check(site, **split(unreadable))
    assert "there is no release" not in str(error.value)


def test_an_endpoint_without_a_release_is_told(site: Any) -> None:
    known = check_named(site[0], ServingConfig.model_validate({"endpoints": {ENDPOINT + "s": {}}}))
    assert known == set()
    (near,) = awaits(site, **{ENDPOINT + "s": {}})
    assert f"nothing was released for endpoint '{ENDPOINT}s'; did you mean '{ENDPOINT}'?" in near
    (stand_in,) = awaits(site, **{ENDPOINT: {"fallback": [{"endpoint": "nonsuch"}]}})
    assert "nothing was released for endpoint 'nonsuch' yet" in stand_in
    assert "next: correct the name, or release for it" in stand_in
    assert awaits(site) == awaits(site, **{ENDPOINT: {}}) == []


def test_a_declared_answer_has_one_score_for_each_class(site: Any) -> None:
    assert check(site, fallback=[{"scores": [0.5, 0.5]}]) == {ENDPOINT}
    with pytest.raises(UserError, match=r"has 3 score\(s\), the champion gives 2"):
        check(site, fallback=[{"scores": [0.5, 0.25, 0.25]}])


def test_a_workspace_without_a_ledger_is_refused_and_not_made(site: Any, tmp_path: Path) -> None:
    config = ServingConfig.model_validate({"workspace": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="has no ledger"):
        check_named(site[0], config)
    assert not (tmp_path / "nowhere").exists()


def test_weights_that_an_engine_names_are_there(workspace: Workspace) -> None:
    session = open_session({"RAYAPP_WORKSPACE": workspace.uri}, lambda text: None)
    config = EngineConfig.model_validate({"weights": "tiny"})
    with pytest.raises(UserError, match="there are no weights 'tiny'"):
        _weights(session, config)
    weights = WeightsRef(
        name="tiny",
        uri="/weights",
        digest="a" * 64,
        files=(),
        task="embed",
        source="/models/tiny",
        source_sha256=None,
        license="MIT",
        architecture="BertModel",
        num_parameters=10,
        max_context_tokens=64,
    )
    payload = {"weights": weights.model_dump(mode="json")}
    session.ledger.append(EventKind.WEIGHTS_ADDED, "tiny", payload)
    assert _weights(session, config) == weights
    told = own_configs(serve_file({"name": "n", "system": "Be brief.", "user": "{text}"}))["llm"]
    assert isinstance(told, LanguageConfig)
    with pytest.raises(UserError, match="`prompt` has no effect: tiny makes vectors of texts"):
        check_models(session, told)


def test_a_release_that_a_model_names_is_there(site: Any) -> None:
    session, _, ids = site
    engine = {"weights": "tiny", "max_adapters": 1}
    named = {"engine": "e", "endpoint": ENDPOINT, "release": "f" * 64}
    config = LanguageConfig.model_validate({"engines": {"e": engine}, "models": {"m": named}})
    with pytest.raises(UserError, match="there is no release ffffffffffff"):
        check_models(session, config)
    other = config.models["m"].model_copy(update={"release": ids["other"]})
    with pytest.raises(UserError, match="was sealed for 'other'") as error:
        check_models(session, config.model_copy(update={"models": {"m": other}}))
    assert error.value.next_step.startswith("name endpoint other, or another release")


PROMPT_FILE = """
name: brief
system: Be brief.
user: "{text}"
tests: [{values: {text: "a"}, user: "a"}]
"""


def serve_file(prompt: Any) -> ServeFile:
    engine = {"weights": "tiny"}
    models = {"big": {"engine": "engine", "prompt": prompt}, "small": {"engine": "engine"}}
    args = {"engines": {"engine": engine}, "models": models}
    applications = [
        {
            "name": "engine",
            "import_path": "serve_apps.llm:build_engine",
            "route_prefix": None,
            "args": engine,
        },
        {"name": "llm", "import_path": "serve_apps.llm:build", "args": args},
    ]
    return ServeFile.model_validate({"applications": applications})


def with_prompts(session: Session, file: ServeFile) -> ServeFile:
    return _with_prompts(session, file, own_configs(file))


def test_a_prompt_file_is_deployed_by_what_it_says(site: Any, tmp_path: Path) -> None:
    session, said, _ = site
    path = tmp_path / "brief.yaml"
    path.write_text(PROMPT_FILE)
    file = with_prompts(session, serve_file(str(path)))
    config = own_configs(file)["llm"]
    assert isinstance(config, LanguageConfig)
    told = Prompt(name="brief", system="Be brief.", user="{text}")
    assert (config.models["big"].prompt, config.models["small"].prompt) == (told, None)
    digest = told.content_digest()
    assert said[-1] == f"model big: prompt brief ({digest[:12]}) of {path}"
    kept = Path(session.workspace.artifact("prompts", digest)) / "prompt.json"
    assert Prompt.parse(kept.read_bytes()) == told
    assert with_prompts(session, file) == file


@pytest.mark.parametrize(
    ("said", "idle"),
    [
        (("a", "", "{text}"), "brief has no `system`, so it has no effect"),
        (
            ("Say a", "system: Be brief.", "Say {text}"),
            "`user` of brief is 'Say {text}', which has no effect",
        ),
    ],
)
def test_what_of_a_prompt_nobody_would_be_told_is_refused(
    tmp_path: Path, said: tuple[str, str, str], idle: str
) -> None:
    path, serving = tmp_path / "brief.yaml", tmp_path / "llm.yaml"
    of_a, system, user = said
    path.write_text(
        f'name: brief\n{system}\nuser: "{user}"\ntests: [{{values: {{text: a}}, user: "{of_a}"}}]\n'
    )
    file = serve_file(str(path))
    serving.write_text(yaml.safe_dump(file.model_dump(mode="json", exclude_unset=True)))
    with pytest.raises(ConfigError, match=re.escape(idle)):
        check_references(load(ServeFile, str(serving)), str(serving), None)
    with pytest.raises(ValidationError, match=re.escape(idle)):
        own_configs(serve_file(load(PromptConfig, str(path)).prompt.model_dump()))
