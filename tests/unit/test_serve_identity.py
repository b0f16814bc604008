"""API keys: made and revoked in the ledger, and what a gateway makes of them."""

import json
import re
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from serving_case import ENDPOINT, ROW, Case, make_bundle

from rayapp.cli import keys as cli_keys
from rayapp.cli.app import main
from rayapp.config.routing import ConditionConfig
from rayapp.config.serving import EndpointConfig, ServingConfig
from rayapp.errors import Refused, RequestError, TamperedError, UserError
from rayapp.govern.keys import create_key, list_keys, revoke_key, rotate_key
from rayapp.ledger import Ledger
from rayapp.schemas.operations import EventKind, Pointer
from rayapp.schemas.traffic import KEY_TEXT, ApiKey, Role
from rayapp.serve.callers.identity import KeyRing
from rayapp.storage import Workspace

SCORE = f"/endpoints/{ENDPOINT}/invocations"
BODY = {"dataframe_records": [ROW]}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.of(Workspace(str(tmp_path)), "test")


def ring(ledger: Ledger, requires_key: bool = True) -> KeyRing:
    made = KeyRing(lambda: {key.key_id: key for key in list_keys(ledger)}, requires_key)
    made.refresh()
    return made


def bearer(text: str) -> bytes:
    return f"Bearer {text}".encode()


def test_a_key_stands_for_its_tenant_until_it_is_revoked(ledger: Ledger) -> None:
    text, key = create_key(ledger, "acme", "caller")
    keys = ring(ledger)
    principal = keys.identify(bearer(text))
    assert principal is not None
    assert (principal.tenant, principal.role, principal.key_id) == ("acme", "caller", key.key_id)
    revoke_key(ledger, key.key_id)
    assert keys.identify(bearer(text)) == principal  # until the ring looks again
    keys.refresh()
    with pytest.raises(RequestError, match="revoked"):
        keys.identify(bearer(text))


def test_a_secret_is_kept_nowhere(ledger: Ledger) -> None:
    text, key = create_key(ledger, "acme", "caller")
    secret = text.split("_", 2)[2]  # it may have underscores of its own
    kept = str(ledger.events()) + str(ledger.pointers("key/")) + key.model_dump_json()
    assert secret not in kept
    assert key.secret_sha256 not in secret
    assert [e.kind for e in ledger.events()] == [EventKind.KEY_CREATED]
    assert ledger.verify() == []


def test_a_key_is_exchanged(ledger: Ledger) -> None:
    old_text, old = create_key(ledger, "acme", "reader")
    kept = rotate_key(ledger, old.key_id, keeps_old=True)
    new = rotate_key(ledger, kept.key.key_id, keeps_old=False)
    keys = ring(ledger)
    assert {keys.identify(bearer(t)).tenant for t in (old_text, new.text)} == {"acme"}  # type: ignore[union-attr]
    with pytest.raises(RequestError):
        keys.identify(bearer(kept.text))
    assert [key.role for key in (old, kept.key, new.key)] == ["reader"] * 3
    assert [key.is_revoked for key in list_keys(ledger)] == [False, False, True]
    assert (kept.failure, new.failure) == (None, None)


class Full(Ledger):
    """Its disk is, once a key was made."""

    def move_pointer(self, *move: Any) -> Pointer:
        if EventKind.KEY_REVOKED in move:
            raise OSError(28, "No space left on device")
        return super().move_pointer(*move)


def test_a_new_key_is_told_though_the_old_one_could_not_be_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYAPP_WORKSPACE", str(tmp_path))
    ledger = Full.of(Workspace(str(tmp_path)), "test")
    old_text, old = create_key(ledger, "acme", "caller")
    monkeypatch.setattr(cli_keys, "own_ledger", lambda: ledger)
    assert main(["keys", "rotate", old_text, "--json"]) == 2
    told = capsys.readouterr()
    keys = ring(ledger)
    for text in (old_text, json.loads(told.out)["key"]):
        assert keys.identify(bearer(text)) is not None
    assert f"the old one, '{old.key_id}', still stands" in told.err
    assert "No space left on device" in told.err
    assert f"rayapp keys revoke {old.key_id}" in told.err
    assert old_text not in told.err


