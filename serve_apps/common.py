"""What gateways of every kind are connected to: the workspace, its ledger's keys, its accounts."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from rayapp.config.routing import AnyRule, FlagConfig
from rayapp.config.serving import GatewayConfig
from rayapp.flows.passed import Kinds, passed
from rayapp.flows.spending import give_back, settle_abandoned
from rayapp.govern.accounts import Accounts
from rayapp.govern.flags import current_flags
from rayapp.govern.keys import list_keys
from rayapp.ledger import Ledger
from rayapp.observe.node_log import NodeLog
from rayapp.release.promote import champions
from rayapp.schemas.operations import Pointer
from rayapp.schemas.traffic import ApiKey
from rayapp.serve.follow import release_key
from rayapp.serve.loading import Store
from rayapp.storage import Workspace, fetch_bundle

Found = TypeVar("Found")


@dataclass(frozen=True)
class Connected:
    """accounts: None where the config has no budgets."""

    workspace: Workspace
    ledger: Ledger
    read_keys: Callable[[], Mapping[str, ApiKey]]
    log: NodeLog
    accounts: Accounts | None

    def settle(self) -> int:
        """End what dead gateways have borrowed."""
        if self.accounts is None:
            return 0
        return settle_abandoned(self.accounts, self.log, self.workspace, datetime.now(UTC))


def connected(config: GatewayConfig, actor: str) -> Connected:
    workspace = workspace_of(config.workspace)
    ledger = Ledger.of(workspace, actor)

    def read_keys() -> dict[str, ApiKey]:
        return {key.key_id: key for key in list_keys(ledger)}

    accounts = Accounts.of(workspace) if config.needs_accounts else None
    if accounts is None:
        log = NodeLog(workspace, commits_aside=True)
    else:
        log = NodeLog(workspace, commits_aside=True, on_repeated=partial(give_back, accounts))
    return Connected(workspace, ledger, while_unchanged(ledger, read_keys), log, accounts)


def while_unchanged(ledger: Ledger, read: Callable[[], Found]) -> Callable[[], Found]:
    """What was read last, while nothing was appended since: replicas look four times a second, and
    there may be thousands of pointers."""
    last: tuple[int, Found] | None = None

    def read_if_changed() -> Found:
        nonlocal last
        sequence = ledger.sequence()
        if last is None or last[0] != sequence:
            last = sequence, read()
        return last[1]

    return read_if_changed


def champions_for(found: Connected, is_language: bool) -> Callable[[], Mapping[str, Pointer]]:
    """The pointers to champions that are language models, or those to all others. One whose
    manifest cannot be read is with the others, where that is told."""
    kinds = Kinds.of(found.workspace)
    read_champions = while_unchanged(found.ledger, partial(champions, found.ledger))

    def read() -> dict[str, Pointer]:
        each = read_champions().items()
        return {n: p for n, p in each if kinds.is_language(p.target) == is_language}

    return read


def fixed(releases: Iterable[tuple[str, str]]) -> dict[str, Pointer]:
    """Pointers to releases that a config names by endpoint and id: they never move."""
    keys = {release_key(endpoint, release_id): release_id for endpoint, release_id in releases}
    return {key: Pointer(name=key, target=release, revision=0) for key, release in keys.items()}


def flags_for(
    rules: Iterable[AnyRule], ledger: Ledger
) -> Callable[[], Mapping[str, FlagConfig]] | None:
    """What reads the feature flags; None where no rule asks one."""
    if all(rule.when.asked is None for rule in rules):
        return None
    return while_unchanged(ledger, partial(current_flags, ledger))


def store_of(workspace: Workspace) -> Store:
    return Store(partial(passed, workspace), fetch_bundle, workspace=workspace.uri)


def workspace_of(uri: str | None) -> Workspace:
    """None: RAYAPP_WORKSPACE's."""
    environ = dict(os.environ)
    if uri is not None:
        environ["RAYAPP_WORKSPACE"] = uri
    return Workspace.from_environment(environ)
