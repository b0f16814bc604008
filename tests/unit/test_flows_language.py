"""What a flow looks up before a language model is evaluated, or answers a table."""

from pathlib import Path

import pytest
from serving_case import ENDPOINT, seal_release, signed_manifest

from rayapp.errors import TamperedError, UserError
from rayapp.families.bundle import write_bundle
from rayapp.flows.language import _opened_champion, weights_of
from rayapp.flows.session import Session, open_session
from rayapp.schemas.data import Column, ColumnProfile, Profile
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import BundleRef, BundleSchema, Feature, LanguageSchema
from rayapp.schemas.operations import EventKind
from rayapp.schemas.release import SignedManifest
from rayapp.storage import commit_folder, folder_digest

LANGUAGE = LanguageSchema(
    base_name="tiny",
    base_digest="a" * 64,
    method="lora",
    system=None,
    prompt="{said}",
    features=(Feature(name="said", expression="said"),),
    fields=(),
)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return open_session({"RAYAPP_WORKSPACE": str(tmp_path / "workspace")}, lambda text: None)


def add(session: Session, digest: str) -> WeightsRef:
    weights = WeightsRef(
        name="tiny",
        uri=f"/weights/{digest}",
        digest=digest,
        files=(),
        task="generate",
        source="/models/tiny",
        source_sha256=None,
        license="MIT",
        architecture="LlamaForCausalLM",
        num_parameters=10,
        max_context_tokens=64,
    )
    payload = {"weights": weights.model_dump(mode="json")}
    session.ledger.append(EventKind.WEIGHTS_ADDED, "tiny", payload)
    return weights


def test_an_adapter_goes_with_the_weights_that_it_was_tuned_from(session: Session) -> None:
    """Others that were added under their name later are none of its business."""
    own = add(session, "a" * 64)
    add(session, "b" * 64)
    assert weights_of(session, LANGUAGE) == own


def test_weights_that_were_never_added_are_told(session: Session) -> None:
    add(session, "b" * 64)
    with pytest.raises(UserError, match=r"tiny \(aaaaaaaaaaaa\).* never added .*bbbbbbbbbbbb"):
        weights_of(session, LANGUAGE)


ADAPTER = b"weights beside weights"


def language_champion(session: Session, folder: Path) -> SignedManifest:
    schema = BundleSchema(
        name="reader",
        family="llm",
        task="text",
        label="answer",
        classes=(),
        inputs=(Column(name="said", type="string"),),
        features=(),
        language=LANGUAGE,
    )
    lengths = ColumnProfile(
        name="answer_tokens", type="number", edges=(1, 8), counts=(10,), num_missing=0
    )

    def write_model(model: Path) -> None:
        (model / "adapter_model.safetensors").write_bytes(ADAPTER)

    write_bundle(folder, schema, Profile(num_rows=10, columns=(lengths,)), write_model)
    uri = session.workspace.artifact("bundles", "reader")
    files = commit_folder(folder, uri)
    ref = BundleRef(uri=uri, digest=folder_digest(files), files=files, bundle_schema=schema)
    signed = signed_manifest("r" * 64, schema, ENDPOINT)
    manifest = signed.manifest.model_copy(update={"bundle": ref})
    return signed.model_copy(update={"manifest": manifest})


def test_a_champion_answers_by_its_own_weights(session: Session, tmp_path: Path) -> None:
    champion = language_champion(session, tmp_path / "made")
    with pytest.raises(UserError, match=r"tiny \(aaaaaaaaaaaa\).* never added"):
        _opened_champion(session, champion, ["said"])
    own = add(session, "a" * 64)
    add(session, "b" * 64)
    opened = _opened_champion(session, champion, ["said", "answer"])
    assert (opened.tuned.weights, opened.tuned.language) == (own, LANGUAGE)
    assert opened.tuned.files == {"adapter_model.safetensors": ADAPTER}
    assert opened.max_tokens == 11


def test_a_champion_that_was_changed_is_not_asked(session: Session, tmp_path: Path) -> None:
    champion = language_champion(session, tmp_path / "made")
    add(session, "a" * 64)
    uri = Path(champion.manifest.bundle.uri)
    (uri / "model" / "adapter_model.safetensors").write_bytes(b"others")
    with pytest.raises(TamperedError):
        _opened_champion(session, champion, ["said"])


def test_a_champion_that_cannot_be_asked_is_told(session: Session, tmp_path: Path) -> None:
    champion = language_champion(session, tmp_path / "made")
    with pytest.raises(UserError, match="is asked by 'said', which the questions do not have"):
        _opened_champion(session, champion, ["answer"])
    trees = seal_release(session.workspace, tmp_path / "trees", 1, ENDPOINT)
    with pytest.raises(UserError, match="it gives no answers to compare with"):
        _opened_champion(session, trees, ["said"])