def test_two_who_revoke_at_once_are_not_told_of_a_promotion(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = create_key(ledger, "acme", "caller")
    pointer = ledger.pointer

    def meanwhile(name: str) -> Any:
        found = pointer(name)
        monkeypatch.undo()
        revoke_key(ledger, key.key_id)
        return found

    monkeypatch.setattr(ledger, "pointer", meanwhile)
    with pytest.raises(Refused, match="somebody else changed key") as refused:
        revoke_key(ledger, key.key_id)
    assert "promoted" not in str(refused.value)
    assert key.secret_sha256 not in str(refused.value)


@pytest.mark.parametrize("tenant", ["", "Acme", "a b", "-a", "a" * 64, "../x"])
def test_a_tenant_has_a_plain_name(ledger: Ledger, tenant: str) -> None:
    with pytest.raises(UserError, match="tenant"):
        create_key(ledger, tenant, "caller")
    assert ledger.events() == []


@pytest.mark.parametrize(
    "tenant", ["a", "acme-2", "a" * 63, "", "Acme", "a_b", "2a", "a" * 64, "a\n"]
)
def test_a_config_can_name_the_tenants_that_can_have_keys_and_no_others(
    ledger: Ledger, tenant: str
) -> None:
    try:
        create_key(ledger, tenant, "caller")
    except UserError:
        with pytest.raises(ValidationError, match="no tenant can have this name"):
            ConditionConfig(tenants=(tenant,))
    else:
        assert ConditionConfig(tenants=(tenant,)).tenants == (tenant,)


def test_a_key_is_known_by_its_text_too(ledger: Ledger) -> None:
    text, key = create_key(ledger, "acme", "caller")
    found = re.fullmatch(KEY_TEXT, text)
    assert found is not None
    assert found[1] == key.key_id
    assert revoke_key(ledger, text[:-5]).key_id == key.key_id


def test_what_is_not_there_cannot_be_revoked(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="no key"):
        revoke_key(ledger, "abc")
    _, key = create_key(ledger, "acme", "caller")
    revoke_key(ledger, key.key_id)
    with pytest.raises(UserError, match="is revoked"):
        revoke_key(ledger, key.key_id)


def wrong_credentials(text: str) -> list[bytes]:
    prefix, key_id, secret = text.split("_", 2)
    return [
        b"",
        b"Bearer",
        b"Bearer rk_",
        bearer(text[:-1]),
        bearer(text + "A"),
        bearer(f"{prefix}_{'0' * 12}_{secret}"),
        bearer(f"{prefix}_{key_id}_{'A' * len(secret)}"),
        f"Basic {text}".encode(),
        bearer(text) + b"\xff",
    ]


def test_no_other_credential_will_do(ledger: Ledger) -> None:
    text, _ = create_key(ledger, "acme", "caller")
    keys = ring(ledger)
    for credential in wrong_credentials(text):
        with pytest.raises(RequestError) as error:
            keys.identify(credential)
        assert error.value.status == 401
    with pytest.raises(RequestError, match="wants an API key"):
        keys.identify(None)
    assert keys.identify(bearer(text)) is not None


def test_where_no_key_is_needed_a_wrong_one_is_still_refused(ledger: Ledger) -> None:
    text, _ = create_key(ledger, "acme", "caller")
    keys = ring(ledger, requires_key=False)
    assert keys.identify(None) is None
    for of_others in (b"Basic dXNlcjpwYXNz", b"Bearer EMPTY", b"Bearer "):
        assert keys.identify(of_others) is None
    assert keys.identify(bearer(text)) is not None
    for wrong in (bearer(text[:-1]), text.encode()):  # the second lacks its "Bearer"
        with pytest.raises(RequestError):
            keys.identify(wrong)


def test_while_the_ledger_is_away_known_keys_count(caplog: pytest.LogCaptureFixture) -> None:
    class Away(Exception):
        pass

    is_away = [False]
    key = ApiKey(key_id="0" * 12, tenant="a", role="caller", secret_sha256="-")

    def read() -> dict[str, ApiKey]:
        if is_away[0]:
            raise Away
        return {key.key_id: key}

    keys = KeyRing(read, requires_key=True)
    keys.refresh()
    is_away[0] = True
    for _ in range(3):
        keys.refresh()
    assert keys._keys == {key.key_id: key}
    is_away[0] = False
    keys.refresh()
    is_away[0] = True
    keys.refresh()
    assert caplog.text.count("keys_not_read") == 2  # once an outage: gateways look 4 times a second


# through the gateway


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles") / "1"
    make_bundle(folder)
    return {"r1": folder}


def started(bundles: dict[str, Path], ledger: Ledger, role: Role = "caller") -> tuple[Case, str]:
    case = Case(ServingConfig(requires_key=True), releases=bundles)
    case.promote("r1")
    case.follower.refresh()
    text, key = create_key(ledger, "acme", role)
    case.keys[key.key_id] = key
    case.ring.refresh()
    return case, text


async def test_nothing_is_answered_without_a_key_but_health_checks(
    bundles: dict[str, Path], ledger: Ledger
) -> None:
    case, text = started(bundles, ledger)
    async with case.client() as client:
        refused = [
            await client.post(SCORE, json=BODY),
            await client.get("/"),
            await client.get("/x"),
        ]
        ready = await client.get("/v2/health/ready")
        good = await client.post(SCORE, json=BODY, headers={"authorization": f"Bearer {text}"})
    assert [r.status_code for r in refused] == [401] * 3
    assert {r.headers["www-authenticate"] for r in refused} == {"Bearer"}
    assert (ready.status_code, good.status_code) == (200, 200)
    assert [r["tenant"] for r in case.predictions.records] == ["acme"]


class Listed(UserDict[str, EndpointConfig]):
    """Counts how often somebody goes through it."""

    num_times = 0

    def __iter__(self) -> Iterator[str]:
        self.num_times += 1
        return iter(self.data)


async def test_a_refusal_goes_through_no_list_of_endpoints(
    bundles: dict[str, Path], ledger: Ledger
) -> None:
    case, _ = started(bundles, ledger)
    directory = case.app._directory
    listed = Listed({ENDPOINT: EndpointConfig(), "other": EndpointConfig()})
    directory._config = case.config.model_copy(update={"endpoints": listed})
    async with case.client() as client:
        refused = await client.post(SCORE, json=BODY)
    assert (refused.status_code, listed.num_times) == (401, 0)
    assert case.meter.requests == [(ENDPOINT, "r1", 401)]
    assert (directory.names(), listed.num_times) == ([ENDPOINT, "other"], 1)


@pytest.mark.parametrize("path", ["/ping", "/health", "/v2/health/ready"])
@pytest.mark.parametrize("is_ready", [True, False])
async def test_without_a_key_a_health_check_says_ready_or_not_and_nothing_else(
    bundles: dict[str, Path], ledger: Ledger, path: str, is_ready: bool
) -> None:
    case, text = started(bundles, ledger)
    if not is_ready:
        case.refusals["r2"] = TamperedError("manifest of r2 was changed", "restore it")
        case.follower.current = {}
        case.promote("r2")
        case.follower.refresh()
    async with case.client() as client:
        unknown = [
            await client.get(path),
            await client.get(path, headers={"authorization": "Bearer rk_wrong"}),
            await client.post(SCORE, json=BODY),
        ]
        known = await client.get(path, headers={"authorization": f"Bearer {text}"})
    assert [r.status_code for r in unknown] == [known.status_code] * 2 + [401]
    assert [r.json() for r in unknown[:2]] == [{"ready": is_ready}] * 2
    assert not any("x-release" in r.headers for r in unknown)
    assert known.json()["endpoints"] == {ENDPOINT: "r1" if is_ready else None}
    assert bool(known.json()["problems"]) == (not is_ready)


async def test_where_no_key_is_required_a_health_check_tells_everybody(
    bundles: dict[str, Path],
) -> None:
    case = Case(ServingConfig(), releases=bundles)
    case.promote("r1")
    case.follower.refresh()
    async with case.client() as client:
        ready = await client.get("/ping")
    assert ready.json() == {"ready": True, "endpoints": {ENDPOINT: "r1"}, "problems": {}}
    assert ready.headers["x-release"] == "r1"


async def test_a_reader_may_look_but_not_ask(bundles: dict[str, Path], ledger: Ledger) -> None:
    case, text = started(bundles, ledger, "reader")
    headers = {"authorization": f"Bearer {text}"}
    async with case.client() as client:
        looked = await client.get(f"/v2/models/{ENDPOINT}", headers=headers)
        asked = await client.post(SCORE, json=BODY, headers=headers)
        told = await client.post("/feedback", json={"request_id": "q"}, headers=headers)
    assert (looked.status_code, asked.status_code, told.status_code) == (200, 403, 403)
    assert asked.json()["error"]["type"] == "forbidden"


async def test_feedback_has_the_tenant_of_the_key_that_sends_it(
    bundles: dict[str, Path], ledger: Ledger
) -> None:
    case, _ = started(bundles, ledger)
    text, key = create_key(ledger, "acme", "caller")  # that of its back office
    case.keys[key.key_id] = key
    case.ring.refresh()
    async with case.client() as client:
        headers = {"authorization": f"Bearer {text}"}
        said = await client.post("/feedback", json={"request_id": "q", "label": 1}, headers=headers)
    assert said.status_code == 202
    assert [r["tenant"] for r in case.feedback.records] == ["acme"]


async def test_tenants_do_not_share_cached_answers(
    bundles: dict[str, Path], ledger: Ledger
) -> None:
    config = ServingConfig.model_validate({"endpoints": {ENDPOINT: {"cache": {}}}})
    case = Case(config, releases=bundles)
    case.promote("r1")
    case.follower.refresh()
    texts = []
    for tenant in ("acme", "other"):
        text, key = create_key(ledger, tenant, "caller")
        case.keys[key.key_id] = key
        texts.append(text)
    case.ring.refresh()
    async with case.client() as client:
        for text in (*texts, *texts):
            await client.post(SCORE, json=BODY, headers={"authorization": f"Bearer {text}"})
    assert case.meter.lookups == [False, False, True, True]
