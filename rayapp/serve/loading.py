"""Opening a release: its model in this process, or in a pool of replicas."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from rayapp.errors import DataError, TamperedError
from rayapp.families.base import Floats
from rayapp.families.bundle import Bundle
from rayapp.families.encoding import encode
from rayapp.schemas.model import BundleRef, BundleSchema
from rayapp.schemas.record import short
from rayapp.schemas.release import Evaluation, Manifest, SignedManifest
from rayapp.serve.follow import Loaded, OpenRelease, Scorer, endpoint_of
from rayapp.serve.wire.rows import row_encoder
from rayapp.storage import read_bytes, sha256
from rayapp.transforms import arrow_type

log = logging.getLogger("rayapp.serve.loading")


def sealed_evaluation(manifest: Manifest) -> Evaluation:
    """The evaluation that the release was sealed with. Raises TamperedError for another one,
    WorkspaceError where it cannot be read."""
    raw = read_bytes(manifest.evaluation_uri)
    found = sha256(raw)
    try:
        evaluation = Evaluation.parse(raw) if found == manifest.evaluation_digest else None
    except ValidationError:  # sealed by another version, whose evaluations have other fields
        evaluation = None
    if evaluation is None:
        raise TamperedError(
            f"{manifest.evaluation_uri} has digest {short(found)}, sealed was "
            f"{short(manifest.evaluation_digest)} in this version's form",
            "restore it from a backup, or release again",
        )
    return evaluation


@dataclass(frozen=True)
class Store:
    """read: the verified manifest of a release id. fetch: copies its verified bundle into an empty
    folder. evaluation: what the release was judged by. All raise TamperedError or WorkspaceError.
    workspace: the URI of the one that they read."""

    read: Callable[[str], SignedManifest]
    fetch: Callable[[BundleRef, Path], None]
    evaluation: Callable[[Manifest], Evaluation] = sealed_evaluation
    workspace: str = ""


class Evaluated:
    """OpenRelease for releases that are chosen by their evaluations. One whose evaluation is not
    what was sealed is not chosen, and still answers where there is no choice."""

    def __init__(self, store: Store, inner: OpenRelease) -> None:
        self._store = store
        self._inner = inner

    def __call__(self, key: str, release_id: str, previous: Loaded | None) -> Loaded:
        loaded = self._inner(key, release_id, previous)
        found = usable_evaluation(self._store, loaded.endpoint, release_id, loaded.manifest)
        return loaded if found is None else replace(loaded, estimates=found.overall.estimates)


def usable_evaluation(
    store: Store, endpoint: str, release_id: str, manifest: Manifest
) -> Evaluation | None:
    """What a release was sealed with; None, which the log tells, where it is not that any more."""
    try:
        return store.evaluation(manifest)
    except TamperedError as error:
        extra = {"endpoint": endpoint, "release_id": release_id}
        log.error("evaluation_not_usable", extra=extra, exc_info=error)
        return None


class Inline:
    """OpenRelease for models that answer in this process."""

    def __init__(self, store: Store, make_scorer: Callable[[str, Bundle], Scorer]) -> None:
        self._store = store
        self._make_scorer = make_scorer

    def __call__(self, key: str, release_id: str, previous: Loaded | None) -> Loaded:
        endpoint = endpoint_of(key)
        manifest = sealed_for(self._store, endpoint, release_id)
        bundle = open_proven(self._store, manifest.bundle)
        scorer = self._make_scorer(endpoint, bundle)
        return Loaded(endpoint, release_id, manifest, bundle, scorer, row_encoder(bundle.schema))


@dataclass(frozen=True)
class RowsOnly:
    """What a gateway needs of a bundle whose model is elsewhere."""

    schema: BundleSchema

    def encode(self, table: pa.Table) -> Floats:
        return encode(self.schema.features, table)


def sealed_for(store: Store, endpoint: str, release_id: str) -> Manifest:
    """Raises TamperedError where the pointer leads to another endpoint's release."""
    manifest = store.read(release_id).manifest
    if manifest.endpoint != endpoint:
        raise TamperedError(
            f"it was sealed for endpoint {manifest.endpoint!r}, not {endpoint!r}",
            "move the pointer back to a release of this endpoint",
        )
    return manifest


def open_proven(store: Store, ref: BundleRef) -> Bundle:
    """The bundle, after one row with nothing in it went through its model: it answers, and its
    first call is over before a request comes. Raises DataError for scores of a wrong shape."""
    with tempfile.TemporaryDirectory(prefix="rayapp-release-") as folder:
        store.fetch(ref, Path(folder))
        bundle = Bundle.open(Path(folder))
    columns = {c.name: pa.nulls(1, arrow_type(c.type)) for c in bundle.schema.inputs}
    scores_NK = bundle.predict(pa.table(columns))
    expected = (1, bundle.schema.num_scores)
    if scores_NK.shape != expected:
        raise DataError(
            f"the bundle gave scores of shape {scores_NK.shape} for one row, not {expected}",
            "train again; such a model must not serve",
        )
    return bundle
