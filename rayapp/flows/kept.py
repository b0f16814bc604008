"""Evaluations as the ledger knows them: read again, and held to what they asked."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rayapp.config.golden import GoldenConfig
from rayapp.errors import ConfigError, NotFoundError, TamperedError
from rayapp.ledger import Ledger
from rayapp.schemas.operations import EventKind
from rayapp.schemas.record import short
from rayapp.schemas.release import Evaluation, Measured
from rayapp.storage import read_bytes, sha256


def kept_evaluation(payload: Mapping[str, Any]) -> Evaluation:
    """Results and what they took, of an event. Raises TamperedError where one of the two files is
    another than it was: gates are judged by them again."""
    results, measured = (_kept(payload, name) for name in ("evaluation", "measured"))
    return Evaluation.parse(results).with_measured(Measured.parse(measured))


def evaluated_before(ledger: Ledger, asked: str) -> Evaluation | None:
    """What an evaluation of the very same found, that other gates have judged; None where there is
    none, or its file is gone. Raises what kept_evaluation does."""
    for event in reversed(ledger.events(EventKind.EVALUATION_MADE)):
        if event.payload.get("asked") == asked:
            with suppress(NotFoundError):
                return kept_evaluation(event.payload)
    return None


def _kept(payload: Mapping[str, Any], name: str) -> bytes:
    uri, digest = payload[f"{name}_uri"], payload[f"{name}_digest"]
    raw = read_bytes(uri)
    if sha256(raw) != digest:
        raise TamperedError(
            f"{uri} has digest {short(sha256(raw))}, the ledger says {short(digest)}",
            "restore it from a backup",
        )
    return raw


def require_version(ledger: Ledger, golden: GoldenConfig) -> None:
    """Raises ConfigError where an evaluation has asked other items under this name and version: two
    numbers of one version would look comparable. One whose file is gone says nothing."""
    for event in ledger.events(EventKind.EVALUATION_MADE):
        asked = None
        with suppress(NotFoundError):
            asked = Evaluation.parse(_kept(event.payload, "evaluation")).golden
        if asked is None or (asked.name, asked.version) != (golden.name, golden.version):
            continue
        if asked.sha256 != golden.sha256:
            raise ConfigError(
                f"golden set {golden.name} {golden.version} has sha256 {short(golden.sha256)}, the "
                f"evaluation of {event.subject} asked one with {short(asked.sha256)}",
                "give the changed set a new version, or restore the old one",
            )
