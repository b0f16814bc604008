"""A run that is the champion already, and the policy that it is asked to pass."""

from pathlib import Path

import pytest
from released import CARD, ENDPOINT, Released, release

from rayapp.config.load import load
from rayapp.config.release import PolicyConfig, ReleaseConfig
from rayapp.errors import UserError
from rayapp.flows import releasing, stages
from rayapp.flows.session import open_session
from rayapp.ledger import Ledger
from rayapp.register.manifest import seal, write_manifest
from rayapp.register.signing import load_or_create_key
from rayapp.release.difference import policy_digest
from rayapp.release.promote import champions, promote
from rayapp.schemas.model import Run


class Site:
    """Its champion was accepted by the policy that `accept` was given, at first by none of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._released: Released = release(folder)
        self.said: list[str] = []

    @property
    def run(self) -> Run:
        return self._released.run

    def policy(self, limit: float) -> str:
        path = self._folder / f"{limit}.yaml"
        path.write_text(f"gates: {{useful: {{kind: floor, metric: auc, limit: {limit}}}}}")
        return str(path)

    def accept(self, policy: str) -> None:
        digest = policy_digest(load(PolicyConfig, policy))
        manifest = self._released.signed.manifest.model_copy(update={"policy_digest": digest})
        workspace = self._released.workspace
        signed = seal(manifest, load_or_create_key(workspace.keys))
        write_manifest(workspace, signed)
        promote(self._released.ledger, signed, 1)

    @property
    def champion(self) -> str:
        return champions(self._released.ledger)[ENDPOINT].target

    @property
    def ledger(self) -> Ledger:
        return self._released.ledger

    def problems(self, policy: str) -> list[str]:
        config = ReleaseConfig.model_validate(
            {
                "endpoint": ENDPOINT,
                "training": "configs/training/flight_delay_trees.yaml",
                "policy": policy,
                "evaluation": {},
                "card": CARD,
            }
        )
        environ = {"RAYAPP_WORKSPACE": self._released.workspace.uri}
        figures = stages.release(open_session(environ, self.said.append), config)
        assert not figures["is_new"]
        return list(figures["problems"])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path)
    monkeypatch.setattr(stages, "newest_run", lambda *_: site.run)
    monkeypatch.setattr(releasing, "_mirror", lambda *_: None)  # opens MLflow's database
    return site


def test_another_policy_than_the_champions_is_told_and_takes_nothing_away(site: Site) -> None:
    low, high = site.policy(0.5), site.policy(0.9)
    site.accept(low)
    champion, sequence = site.champion, site.ledger.sequence()
    assert site.problems(low) == []
    assert site.said[-1] == f"release {ENDPOINT}: {champion[:12]} is the champion already"
    (problem,) = site.problems(high)
    assert problem.startswith(f"run run-1 is the champion of '{ENDPOINT}' by policy ")
    assert f"{high} reads otherwise now, " in problem
    assert problem.endswith(f" configs/releases/NAME.yaml policy={high} --job evaluate")
    assert site.said[-1].endswith(f"already, not by {high}, which was not applied")
    assert (site.champion, site.ledger.sequence()) == (champion, sequence)


def test_a_policy_that_is_not_there_is_told_though_nothing_is_judged(site: Site) -> None:
    with pytest.raises(UserError):
        site.problems("configs/policies/nothing.yaml")
