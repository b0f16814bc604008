"""Every file that a config leads to, read and held against the others before anything runs: a
mistake in one of them costs a second, not a job."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from rayapp.config.golden import GoldenConfig
from rayapp.config.judging import JudgeConfig
from rayapp.config.language import LanguageConfig
from rayapp.config.load import Config, load, place_of
from rayapp.config.models import PROMPT_HINT, why_no_effect
from rayapp.config.operations import (
    FeatureFeedConfig,
    GoldenPathConfig,
    MonitorConfig,
    ScoreConfig,
)
from rayapp.config.problems import Location
from rayapp.config.prompts import PromptConfig
from rayapp.config.release import PolicyConfig, ReleaseConfig
from rayapp.config.serving import ServeFile
from rayapp.config.snapshot import SnapshotConfig
from rayapp.config.sweep import SweepConfig
from rayapp.config.training import TrainConfig, require_adapter, require_prompt, require_task
from rayapp.data.contract import load_contract
from rayapp.data.leakage import refuse_outcome_features, resolve_features
from rayapp.data.plan import plan_view
from rayapp.errors import ConfigError, LeakageRefused
from rayapp.evaluate.declared import declared_metrics
from rayapp.evaluate.gates import check_policy
from rayapp.evaluate.judging import check_judge
from rayapp.evaluate.slices import check_slices
from rayapp.schemas.data import Column
from rayapp.storage import Workspace
from rayapp.tune.space import check_space

if TYPE_CHECKING:
    from rayapp.ledger import Ledger

ConfigT = TypeVar("ConfigT", bound=Config)


def check_references(
    config: Config, path: str, environment: str | None, workspace: Workspace | None = None
) -> None:
    """Raises what the first mistake raises: ConfigError, ContractError, or LeakageRefused for a
    feature that would not exist at prediction time. path: where `config` was read from.
    environment: the overlay of them all. workspace: the job's, None where it is not known; weights
    that it must have are looked up there."""
    _Reader(environment, workspace).check(config, path)


def one_endpoint(releases: Sequence[ReleaseConfig]) -> str:
    """The endpoint that the candidates of a golden path compete for. Raises ConfigError."""
    endpoints = sorted({release.endpoint for release in releases})
    if len(endpoints) != 1:
        raise ConfigError(
            f"releases name {len(endpoints)} endpoints: {endpoints}",
            "candidates of one golden path compete for one endpoint",
        )
    return endpoints[0]


@contextmanager
def _named(path: str, at: Location = (), value: Any = None) -> Iterator[None]:
    """A mistake found inside is told with its file and, for a value that stands there, its line."""
    try:
        yield
    except (ConfigError, LeakageRefused) as error:
        place = place_of(path, at, value) if at else path
        raise type(error)(f"{place}: {error.what}", error.next_step) from None


class _Reader:
    def __init__(self, environment: str | None, workspace: Workspace | None) -> None:
        self._environment = environment
        self._workspace = workspace
        self._read: dict[str, Config] = {}
        self._views: dict[str, tuple[Column, ...]] = {}

    @cached_property
    def _ledger(self) -> "Ledger | None":
        if self._workspace is None:
            return None
        from rayapp.ledger import Ledger  # imports SQLAlchemy, which most configs need not wait for

        return Ledger.of(self._workspace, "references")

    def check(self, config: Config, path: str) -> None:
        match config:
            case SnapshotConfig():
                self._check_snapshot(config, path)
            case TrainConfig():
                self._check_training(config, path)
            case SweepConfig():
                training = self._of(TrainConfig, config.training)
                with _named(path):
                    check_space(config, training)
            case ReleaseConfig():
                self._check_release(config, path)
            case GoldenPathConfig():
                self._check_golden_path(config, path)
            case FeatureFeedConfig():
                snapshot = self._of(SnapshotConfig, config.snapshot)
                from rayapp.data.publish import check_feed  # imports Ray, which others wait for

                with _named(path):
                    check_feed(config, snapshot)
            case ServeFile():
                # Ray Serve's schema takes a second to import, which no other config should wait for
                from rayapp.serve.cluster.config_file import check_serve_file

                check_serve_file(config, path)
                self._check_prompts(config, path)
            case ScoreConfig():
                self._of(SnapshotConfig, config.snapshot)
            case MonitorConfig(outcomes_snapshot=str(outcomes)):
                self._of(SnapshotConfig, outcomes)

    def _of(self, cls: type[ConfigT], path: str) -> ConfigT:
        """Another config with everything that it leads to, read once however often it is named."""
        found = self._read.get(path)
        if not isinstance(found, cls):
            found = load(cls, path, environment=self._environment)
            self._read[path] = found
            self.check(found, path)
        return found

    def _check_snapshot(self, config: SnapshotConfig, path: str) -> None:
        contracts = {name: load_contract(table.contract) for name, table in config.tables.items()}
        with _named(path):
            columns = plan_view(config, {name: c.columns for name, c in contracts.items()})
        self._views[path] = columns

    def _check_training(self, config: TrainConfig, path: str) -> None:
        snapshot = self._of(SnapshotConfig, config.snapshot)
        label = snapshot.view.label.name
        with _named(path):
            require_task(config, snapshot.task)
        for at, item in enumerate(config.features):
            with _named(path, ("features", at), item):
                columns = self._views[config.snapshot]
                refuse_outcome_features(resolve_features([item]), columns, label)
        with _named(path):
            features = resolve_features(config.features)
        if config.llm is None:
            return
        prompt = self._of(PromptConfig, config.llm.prompt).prompt
        with _named(path):
            require_prompt(config, prompt, [feature.name for feature in features])
        if self._ledger is not None:
            # imports SQLAlchemy, as above
            from rayapp.flows.weights import find_weights, require_sequence

            with _named(path, ("llm", "base_model"), config.llm.base_model):
                weights = find_weights(self._ledger, config.llm.base_model)
            with _named(path, ("llm", "sequence_tokens"), config.llm.sequence_tokens):
                require_sequence(config.llm, weights)

    def _check_release(self, config: ReleaseConfig, path: str) -> None:
        training = self._of(TrainConfig, config.training)
        policy = self._of(PolicyConfig, config.policy)
        task = self._of(SnapshotConfig, training.snapshot).task
        with _named(path):
            declared = declared_metrics(config.evaluation, task)
        if config.evaluation.judge is not None:
            self._check_judge(config.evaluation.judge, training, path)
        view = self._views[training.snapshot]
        if config.evaluation.golden is not None:
            view = self._golden_columns(config.evaluation.golden, view)
        for at, item in enumerate(config.evaluation.slices):
            with _named(path, ("evaluation", "slices", at), item):
                check_slices([item], view)
        with _named(path):
            check_slices(config.evaluation.slices, view)
            if config.evaluation.cluster_by is not None:
                check_slices([config.evaluation.cluster_by], view)
        with _named(config.policy):
            check_policy(policy, task, config.evaluation.slices, declared)

    def _check_prompts(self, config: ServeFile, path: str) -> None:
        from rayapp.serve.cluster.config_file import own_configs  # imports Ray Serve, as above

        for own in own_configs(config).values():
            if not isinstance(own, LanguageConfig):
                continue
            for name, model in own.models.items():
                if isinstance(model.prompt, str):
                    idle = why_no_effect(self._of(PromptConfig, model.prompt).prompt)
                    if idle is not None:
                        where = f"{path}: models.{name}.prompt: {model.prompt}"
                        raise ConfigError(f"{where}: {idle}", PROMPT_HINT)

    def _check_judge(self, config: JudgeConfig, training: TrainConfig, path: str) -> None:
        from rayapp.data.anchors import anchor_objects  # imports Ray, as above

        prompt = self._of(PromptConfig, config.prompt).prompt
        with _named(path):
            check_judge(config, prompt, [f.name for f in resolve_features(training.features)])
            anchor_objects(config.anchors)
        if config.weights is not None and self._ledger is not None:
            from rayapp.flows.weights import find_weights  # imports SQLAlchemy, as above

            with _named(path, ("evaluation", "judge", "weights"), config.weights):
                find_weights(self._ledger, config.weights)

    def _golden_columns(self, path: str, view: Sequence[Column]) -> tuple[Column, ...]:
        """Raises DataError where a golden set's file is none."""
        from rayapp.data.golden import golden_columns, golden_rows  # imports Ray, as above

        golden = self._of(GoldenConfig, path)
        with _named(path):
            return golden_columns(golden_rows(golden), view)

    def _check_golden_path(self, config: GoldenPathConfig, path: str) -> None:
        self._of(SnapshotConfig, config.snapshot)
        releases = [self._of(ReleaseConfig, release) for release in config.releases]
        one_endpoint(releases)
        for release in releases:
            training = self._of(TrainConfig, release.training)
            with _named(release.training):
                require_adapter(training)
            if training.snapshot != config.snapshot:
                raise ConfigError(
                    f"{release.training}: snapshot is {training.snapshot}, the golden path {path} "
                    f"builds {config.snapshot}",
                    "name the same snapshot config in both",
                )
        trainings = [release.training for release in releases]
        if config.sweep is not None:
            searched = self._of(SweepConfig, config.sweep).training
            if searched not in trainings:
                raise ConfigError(
                    f"{config.sweep}: training is {searched}, which no release of {path} trains",
                    f"it must be one of {trainings}",
                )
        if config.serving is not None:
            self._of(ServeFile, config.serving)
