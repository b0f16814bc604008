"""The prediction gateway as a Ray Serve application: `serve deploy configs/serving/gateway.yaml`.

Here the rooms meet online: the ledger says who is champion, register verifies the release, serve
answers, observe keeps the log. No postponed annotations in this module: Serve checks a builder's
arguments only when they are classes.
"""

from functools import partial

from ray.serve import Application

from rayapp.config.serving import ServingConfig
from rayapp.data.feed_store import newest, read_values
from rayapp.schemas.operations import Pointer
from rayapp.serve.feeds import Feeds
from rayapp.serve.loading import Store
from rayapp.serve.replica import Parts, gateway
from rayapp.storage import Workspace
from serve_apps.common import champions_for, connected, fixed, flags_for, store_of, workspace_of


def build(config: ServingConfig) -> Application:
    return gateway(config, connect, connect_store)


def named_releases(config: ServingConfig) -> dict[str, Pointer]:
    return fixed(
        (name, target.release)
        for name, endpoint in config.endpoints.items()
        for target in endpoint.targets()
        if target.release is not None
    )


def connect(config: ServingConfig) -> Parts:
    found = connected(config, "gateway")
    workspace = found.workspace
    by_id, named = named_releases(config), config.named()
    read_champions = champions_for(found, is_language=False)
    rules = [rule for endpoint in config.endpoints.values() for rule in endpoint.rules]

    def read_pointers() -> dict[str, Pointer]:
        current = read_champions()
        wanted = named or current.keys()
        return {name: p for name, p in current.items() if name in wanted} | by_id

    return Parts(
        read_pointers,
        found.read_keys,
        store_of(workspace),
        found.log,
        bank=found.accounts,
        settle=found.settle,
        feeds=_feeds(config, workspace),
        read_flags=flags_for(rules, found.ledger),
    )


def _feeds(config: ServingConfig, workspace: Workspace) -> Feeds | None:
    names = sorted({name for endpoint in config.endpoints.values() for name in endpoint.feeds})
    return Feeds(names, partial(newest, workspace), read_values) if names else None


def connect_store(config: ServingConfig) -> Store:
    return store_of(workspace_of(config.workspace))
