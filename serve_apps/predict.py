"""The prediction gateway as a Ray Serve application: `serve deploy configs/serving/gateway.yaml`.

Here the rooms meet online: the ledger says who is champion, register verifies the release, serve
answers, observe keeps the log. No postponed annotations in this module: Serve checks a builder's
arguments only when they are classes.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from ray.serve import Application

from rayapp.config.routing import FlagConfig
from rayapp.config.serving import ServingConfig
from rayapp.data.feed_store import newest, read_values
from rayapp.flows.passed import passed
from rayapp.flows.spending import give_back, settle_abandoned
from rayapp.govern.accounts import Accounts
from rayapp.govern.flags import current_flags
from rayapp.govern.keys import list_keys
from rayapp.ledger import Ledger
from rayapp.observe.node_log import NodeLog
from rayapp.release.promote import champions
from rayapp.schemas.operations import Pointer
from rayapp.schemas.traffic import ApiKey
from rayapp.serve.feeds import Feeds
from rayapp.serve.follow import release_key
from rayapp.serve.loading import Store
from rayapp.serve.replica import Parts, gateway
from rayapp.storage import Workspace, fetch_bundle

Found = TypeVar("Found")


def build(config: ServingConfig) -> Application:
    return gateway(config, connect, connect_store)


def named_releases(config: ServingConfig) -> dict[str, Pointer]:
    """Releases that a config names by their id: they never move."""
    fixed: dict[str, Pointer] = {}
    for name, endpoint in config.endpoints.items():
        for target in endpoint.targets():
            if target.release is not None:
                key = release_key(name, target.release)
                fixed[key] = Pointer(name=key, target=target.release, revision=0)
    return fixed


def connect(config: ServingConfig) -> Parts:
    workspace = _workspace(config)
    ledger = Ledger.of(workspace, "gateway")

    fixed, named = named_releases(config), config.named()

    def read_pointers() -> dict[str, Pointer]:
        found = champions(ledger)
        wanted = named or found.keys()
        return {name: p for name, p in found.items() if name in wanted} | fixed

    def read_keys() -> dict[str, ApiKey]:
        return {key.key_id: key for key in list_keys(ledger)}

    parts = Parts(
        while_unchanged(ledger, read_pointers),
        while_unchanged(ledger, read_keys),
        _store(workspace),
        NodeLog(workspace, commits_aside=True),
        feeds=_feeds(config, workspace),
        read_flags=_flags(config, ledger),
    )
    if config.budgets is None:
        return parts
    accounts = Accounts.of(workspace)
    return replace(
        parts,
        log=NodeLog(workspace, commits_aside=True, on_repeated=partial(give_back, accounts)),
        bank=accounts,
        settle=partial(settle_now, accounts, workspace),
    )


def _feeds(config: ServingConfig, workspace: Workspace) -> Feeds | None:
    names = sorted({name for endpoint in config.endpoints.values() for name in endpoint.feeds})
    return Feeds(names, partial(newest, workspace), read_values) if names else None


def _flags(config: ServingConfig, ledger: Ledger) -> Callable[[], Mapping[str, FlagConfig]] | None:
    rules = [rule for endpoint in config.endpoints.values() for rule in endpoint.rules]
    if not any(rule.when.asked is not None for rule in rules):
        return None
    return while_unchanged(ledger, partial(current_flags, ledger))


def settle_now(accounts: Accounts, workspace: Workspace) -> int:
    return settle_abandoned(accounts, workspace, datetime.now(UTC))


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


def connect_store(config: ServingConfig) -> Store:
    return _store(_workspace(config))


def _store(workspace: Workspace) -> Store:
    return Store(partial(passed, workspace), fetch_bundle)


def _workspace(config: ServingConfig) -> Workspace:
    environ = dict(os.environ)
    if config.workspace is not None:
        environ["RAYAPP_WORKSPACE"] = config.workspace
    return Workspace.from_environment(environ)
