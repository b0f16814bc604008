"""The bundle: a folder that answers raw rows by itself, the same offline, in batch and online.

schema.json    BundleSchema: what it takes and gives, and how each feature is encoded
profile.json   Profile: what the training rows looked like
model/         the family's own files; nothing in them is executed
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from rayapp.errors import DataError
from rayapp.families.base import Floats, Model, family
from rayapp.families.encoding import encode, inputs_of
from rayapp.schemas.data import Column, Profile
from rayapp.schemas.language import Adapter
from rayapp.schemas.model import BundleRef, BundleSchema, EncodedFeature, Feature
from rayapp.schemas.record import mismatch
from rayapp.storage import sha256

SCHEMA_FILE = "schema.json"
PROFILE_FILE = "profile.json"
MODEL_FOLDER = "model"


def bundle_inputs(
    features: Sequence[Feature | EncodedFeature], columns: Sequence[Column]
) -> tuple[Column, ...]:
    """The columns that a caller must send, in the order of `columns`."""
    read = inputs_of(features, columns)
    return tuple(c for c in columns if c.name in read)


def write_bundle(
    folder: Path,
    schema: BundleSchema,
    profile: Profile,
    write_model: Callable[[Path], None],
) -> None:
    model = folder / MODEL_FOLDER
    model.mkdir(parents=True, exist_ok=True)
    write_model(model)
    (folder / SCHEMA_FILE).write_bytes(schema.canonical())
    (folder / PROFILE_FILE).write_bytes(profile.canonical())


def described(folder: Path) -> tuple[BundleSchema, Profile]:
    """What a bundle says of itself, without its model. Raises DataError where it is no bundle."""
    try:
        schema = BundleSchema.parse((folder / SCHEMA_FILE).read_bytes())
        return schema, Profile.parse((folder / PROFILE_FILE).read_bytes())
    except (OSError, ValueError) as error:
        told = mismatch(error) if isinstance(error, ValidationError) else type(error).__name__
        raise DataError(
            f"{folder} is not a bundle: {told}", "fetch the bundle again from its URI"
        ) from None


def adapter_of(release_id: str, bundle: BundleRef) -> Adapter:
    """A language model's files as an engine gets them, without what describes the bundle."""
    inside = f"{MODEL_FOLDER}/"
    own = [f for f in bundle.files if f.path.startswith(inside)]
    files = [(f.path.removeprefix(inside), f.sha256) for f in own]
    return Adapter(release_id, f"{bundle.uri}/{MODEL_FOLDER}", tuple(files))


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Safe to share between threads: predict changes nothing."""

    schema: BundleSchema
    profile: Profile
    _model: Model

    @classmethod
    def open(cls, folder: Path, num_threads: int = 1) -> "Bundle":
        """The folder may go afterwards. Raises DataError where it is no bundle; its digest is the
        caller's to check."""
        schema, profile = described(folder)
        model = family(schema.family).load(folder / MODEL_FOLDER, num_threads)
        return cls(schema, profile, model)

    def predict(self, table: pa.Table) -> Floats:
        """Scores [N, K] of raw rows: K classes' probabilities in the order of schema.classes (two
        for binary), or [N, 1] the value. Columns beyond schema.inputs are ignored.

        Raises DataError for a column that is missing or of a wrong type.
        """
        return self.score(self.encode(table))

    def encode(self, table: pa.Table) -> Floats:
        """x_NF of raw rows. Raises DataError as `predict` does."""
        return encode(self.schema.features, table)

    def score(self, x_NF: Floats) -> Floats:
        """Scores [N, K] of encoded rows."""
        return self._model.predict(x_NF)


@dataclass(frozen=True)
class PackedBundle:
    """A bundle that travels to workers as bytes: a path of the driver says nothing on another node.
    Equal digests are equal bundles."""

    digest: str
    files: Mapping[str, bytes] = field(compare=False, repr=False)

    @classmethod
    def pack(cls, folder: Path) -> "PackedBundle":
        paths = sorted(p for p in folder.rglob("*") if p.is_file())
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}
        names = "\n".join(f"{name} {sha256(data)}" for name, data in files.items())
        return cls(sha256(names.encode()), files)

    def open(self) -> Bundle:
        """Each process opens a bundle once, however many blocks it scores."""
        return _opened(self)


@lru_cache(maxsize=4)
def _opened(packed: PackedBundle) -> Bundle:
    with tempfile.TemporaryDirectory(prefix="rayapp-bundle-") as folder:
        for name, data in packed.files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return Bundle.open(Path(folder))
