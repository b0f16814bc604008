"""What a release would change, beside the champion and beside one that is named."""

from pathlib import Path
from typing import Any

import pytest
from serving_case import ENDPOINT, estimate, seal_release

from rayapp.cli.plan import _shown
from rayapp.errors import UserError
from rayapp.flows.planning import Measured, Plan, plan_release
from rayapp.ledger import Ledger
from rayapp.release.difference import changes
from rayapp.release.promote import promote
from rayapp.schemas.model import LanguageSchema
from rayapp.schemas.operations import EventKind
from rayapp.schemas.release import Manifest, SignedManifest
from rayapp.storage import Workspace


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = Workspace(str(folder))
        self.ledger = Ledger.of(self.workspace, "test")
        self.revision = 0

    def release(self, seed: int, is_refused: bool = False, **sealed: Any) -> SignedManifest:
        folder = self.folder / f"bundle-{seed}"
        folder.mkdir()
        signed = seal_release(self.workspace, folder, seed, **sealed)
        kind = EventKind.RELEASE_REFUSED if is_refused else EventKind.RELEASE_SEALED
        payload = {"endpoint": signed.manifest.endpoint, "run_id": "run"}
        self.ledger.append(kind, signed.release_id, payload)
        return signed

    def promote(self, signed: SignedManifest) -> None:
        self.revision = promote(self.ledger, signed, self.revision).revision

    def plan(self, *releases: SignedManifest) -> Plan:
        return plan_release(self.workspace, *(one.release_id[:12] for one in releases))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_release_is_compared_with_the_champion_on_its_own_figures(site: Site) -> None:
    first = site.release(1, estimates=(estimate("auc", 0.7, 0.8),))
    site.promote(first)
    second = site.release(2, without=("temp",), estimates=(estimate("auc", 0.8, 0.9),))
    found = site.plan(second)
    assert (found.endpoint, found.state, found.against) == (ENDPOINT, "passed", first.release_id)
    gone = {(one.part, one.name) for one in found.changes if one.after is None}
    assert gone == {("input", "temp"), ("feature", "temp")}
    assert found.measured == (
        Measured(metric="auc", before=estimate("auc", 0.7, 0.8), after=estimate("auc", 0.8, 0.9)),
    )
    assert found.on_same_rows


def test_the_champion_is_compared_with_the_one_before_it(site: Site) -> None:
    first, second = site.release(1), site.release(2)
    for signed in (first, second):
        site.promote(signed)
    found = site.plan(second)
    assert (found.state, found.against) == ("champion", first.release_id)
    # none of the bundle's parts differ but its bytes, which are no part of their own
    assert found.changes == ()


def test_the_first_release_of_an_endpoint_has_nothing_beside_it(site: Site) -> None:
    found = site.plan(site.release(1, is_refused=True))
    assert (found.state, found.against) == ("refused", None)
    assert all(one.before is None for one in found.changes)


def test_another_release_can_be_named(site: Site) -> None:
    first, second, third = site.release(1), site.release(2), site.release(3, endpoint="other")
    assert site.plan(second, first).against == first.release_id
    with pytest.raises(UserError, match="is of 'other'"):
        site.plan(second, third)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("f" * 64, "no release has an id that begins with 'ffff"),
        ("", "has 0 characters, wanted are 6 at least"),
    ],
)
def test_an_id_that_is_none(site: Site, named: str, says: str) -> None:
    site.release(1)
    with pytest.raises(UserError, match=says):
        plan_release(site.workspace, named)


def test_a_beginning_of_one_character(site: Site) -> None:
    named = site.release(1).release_id[0]
    with pytest.raises(UserError, match=f"release '{named}' has 1 character, wanted are 6"):
        plan_release(site.workspace, named)


def test_where_nothing_was_released_that_is_said(site: Site) -> None:
    with pytest.raises(UserError, match="there are no releases yet\n  next: make one"):
        plan_release(site.workspace, "abc")


def language(system: str, base: str = "a" * 64) -> LanguageSchema:
    return LanguageSchema(
        base_name="small",
        base_digest=base,
        method="lora",
        system=system,
        prompt="{text}",
        features=(),
        fields=(),
        prompt_name="polite",
    )


def manifest(site: Site, **parts: Any) -> Manifest:
    made = site.release(site.revision).manifest
    site.revision += 1
    language_, config = parts.get("language"), parts.get("config", {})
    schema = made.bundle.bundle_schema.model_copy(update={"language": language_})
    bundle = made.bundle.model_copy(update={"bundle_schema": schema})
    return made.model_copy(update={"bundle": bundle, "config": config, **parts.get("more", {})})


def test_prompts_weights_settings_and_data_differ_by_name(site: Site) -> None:
    before = manifest(
        site,
        language=language("Be brief."),
        config={"llm": {"rank": 8, "epochs": 1}},
        more={"data_digests": {"texts": "1"}, "code_digest": "c1"},
    )
    after = manifest(
        site,
        language=language("Be brief.\nBe kind.", base="b" * 64),
        config={"llm": {"rank": 16, "epochs": 1}},
        more={"data_digests": {"texts": "2"}, "code_digest": "c1"},
    )
    found = {(one.part, one.name): (one.before, one.after) for one in changes(before, after)}
    assert found == {
        ("data", "texts"): ("1", "2"),
        ("config", "llm.rank"): ("8", "16"),
        ("weights", "small"): ("a" * 64, "b" * 64),
        ("prompt", "system"): ("Be brief.", "Be brief.\nBe kind."),
    }


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (f"small {'0a' * 32}", "small 0a0a0a0a0a0a"),
        ('{"name":"origin_airport","nullable":false,"type":"category_lst"}', None),
        (None, "-"),
    ],
)
def test_only_digests_are_shortened(told: str | None, shown: str | None) -> None:
    assert _shown(told).plain == (told if shown is None else shown)
