"""An engine that is silent must show that it generates; one that is only slow is left alone."""

import asyncio

import pytest

from rayapp.llm.pulse import EngineStalled, Pulse


class Engine:
    """Silent until it is probed. hangs: it does not answer the probe either."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.num_probes = 0
        self.hangs = False
        self.error: Exception | None = None
        self.gets_on = False
        self.goes_on = asyncio.Event()
        self.under_way: dict[str, int] = {}
        self.pulse = Pulse(self.probe, 10, 0.01, lambda: self.now_s, lambda: dict(self.under_way))

    async def probe(self) -> None:
        self.num_probes += 1
        self.now_s += 1
        if self.error is not None:
            raise self.error
        if self.gets_on:
            self.pulse.beat()
        if self.hangs:
            await self.goes_on.wait()


async def test_one_that_answers_is_not_probed() -> None:
    engine = Engine()
    for _ in range(5):
        engine.now_s += 9
        engine.pulse.beat()
        engine.now_s += 10
        await engine.pulse.check()
    assert engine.num_probes == 0


async def test_one_that_is_silent_for_long_may_be_at_a_long_answer() -> None:
    engine = Engine()
    for number in range(1, 4):
        engine.now_s += 1000
        await engine.pulse.check()
        await engine.pulse.check()  # it has just shown that it can
        assert engine.num_probes == number


async def test_one_that_generates_nothing_is_stalled() -> None:
    engine = Engine()
    engine.hangs = True
    engine.now_s = 11
    for _ in range(2):
        with pytest.raises(EngineStalled, match="nothing was generated for 1"):
            await engine.pulse.check()
    assert engine.num_probes == 1  # the second one was told at once
    engine.goes_on.set()
    await asyncio.sleep(0)
    await engine.pulse.check()


async def test_a_probe_that_has_to_wait_for_others_says_nothing() -> None:
    engine = Engine()
    engine.hangs = engine.gets_on = True
    engine.now_s = 11
    await engine.pulse.check()
    for _ in range(3):  # and goes on to wait
        engine.now_s += 5
        engine.pulse.beat()
        await engine.pulse.check()
    engine.now_s += 5
    with pytest.raises(EngineStalled):
        await engine.pulse.check()
    assert engine.num_probes == 1


async def test_one_that_gets_on_with_whole_answers_is_not_probed() -> None:
    engine = Engine()
    engine.hangs = True  # it would have to wait behind them
    for num_tokens in range(1, 5):
        engine.under_way = {"one": 7, "other": num_tokens}
        engine.now_s += 11
        await engine.pulse.check()
    assert engine.num_probes == 0


async def test_callers_that_come_and_go_do_not_show_that_it_generates() -> None:
    engine = Engine()
    engine.hangs = True
    engine.under_way = {"one": 7, "other": 3}
    await engine.pulse.check()
    engine.now_s += 11
    engine.under_way = {"other": 3, "new": 0}
    with pytest.raises(EngineStalled):
        await engine.pulse.check()
    assert engine.num_probes == 1


async def test_a_probe_that_fails_tells_why() -> None:
    engine = Engine()
    engine.error = EngineStalled("status 500")
    engine.now_s = 11
    with pytest.raises(EngineStalled, match="status 500"):
        await engine.pulse.check()
