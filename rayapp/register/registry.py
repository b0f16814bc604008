"""MLflow's model registry as a mirror of our releases, for people and tools that look there.

The truth about who is champion is the ledger's pointer: MLflow's alias has no compare-and-set.
"""

from dataclasses import dataclass, field
from typing import Protocol

# first, because it switches MLflow's telemetry off before mlflow is imported
from rayapp.register.store import open_client  # isort: split

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from rayapp.errors import UserError

RELEASE_TAG = "release_id"
CHAMPION = "champion"
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow answers to an unknown model, version or alias."""


class Registry(Protocol):
    def register(
        self,
        endpoint: str,
        run_id: str,
        source_uri: str,
        release_id: str,
        tags: dict[str, str],
    ) -> str:
        """The version of this release; the same release again gives the same version."""
        ...

    def versions(self, endpoint: str) -> dict[str, str]:
        """Version → release id, oldest first; empty for an endpoint that nobody registered."""
        ...

    def set_champion(self, endpoint: str, version: str) -> None:
        """Raises UserError for a version that is not registered."""
        ...

    def champion(self, endpoint: str) -> str | None:
        """The champion's version."""
        ...


class MlflowRegistry:
    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def register(
        self,
        endpoint: str,
        run_id: str,
        source_uri: str,
        release_id: str,
        tags: dict[str, str],
    ) -> str:
        try:
            self._client.create_registered_model(endpoint)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for version, known in self.versions(endpoint).items():
            if known == release_id:
                return version
        made = self._client.create_model_version(
            endpoint,
            source=source_uri,
            run_id=run_id,
            tags={**tags, RELEASE_TAG: release_id},
        )
        return str(made.version)

    def versions(self, endpoint: str) -> dict[str, str]:
        found: dict[int, str] = {}
        token = None
        while True:
            page = self._client.search_model_versions(f"name='{endpoint}'", page_token=token)
            found |= {int(v.version): v.tags.get(RELEASE_TAG, "") for v in page}
            token = page.token
            if not token:
                return {str(version): found[version] for version in sorted(found)}

    def set_champion(self, endpoint: str, version: str) -> None:
        try:
            self._client.set_registered_model_alias(endpoint, CHAMPION, version)
        except MlflowException as error:
            if error.error_code not in _NOT_THERE:
                raise
            raise _unknown_version(endpoint, version) from error

    def champion(self, endpoint: str) -> str | None:
        try:
            return str(self._client.get_model_version_by_alias(endpoint, CHAMPION).version)
        except MlflowException as error:
            if error.error_code not in _NOT_THERE:
                raise
            return None


@dataclass
class MemoryRegistry:
    """The same promises, kept in memory."""

    _versions: dict[str, list[str]] = field(default_factory=dict)
    _champions: dict[str, str] = field(default_factory=dict)

    def register(
        self,
        endpoint: str,
        run_id: str,
        source_uri: str,
        release_id: str,
        tags: dict[str, str],
    ) -> str:
        known = self._versions.setdefault(endpoint, [])
        if release_id not in known:
            known.append(release_id)
        return str(known.index(release_id) + 1)

    def versions(self, endpoint: str) -> dict[str, str]:
        releases = self._versions.get(endpoint, [])
        return {str(number): release for number, release in enumerate(releases, start=1)}

    def set_champion(self, endpoint: str, version: str) -> None:
        if version not in self.versions(endpoint):
            raise _unknown_version(endpoint, version)
        self._champions[endpoint] = version

    def champion(self, endpoint: str) -> str | None:
        return self._champions.get(endpoint)


def open_registry(mlflow_url: str) -> Registry:
    return MlflowRegistry(open_client(mlflow_url))


def _unknown_version(endpoint: str, version: str) -> UserError:
    return UserError(
        f"model {endpoint!r} has no version {version!r} in the registry",
        "register the release",
    )
