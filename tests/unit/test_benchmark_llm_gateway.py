"""The benchmark of the gateway of language models still asks it: by each duty, one whole answer."""

from pathlib import Path

from benchmarks.llm_gateway import DUTIES, Site, asked_at


async def test_each_gateway_that_is_measured_answers(tmp_path: Path) -> None:
    site = Site(tmp_path, num_tokens=3)
    try:
        assert set(await asked_at(site)) == {"plain", "api_key", *DUTIES}
    finally:
        for tracer in site.tracers:
            tracer.close()
