"""A serving config, put into effect: what it names must be there, or what answers now stays."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayapp.config.language import EngineConfig, LanguageConfig
from rayapp.config.prompts import PromptConfig
from rayapp.config.serving import EndpointConfig, ServeFile, ServingConfig
from rayapp.errors import NotFoundError, UserError
from rayapp.flows.adapters import adapters
from rayapp.flows.awaited import awaited, awaited_models, near
from rayapp.flows.passed import Kinds, passed
from rayapp.flows.room import tell_if_it_waits
from rayapp.flows.session import Session
from rayapp.flows.weights import find_weights
from rayapp.ledger import Ledger
from rayapp.llm.environment import runtime_env
from rayapp.register.manifest import read_manifest
from rayapp.release.promote import champions
from rayapp.schemas.language import Task, WeightsRef
from rayapp.schemas.operations import Pointer
from rayapp.schemas.record import short
from rayapp.schemas.release import SignedManifest
from rayapp.serve.cluster.config_file import Ours, needs_vllm, own_configs
from rayapp.serve.cluster.deploy import deploy
from rayapp.serve.language.fitting import require_fitting
from rayapp.storage import Workspace, commit_bytes


def deploy_file(session: Session, file: ServeFile) -> dict[str, Any]:
    """Deploy it and wait until it answers. Returns the figures of the job's last line."""
    done = deployed(session, file)
    return {
        **done.urls,
        "champions": sorted(done.answering.union(*(one.champions for one in done.models))),
        "models": {name: task for one in done.models for name, task in one.tasks.items()},
        "adapters": {name: own for one in done.models for name, own in one.adapters.items()},
        "problems": done.problems,
    }


@dataclass(frozen=True)
class ServedModels:
    """What each is for, and the endpoints that adapters were released for, by the names that
    callers send. champions: endpoints whose champion is one of these adapters."""

    tasks: dict[str, Task]
    adapters: dict[str, str]
    champions: set[str]


def served_models(
    session: Session, config: LanguageConfig, answering: Mapping[str, SignedManifest]
) -> ServedModels:
    """answering: as flows.adapters has them."""
    workspace = _workspace(session, config.workspace)
    weights = {
        name: _weights(session, config.engines[model.engine])
        for name, model in config.models.items()
        if model.endpoint is None
    }
    newest = {pointer.target for pointer in champions(Ledger.of(workspace, "deploy")).values()}
    return ServedModels(
        {name: one.task for name, one in weights.items()} | dict.fromkeys(answering, "generate"),
        {name: signed.manifest.endpoint for name, signed in answering.items()},
        {signed.manifest.endpoint for signed in answering.values() if signed.release_id in newest},
    )


@dataclass(frozen=True)
class Deployed:
    """answering: endpoints that have a champion. models: of each gateway for language models.
    problems: as flows.awaited has them. All as it was when the deployment began."""

    urls: dict[str, str]
    answering: set[str]
    models: list[ServedModels]
    problems: list[str]


def deployed(session: Session, file: ServeFile, keeps_others: bool = False) -> Deployed:
    """What became of it, once it runs. keeps_others: as serve.cluster.deploy has it. Raises what
    check_named does, before anything that answers now is touched."""
    configs = own_configs(file)
    answering: set[str] = set()
    models: list[ServedModels] = []
    problems: list[str] = []
    for config in configs.values():
        if isinstance(config, EngineConfig):
            _weights(session, config)
            continue
        workspace = _workspace(session, config.workspace)
        if isinstance(config, ServingConfig):
            answering |= check_named(session, config)
            problems += awaited(workspace, config)
        else:
            check_models(session, config)
            released = adapters(workspace, config)
            models.append(served_models(session, config, released))
            problems += awaited_models(workspace, config, released)
    for problem in problems:
        session.say(problem)

    def on_wait(names: Sequence[str]) -> None:
        most = max((configs[name].num_cpus for name in names if name in configs), default=1.0)
        tell_if_it_waits(session, {"CPU": most})

    file = _in_its_environment(session, _with_prompts(session, file, configs))
    reached = session.dashboard_url, session.environ
    urls = deploy(file, *reached, session.say, on_wait, keeps_others)
    return Deployed(urls, answering, models, problems)


def _with_prompts(session: Session, file: ServeFile, configs: Mapping[str, Ours]) -> ServeFile:
    """Prompt files that models name, by what they say: a replica has the config, and no files of
    the project. configs: as own_configs has them of the file."""
    applications = []
    for application in file.applications:
        config = configs.get(application["name"])
        if isinstance(config, LanguageConfig):
            args = application["args"]
            said = {
                name: {**args["models"][name], "prompt": prompt_said(session, name, model.prompt)}
                for name, model in config.models.items()
                if isinstance(model.prompt, str)
            }
            application = {**application, "args": {**args, "models": {**args["models"], **said}}}
        applications.append(application)
    return file.model_copy(update={"applications": tuple(applications)})


