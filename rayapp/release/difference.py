"""What one release has that another one has not, part by part, as people read it."""

from collections.abc import Iterator, Mapping
from typing import Any

from rayapp.config.release import PolicyConfig
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.record import Record, canonical_json, short
from rayapp.schemas.release import Manifest
from rayapp.storage import sha256


class Change(Record):
    """part: of a release, as data or prompt. name: of what differs there. before, after: what it
    was and is; None where there is no such thing."""

    part: str
    name: str
    before: str | None
    after: str | None


def changes(before: Manifest | None, after: Manifest) -> tuple[Change, ...]:
    """before: None where there is nothing to compare with, so everything is new."""
    old = {} if before is None else dict(_facts(before))
    new = dict(_facts(after))
    return tuple(
        Change(part=part, name=name, before=old.get((part, name)), after=new.get((part, name)))
        for part, name in {**old, **new}
        if old.get((part, name)) != new.get((part, name))
    )


def other_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Settings that both have and that differ, each with both values. What only one of them has
    is another version's, and was as its default is."""
    old = dict(_flat(before))
    return [
        f"{path} {old[path]} (there {value})"
        for path, value in _flat(after)
        if path in old and old[path] != value
    ]


def policy_digest(policy: PolicyConfig) -> str:
    """By which a manifest names the policy that its verdicts are of."""
    return sha256(canonical_json(policy.model_dump(mode="json")))


def other_policy(champion: Manifest, policy: PolicyConfig, path: str) -> str | None:
    """What to tell who asks to release, by the policy at `path`, what is the champion already; None
    where that one accepted it. It stays: to be judged again is no reason to stop answering."""
    asked = policy_digest(policy)
    if asked == champion.policy_digest:
        return None
    return (
        f"run {champion.run_id} is the champion of {champion.endpoint!r} by policy "
        f"{short(champion.policy_digest)}; {path} reads otherwise now, {short(asked)}, and was not "
        "applied; "
        f"next: judge it: rayapp submit configs/releases/NAME.yaml policy={path} --job evaluate"
    )


def _facts(manifest: Manifest) -> Iterator[tuple[tuple[str, str], str]]:
    """What a release consists of, by part and name."""
    schema = manifest.bundle.bundle_schema
    yield ("run", "id"), manifest.run_id
    for name, digest in sorted(manifest.data_digests.items()):
        yield ("data", name), digest
    for contract in manifest.contracts:
        yield ("contract", contract.id), f"{contract.version} {contract.digest}"
    for path, value in _flat(manifest.config):
        yield ("config", path), value
    yield from _of_model(schema)
    yield ("code", "digest"), manifest.code_digest
    yield ("environment", "digest"), manifest.environment_digest
    yield ("policy", "digest"), manifest.policy_digest


def _of_model(schema: BundleSchema) -> Iterator[tuple[tuple[str, str], str]]:
    yield ("model", "family"), schema.family
    yield ("model", "label"), schema.label
    if schema.classes:
        yield ("model", "classes"), ", ".join(schema.classes)
    for column in schema.inputs:
        yield ("input", column.name), _text(column.model_dump(mode="json", exclude_defaults=True))
    for feature in schema.features:
        yield ("feature", feature.name), f"{feature.kind} {feature.expression}"
    language = schema.language
    if language is None:
        return
    yield ("weights", language.base_name), language.base_digest
    yield ("weights", "method"), language.method
    chat = language.chat
    yield ("prompt", "name"), chat.name
    if chat.system is not None:
        yield ("prompt", "system"), chat.system
    yield ("prompt", "user"), chat.user


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their paths."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value).decode()
