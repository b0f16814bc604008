"""What a flow looks up before a language model is evaluated, or answers a table."""

from pathlib import Path

import pytest

from rayapp.errors import UserError
from rayapp.flows.language import weights_of
from rayapp.flows.session import Session, open_session
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import Feature, LanguageSchema
from rayapp.schemas.operations import EventKind

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