def check_models(session: Session, config: LanguageConfig) -> None:
    """Raises UserError for weights that were never added, also those of an engine that has no
    application of its own, for a release that is not there or not the endpoint's, for a prompt that
    nobody would ever be told, and what require_fitting does; GateRefused for a release that a gate
    refused."""
    for endpoint, release_id in config.named_releases():
        _require(_workspace(session, config.workspace), endpoint, release_id)
    of_engine = {name: _weights(session, engine) for name, engine in config.engines.items()}
    for name, model in config.models.items():
        weights = of_engine[model.engine]
        if model.prompt is not None and weights.task == "embed":
            raise UserError(
                f"`models`: {name}: `prompt` has no effect: {weights.name} makes vectors of texts",
                "take it out, or name an engine that writes",
            )
    require_fitting(config, of_engine)


def prompt_said(session: Session, model: str, path: str) -> dict[str, Any]:
    """What stands for the file in the arguments. It is kept by its digest, which receipts and the
    prompt log name."""
    prompt = session.load(PromptConfig, path).prompt
    folder = session.workspace.artifact("prompts", prompt.content_digest())
    commit_bytes(f"{folder}/prompt.json", prompt.canonical())
    session.say(f"model {model}: prompt {prompt.name} ({short(prompt.content_digest())}) of {path}")
    return prompt.model_dump(mode="json")


def _in_its_environment(session: Session, file: ServeFile) -> ServeFile:
    """Applications with language models run where vLLM is, unless they say where. Raises UserError
    where it is nowhere."""
    applications = []
    for application in file.applications:
        if needs_vllm(application):
            given = application.get("runtime_env", {})
            application = application | {"runtime_env": runtime_env(session.environ) | given}
        applications.append(application)
    return file.model_copy(update={"applications": tuple(applications)})


def _weights(session: Session, config: EngineConfig) -> WeightsRef:
    """Raises UserError for weights that were never added."""
    return find_weights(Ledger.of(_workspace(session, config.workspace), "deploy"), config.weights)


def check_named(session: Session, config: ServingConfig) -> set[str]:
    """Endpoints of the config that have a champion to answer.

    Raises UserError for what could never answer: a workspace without a ledger, a release that is
    not there or not the endpoint's, a rule or an arm that gives units to an endpoint nothing was
    released for, a declared answer of another length; GateRefused for a release that a gate
    refused; and WorkspaceError where the store does not answer.
    """
    workspace = _workspace(session, config.workspace)
    released = champions(Ledger.of(workspace, "deploy"))
    if not config.endpoints:
        kinds = Kinds.of(workspace)
        return {n for n, p in released.items() if not kinds.is_language(p.target)}
    for name, endpoint in config.endpoints.items():
        _check_arms(name, endpoint, released)
    for name, endpoint in config.endpoints.items():
        for target in endpoint.targets():
            if target.release is not None:
                _require(workspace, name, target.release)
        if name in released:
            _check_answers(workspace, name, endpoint, released[name])
    return released.keys() & config.endpoints.keys()


def _check_arms(name: str, endpoint: EndpointConfig, released: Collection[str]) -> None:
    """Units would get 503 there, and no replica would ever be ready."""
    for arm in endpoint.arms():
        if arm.endpoint is not None and arm.endpoint not in released:
            raise UserError(
                f"`endpoints`: {name}: units are given to endpoint {arm.endpoint!r}, for which "
                f"nothing was released{near(arm.endpoint, released)}",
                "release something for it first, or name another; released is: rayapp releases",
            )


def _workspace(session: Session, uri: str | None) -> Workspace:
    if uri is None:
        return session.workspace
    is_local = "://" not in uri and "RAYAPP_LEDGER_URL" not in session.environ
    if is_local and not (Path(uri).expanduser() / "ledger.db").is_file():
        raise UserError(
            f"workspace {uri} has no ledger",
            "name the folder that releases were made in, or leave `workspace` out",
        )
    return Workspace.from_environment({**session.environ, "RAYAPP_WORKSPACE": uri})


def _require(workspace: Workspace, endpoint: str, release_id: str) -> None:
    try:
        signed = passed(workspace, release_id)
    except NotFoundError:
        raise UserError(
            f"there is no release {short(release_id)} in {workspace.uri}",
            f"ids are listed by: rayapp releases {endpoint}",
        ) from None
    own = signed.manifest.endpoint
    if own != endpoint:
        raise UserError(
            f"release {short(release_id)} was sealed for {own!r}, not for {endpoint!r}",
            f"name endpoint {own}, or another release; ids are listed by: rayapp releases",
        )


def _check_answers(
    workspace: Workspace, name: str, endpoint: EndpointConfig, champion: Pointer
) -> None:
    schema = read_manifest(workspace, champion.target).manifest.bundle.bundle_schema
    expected = schema.num_scores
    for fallback in endpoint.fallback:
        if fallback.scores is not None and len(fallback.scores) != expected:
            raise UserError(
                f"`endpoints`: {name}: the declared answer has {len(fallback.scores)} score(s), "
                f"the champion gives {expected}",
                f"classes in order: {', '.join(schema.classes) or 'none, it is a regression'}",
            )
