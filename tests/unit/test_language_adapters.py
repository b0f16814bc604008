"""Released adapters behind the gateway of language models: named, routed and replaced while it
answers."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from language_case import CONFIG, LanguageCase, chat, with_settings
from pages import Moving, described
from pydantic import ValidationError
from serving_case import signed_manifest, until

from rayapp.config.models import ModelConfig
from rayapp.errors import DataError, TamperedError
from rayapp.schemas.language import Adapter
from rayapp.schemas.model import BundleSchema, FileDigest, LanguageSchema
from rayapp.schemas.operations import Pointer
from rayapp.schemas.prompt import Prompt
from rayapp.schemas.release import Evaluation, Manifest, SignedManifest
from rayapp.serve.follow import ChampionFollower
from rayapp.serve.language.adapters import Adapted, AdapterOpener
from rayapp.serve.loading import Store
from serve_apps.common import fixed

ENGINES: dict[str, Any] = {**CONFIG["engines"]}
ENGINES["engine"] = {**ENGINES["engine"], "max_adapters": 2}
FILES = ("model/adapter_config.json", "model/adapter_model.safetensors", "schema.json")


def language(
    method: str = "lora", base: str = "engine", system: str | None = None
) -> LanguageSchema:
    return LanguageSchema(
        base_name=base,
        base_digest=f"digest-of-{base}",
        method=method,
        system=system,
        prompt="{text}",
        features=(),
        fields=(),
    )


def released(release: str, endpoint: str, told: LanguageSchema | None) -> SignedManifest:
    """Who verifies seals is the store."""
    schema = BundleSchema(
        name="tuned",
        family="llm",
        task="text",
        label="answer",
        classes=(),
        inputs=(),
        features=(),
        language=told,
    )
    signed = signed_manifest(release, schema, endpoint, f"/b/{release}")
    files = tuple(FileDigest(path=p, sha256=f"sha-of-{p}", num_bytes=1) for p in FILES)
    bundle = signed.manifest.bundle.model_copy(update={"files": files})
    manifest = signed.manifest.model_copy(update={"bundle": bundle})
    return signed.model_copy(update={"manifest": manifest})


class Site:
    """A gateway that follows what `promote` moves."""

    def __init__(self, config: Any, **case: Any) -> None:
        self.pointers: dict[str, Pointer] = {}
        self.manifests: dict[str, SignedManifest] = {}
        self.now_s = 0.0
        self.evaluations: dict[str, Evaluation] = {}
        """By endpoint; of one that has none another one is found than what was sealed."""
        store = Store(
            self.manifests.__getitem__, lambda ref, folder: None, evaluation=self._evaluation
        )
        opener = AdapterOpener(store, {"digest-of-engine"}, config.evaluated())
        self.follower: ChampionFollower[Adapted] = ChampionFollower(
            lambda: self.pointers, opener, clock_s=lambda: self.now_s
        )
        self.case = LanguageCase(config, follower=self.follower, **case)

    def _evaluation(self, manifest: Manifest) -> Evaluation:
        if manifest.endpoint not in self.evaluations:
            raise TamperedError("it is another one", "release again")
        return self.evaluations[manifest.endpoint]

    def promote(self, release: str, endpoint: str = "tuned", told: Any = None) -> None:
        self.manifests[release] = released(release, endpoint, told or language())
        before = self.pointers.get(endpoint)
        revision = 1 if before is None else before.revision + 1
        self.pointers = {
            **self.pointers,
            endpoint: Pointer(name=endpoint, target=release, revision=revision),
        }
        self.follower.refresh()

    async def ask(self, model: str = "tuned", **fields: Any) -> Any:
        return await self.case.post("/v1/chat/completions", chat(**fields) | {"model": model})

    async def names(self) -> list[str]:
        async with self.case.client() as client:
            return [one["id"] for one in (await client.get("/v1/models")).json()["data"]]

    async def state(self) -> Mapping[str, Any]:
        async with self.case.client() as client:
            found: Mapping[str, Any] = (await client.get("/v1/ping")).json()
            return found


def site_of(models: Mapping[str, Any] | None = None, **extra: Any) -> Site:
    given = {"big": {"adapters": True}} if models is None else models
    return Site(with_settings(given, engines=ENGINES, **extra))


async def test_a_released_adapter_answers_under_its_endpoints_name() -> None:
    site = site_of()
    assert (await site.ask()).status_code == 404
    site.promote("r1")
    assert await site.names() == ["big", "small", "vectors", "tuned"]
    answer = await site.ask()
    assert (answer.status_code, answer.headers["x-release"]) == (200, "r1")
    assert answer.json()["model"] == "tuned"
    asked = site.case.engine.asked[-1][1]
    assert asked["model"] == "r1"
    files = (
        ("adapter_config.json", "sha-of-model/adapter_config.json"),
        ("adapter_model.safetensors", "sha-of-model/adapter_model.safetensors"),
    )
    assert site.case.engine.adapters[-1] == Adapter("r1", "/b/r1/model", files)
    record = site.case.sink.records[-1]
    assert (record["endpoint"], record["release_id"]) == ("tuned", "r1")


async def test_how_it_wants_to_be_asked_can_be_read() -> None:
    site = site_of()
    site.promote("r1", told=language(system="Answer in JSON."))
    async with site.case.client() as client:
        answer = await client.get("/v1/models/tuned")
        other = await client.get("/v1/models/big")
    told = {"name": "", "system": "Answer in JSON.", "user": "{text}"}
    shown = answer.json()["prompt"]
    digest = shown.pop("digest")
    assert (shown, answer.headers["x-release"]) == (told, "r1")
    assert digest == language(system="Answer in JSON.").chat.content_digest()
    assert "prompt" not in other.json()


async def test_the_weights_themselves_go_on_answering() -> None:
    site = site_of()
    site.promote("r1")
    answer = await site.ask("big")
    assert answer.headers["x-release"] == "digest-of-engine"
    assert site.case.engine.adapters[-1] is None


async def test_the_next_champion_answers_from_the_next_request_on() -> None:
    site = site_of()
    site.promote("r1")
    caller = site.case.caller(chat(stream=True) | {"model": "tuned"})
    await caller.has(1)
    site.promote("r2")
    assert (await site.ask()).headers["x-release"] == "r2"
    await caller.done()
    assert (caller.status, caller.headers["x-release"]) == (200, "r1")


async def test_an_adapter_of_other_weights_never_replaces_the_one_that_answers() -> None:
    site = site_of()
    site.promote("r1")
    site.promote("r2", told=language(base="huge"))
    assert (await site.ask()).headers["x-release"] == "r1"
    told = (await site.state())["problems"]["tuned"]
    assert told.startswith("release r2: it is an adapter of huge (digest-of-hu)")


async def test_a_model_of_its_own_settings() -> None:
    models = {"small": {"engine": "engine", "endpoint": "tuned", "max_output_tokens": 2}}
    engines = {name: one for name, one in ENGINES.items() if name != "other"}
    site = Site(with_settings(models, engines=engines))
    nothing = await site.ask("small")
    assert nothing.status_code == 503
    assert "no adapter of endpoint 'tuned' is champion" in nothing.json()["error"]["message"]
    assert await site.names() == ["big", "vectors"]
    told = (await site.state())["problems"]
    assert list(told) == ["small"]
    assert told["small"] in nothing.json()["error"]["message"]
    site.promote("r1")
    assert await site.names() == ["big", "small", "vectors"]
    assert (await site.ask("small")).headers["x-release"] == "r1"
    assert site.case.engine.asked[-1][1]["max_tokens"] == 2
    assert (await site.ask("tuned")).status_code == 404


async def test_why_a_release_cannot_answer_is_told_rather_than_that_nobody_does() -> None:
    site = site_of({"tuned": {"engine": "engine", "endpoint": "tuned"}})
    assert "no adapter of endpoint 'tuned'" in (await site.state())["problems"]["tuned"]
    site.promote("r1", told=language(base="huge"))
    told = (await site.state())["problems"]["tuned"]
    assert told.startswith("release r1: it is an adapter of huge (digest-of-hu)")


async def test_the_prompt_that_it_was_tuned_with_is_said_where_the_caller_says_none() -> None:
    site = site_of()
    site.promote("r1", told=language(system="Answer in JSON."))
    first = await site.ask(text="one two")
    asked = site.case.engine.asked[-1][1]["messages"]
    assert asked[0] == {"role": "system", "content": "Answer in JSON."}
    assert first.json()["usage"]["prompt_tokens"] == 5
    logged = orjson.loads(site.case.sink.records[-1]["prompt"])["messages"]
    assert logged == asked
    digest = language(system="Answer in JSON.").chat.content_digest()
    assert first.headers["x-prompt"] == site.case.sink.records[-1]["prompt_digest"] == digest
    own = [{"role": "developer", "content": "Mine."}, {"role": "user", "content": "one"}]
    theirs = await site.ask(messages=own)
    assert site.case.engine.asked[-1][1]["messages"] == own
    assert "x-prompt" not in theirs.headers
    assert site.case.sink.records[-1]["prompt_digest"] is None
    await site.ask("big", text="one two")
    assert len(site.case.engine.asked[-1][1]["messages"]) == 1


PROMPT = {"name": "brief", "system": "Be brief.", "user": "{text}"}


async def test_weights_as_they_are_are_told_the_prompt_that_the_config_names() -> None:
    """An adapter of theirs has its own."""
    site = site_of({"big": {"adapters": True, "prompt": PROMPT}})
    site.promote("r1", told=language(system="Answer in JSON."))
    answer = await site.ask("big", text="one two")
    asked = site.case.engine.asked[-1][1]["messages"]
    assert asked[0] == {"role": "system", "content": "Be brief."}
    digest = Prompt.model_validate(PROMPT).content_digest()
    record = site.case.sink.records[-1]
    assert answer.headers["x-prompt"] == record["prompt_digest"] == digest
    await site.ask("tuned", text="one two")
    assert site.case.engine.asked[-1][1]["messages"][0]["content"] == "Answer in JSON."
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "one"}]
    theirs = await site.ask("big", messages=own)
    assert (site.case.engine.asked[-1][1]["messages"], "x-prompt" in theirs.headers) == (own, False)
    async with site.case.client() as client:
        shown = (await client.get("/v1/models/big")).json()["prompt"]
    assert shown == PROMPT | {"digest": digest}


async def test_a_stand_in_is_told_what_the_name_would_be() -> None:
    site = site_of({"big": {"adapters": True, "prompt": PROMPT, "fallback": [{"model": "small"}]}})
    site.case.engine.trouble.is_away = True
    answer = await site.ask("big", text="one two")
    assert answer.headers["x-degraded"]
    assert site.case.engines["other"].asked[-1][1]["messages"][0]["content"] == "Be brief."
    assert answer.headers["x-prompt"] == Prompt.model_validate(PROMPT).content_digest()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"endpoint": "tuned", "prompt": PROMPT}, "an adapter is told what it was trained with"),
        ({"prompt": PROMPT | {"system": None}}, "brief has no `system`"),
    ],
)
def test_a_prompt_without_effect_is_refused(model: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ModelConfig.model_validate({"engine": "engine", **model})


async def test_a_breaker_remembers_a_release_while_others_move() -> None:
    breaker = {"min_requests": 2, "failure_share": 0.5}
    site = site_of({"big": {"adapters": True, "breaker": breaker}})
    site.promote("r1")
    site.case.engine.trouble.is_away = True
    for _ in range(2):
        await site.ask()
    site.promote("other-1", endpoint="other-endpoint")
    site.case.engine.trouble.is_away = False
    assert (await site.ask()).status_code == 503
    assert (await site.ask("other-endpoint")).status_code == 200
    site.promote("r2")
    assert (await site.ask()).status_code == 200
    assert site.case.meter.breakers == [("engine", "open"), ("engine", "closed")]


async def test_a_release_that_is_gone_says_nothing_of_the_breaker_of_the_next() -> None:
    breaker = {"min_requests": 1, "open_s": 1e-6}
    site = site_of({"big": {"adapters": True, "breaker": breaker}})
    site.promote("r1")
    trouble = site.case.engine.trouble
    trouble.is_away = True
    await site.ask()
    trouble.is_away, trouble.hangs_before = False, True
    probe = asyncio.create_task(site.ask())
    await until(lambda: site.case.engine.num_ongoing == 1)
    trouble.hangs_before = False
    site.promote("r2")
    assert (await site.ask()).status_code == 200
    before = [("engine", "open"), ("engine", "half_open"), ("engine", "closed")]
    assert site.case.meter.breakers == before
    trouble.goes_on.set()
    assert (await probe).status_code == 200
    assert site.case.meter.breakers == before


async def test_a_release_answers_under_its_endpoints_name_whoever_else_names_the_endpoint() -> None:
    """Each at the settings of its own name."""
    mine = {"engine": "engine", "endpoint": "tuned", "max_output_tokens": 2}
    site = site_of({"big": {"adapters": True, "max_output_tokens": 3}, "mine": mine})
    site.promote("r1")
    assert await site.names() == ["big", "small", "vectors", "mine", "tuned"]
    found = []
    for name in ("mine", "tuned"):
        answer = await site.ask(name)
        found.append((answer.headers["x-release"], site.case.engine.asked[-1][1]["max_tokens"]))
    assert found == [("r1", 2), ("r1", 3)]


async def test_a_configured_name_is_never_taken() -> None:
    site = site_of()
    site.promote("r1", endpoint="small")
    assert (await site.ask("small")).headers["x-release"] == "digest-of-other"


@pytest.mark.parametrize("told", [None, language("full")])
def test_what_is_no_adapter_is_refused(told: LanguageSchema | None) -> None:
    signed = released("r1", "tuned", told)
    opener = AdapterOpener(
        Store(lambda release: signed, lambda ref, to: None), {"digest-of-engine"}
    )
    with pytest.raises(DataError, match="its model is no adapter"):
        opener("tuned", "r1", None)


@pytest.mark.parametrize("has_follower", [True, False])
async def test_nothing_is_built_anew_while_no_champion_moves(has_follower: bool) -> None:
    site = site_of()
    site.promote("r1")
    case = site.case if has_follower else LanguageCase(with_settings())
    before = case.app._models.find("big").endpoint
    await case.chat()
    assert case.app._models.find("big").endpoint is before
    site.promote("r2")
    assert case.app._models.find("big").endpoint is before


NEXT = "b" * 64
HALF = {"salt": "autumn", "arms": {"next": {"model": "next", "share": 0.5}}}


async def test_two_releases_of_one_endpoint_answer_beside_each_other() -> None:
    """The champion under its endpoint's name, by `adapters`, and one that is named by its id."""
    named = {"engine": "engine", "endpoint": "tuned", "release": NEXT}
    site = site_of({"big": {"adapters": True, "split": HALF}, "next": named})
    config = site.case.config
    assert (await site.ask("next")).status_code == 503
    assert f"release {NEXT[:12]}" in (await site.state())["problems"]["big/next"]
    site.manifests[NEXT] = released(NEXT, "tuned", language())
    site.pointers = fixed(config.named_releases())
    site.follower.refresh()
    assert (await site.ask("next")).headers["x-release"] == NEXT
    assert "tuned" not in await site.names()  # nothing is champion
    site.promote("r1")
    assert (await site.ask("tuned")).headers["x-release"] == "r1"
    assert (await site.ask("next")).headers["x-release"] == NEXT
    found = {(await site.ask("big", user=f"u{n}")).headers["x-release"] for n in range(20)}
    assert found == {NEXT, "digest-of-engine"}
    site.promote("r2")  # the one that is named stays
    assert (await site.ask("next")).headers["x-release"] == NEXT
    assert (await site.state())["problems"] == {}


def test_a_release_is_one_of_an_endpoint() -> None:
    with pytest.raises(ValidationError, match="`release` has no effect without the `endpoint`"):
        with_settings({"big": {"release": NEXT}})


@pytest.mark.parametrize("num_reads", range(1, 5))
async def test_what_goes_while_it_is_described_is_described_or_not(num_reads: int) -> None:
    site = site_of()
    site.promote("r1")
    moving = Moving(dict(site.follower.current), {}, num_reads)
    site.case.app._follower = moving  # type: ignore[assignment]
    document = await described(site.case.client(), "/v1/openapi.json")
    names = [tag["name"] for tag in document["tags"]]
    assert set(names) - {"tuned"} == {"big", "small", "vectors"}
