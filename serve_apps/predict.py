"""The prediction gateway as a Ray Serve application: `serve deploy configs/serving/gateway.yaml`.

Here the rooms meet online: the ledger says who is champion, register verifies the release, serve
answers, observe keeps the log. No postponed annotations in this module: Serve checks a builder's
arguments only when they are classes.
"""

import os
from pathlib import Path

from ray.serve import Application

from rayapp.config.serving import ServingConfig
from rayapp.govern.keys import list_keys
from rayapp.ledger import Ledger
from rayapp.observe.predictions import NodeLog
from rayapp.register.manifest import read_manifest
from rayapp.release.promote import champion_pointer
from rayapp.schemas.operations import Pointer
from rayapp.schemas.release import SignedManifest
from rayapp.schemas.traffic import ApiKey
from rayapp.serve.follow import release_key
from rayapp.serve.replica import Parts, gateway
from rayapp.storage import Workspace, fetch_bundle


def build(config: ServingConfig) -> Application:
    return gateway(config, connect)


def named_releases(config: ServingConfig) -> tuple[dict[str, Pointer], set[str]]:
    """What a config asks for beside its endpoints' champions: releases by their id, which never
    move, and other endpoints."""
    fixed: dict[str, Pointer] = {}
    others: set[str] = set()
    for name, endpoint in config.endpoints.items():
        for target in endpoint.targets():
            if target.endpoint is not None:
                others.add(target.endpoint)
            if target.release is not None:
                key = release_key(name, target.release)
                fixed[key] = Pointer(name=key, target=target.release, revision=0)
    return fixed, others


def connect(config: ServingConfig) -> Parts:
    environ = dict(os.environ)
    if config.workspace is not None:
        environ["RAYAPP_WORKSPACE"] = config.workspace
    workspace = Workspace.from_environment(environ)
    ledger = Ledger.of(workspace, "gateway")
    prefix = champion_pointer("")

    fixed, others = named_releases(config)

    def read_pointers() -> dict[str, Pointer]:
        found = {p.name.removeprefix(prefix): p for p in ledger.pointers(prefix)}
        wanted = {*config.endpoints, *others} if config.endpoints else found.keys()
        return {name: p for name, p in found.items() if name in wanted} | fixed

    def fetch_release(release_id: str, folder: Path) -> SignedManifest:
        signed = read_manifest(workspace, release_id)
        fetch_bundle(signed.manifest.bundle, folder)
        return signed

    def read_keys() -> dict[str, ApiKey]:
        return {key.key_id: key for key in list_keys(ledger)}

    return Parts(read_pointers, read_keys, fetch_release, NodeLog(workspace, commits_aside=True))
