"""The adapters that a replica of an engine holds, with an engine that only takes notes."""

import asyncio
import json
from pathlib import Path

import pytest

from rayapp.errors import DataError, TamperedError, Unavailable
from rayapp.llm.adapters import Adapters
from rayapp.schemas.language import Adapter
from rayapp.storage import Workspace, sha256

WEIGHTS = b"what was learned"


class Site:
    def __init__(self, folder: Path, max_adapters: int = 2) -> None:
        self.folder = folder
        self.loaded: dict[str, bytes] = {}
        self.log: list[str] = []
        self.refuses: str | None = None
        self.ranks: dict[str, int] = {}
        self.may_unload = asyncio.Event()
        self.may_unload.set()
        workspace = Workspace(str(folder / "workspace"))
        self.adapters = Adapters(self._load, self._unload, max_adapters, 16, workspace)

    async def _load(self, release_id: str, folder: Path) -> None:
        if self.refuses is not None:
            raise ValueError(self.refuses)
        self.log.append(f"+{release_id}")
        self.loaded[release_id] = (folder / "adapter_model.safetensors").read_bytes()

    async def _unload(self, release_id: str) -> None:
        await self.may_unload.wait()
        self.log.append(f"-{release_id}")
        del self.loaded[release_id]

    def adapter(self, release_id: str) -> Adapter:
        folder = self.folder / release_id
        folder.mkdir(exist_ok=True)
        config = json.dumps({"r": 8, "rank_pattern": self.ranks}).encode()
        files = {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": config}
        for name, data in files.items():
            (folder / name).write_bytes(data)
        listed = tuple((name, sha256(data)) for name, data in files.items())
        return Adapter(release_id, str(folder), listed)

    async def ask(self, release_id: str, times: int = 1) -> None:
        for _ in range(times):
            async with self.adapters.use(self.adapter(release_id)):
                assert self.loaded[release_id] == WEIGHTS


async def test_an_adapter_is_loaded_once_and_stays(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await asyncio.gather(*(site.ask("a") for _ in range(5)))
    await site.ask("a")
    assert site.log == ["+a"]
    assert site.adapters.held() == ["a"]


async def test_a_long_answer_of_a_newcomer_keeps_no_other_one_away(tmp_path: Path) -> None:
    site = Site(tmp_path, max_adapters=3)
    for name in ("hot", "warm"):
        await site.ask(name, times=5)
    async with site.adapters.use(site.adapter("long")):
        await site.ask("new")
        assert "long" in site.adapters.held()


async def test_another_takes_the_place_of_the_one_that_is_asked_for_least(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.ask("hot", times=5)
    await site.ask("cold")
    await site.ask("new")
    assert site.log == ["+hot", "+cold", "-cold", "+new"]
    assert site.adapters.held() == ["hot", "new"]


async def test_one_that_answers_is_not_unloaded(tmp_path: Path) -> None:
    site = Site(tmp_path, max_adapters=1)
    async with site.adapters.use(site.adapter("a")):
        with pytest.raises(Unavailable, match="needs 1 places, 1 more than can be freed"):
            await site.ask("b")
    await site.ask("b")
    assert site.log == ["+a", "-a", "+b"]


async def test_a_place_is_free_before_another_takes_it(tmp_path: Path) -> None:
    site = Site(tmp_path, max_adapters=1)
    await site.ask("a")
    site.may_unload.clear()
    asking = asyncio.create_task(site.ask("b"))
    while not site.adapters._going:  # the file is read in a thread
        await asyncio.sleep(0)
    assert site.log == ["+a"]
    site.may_unload.set()
    await asking
    assert site.log == ["+a", "-a", "+b"]


async def test_files_that_are_not_what_was_released_reach_no_engine(tmp_path: Path) -> None:
    site = Site(tmp_path)
    adapter = site.adapter("a")
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(TamperedError, match=r"adapter_model\.safetensors is not what was recorded"):
        async with site.adapters.use(adapter):
            pass
    assert site.log == []
    await site.ask("a")  # restored
    assert site.log == ["+a"]


async def test_what_the_engine_does_not_take_is_told_and_tried_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.refuses = "a stack trace of the engine's own"
    with pytest.raises(DataError, match="the engine does not take adapter a") as error:
        await site.ask("a")
    assert "trace" not in str(error.value)
    site.refuses = None
    await site.ask("a")
    assert site.log == ["+a"]


async def test_one_of_a_larger_rank_than_the_places_have_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.ranks = {"q_proj": 64}
    with pytest.raises(DataError, match="has rank 64, `max_adapter_rank` of the engine is 16"):
        await site.ask("a")
    assert site.log == []


async def test_one_that_cannot_be_unloaded_is_not_the_next_ones_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path, max_adapters=1)
    await site.ask("a", times=3)
    del site.loaded["a"]  # so that unloading it raises
    await site.ask("b", times=8)
    assert "b" in site.loaded
    assert "adapter_not_unloaded" in caplog.text
