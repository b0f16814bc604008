"""Every file that a config leads to, read before anything runs: a mistake in one of them costs a
second, not a job."""

from typing import TypeVar

from rayapp.config.load import Config, load, read_yaml
from rayapp.config.operations import GoldenPathConfig, MonitorConfig, ScoreConfig
from rayapp.config.release import PolicyConfig, ReleaseConfig
from rayapp.config.snapshot import SnapshotConfig
from rayapp.config.sweep import SweepConfig
from rayapp.config.training import TrainConfig
from rayapp.data.contract import load_contract
from rayapp.evaluate.gates import check_policy

ConfigT = TypeVar("ConfigT", bound=Config)


def check_references(config: Config, environment: str | None) -> None:
    """Raises what loading the first bad one raises: ConfigError or ContractError; also for a gate
    that could never be judged on this task. environment: the overlay of them all."""
    _Reader(environment).check(config)


class _Reader:
    def __init__(self, environment: str | None) -> None:
        self._environment = environment
        self._read: dict[str, Config] = {}

    def check(self, config: Config) -> None:
        match config:
            case SnapshotConfig():
                for table in config.tables.values():
                    load_contract(table.contract)
            case TrainConfig():
                self._of(SnapshotConfig, config.snapshot)
            case SweepConfig():
                self._of(TrainConfig, config.training)
            case ReleaseConfig():
                self._check_release(config)
            case GoldenPathConfig():
                self._check_golden_path(config)
            case ScoreConfig():
                self._of(SnapshotConfig, config.snapshot)
            case MonitorConfig(outcomes_snapshot=str(path)):
                self._of(SnapshotConfig, path)

    def _of(self, cls: type[ConfigT], path: str) -> ConfigT:
        """Another config with everything that it leads to, read once however often it is named."""
        found = self._read.get(path)
        if not isinstance(found, cls):
            found = load(cls, path, environment=self._environment)
            self._read[path] = found
            self.check(found)
        return found

    def _check_release(self, config: ReleaseConfig) -> None:
        training = self._of(TrainConfig, config.training)
        policy = self._of(PolicyConfig, config.policy)
        task = self._of(SnapshotConfig, training.snapshot).task
        check_policy(policy, task, config.evaluation.slices)

    def _check_golden_path(self, config: GoldenPathConfig) -> None:
        self._of(SnapshotConfig, config.snapshot)
        if config.sweep is not None:
            self._of(SweepConfig, config.sweep)
        for path in config.releases:
            self._of(ReleaseConfig, path)
        if config.serving is not None:
            read_yaml(config.serving)
