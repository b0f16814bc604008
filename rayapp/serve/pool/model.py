"""One model in a pool's replica: a release that is opened, and how much it has to do."""

import asyncio
import logging
import time
from dataclasses import dataclass

from rayapp.config.replicas import PoolConfig
from rayapp.errors import Unavailable, public_reason
from rayapp.families.base import Floats
from rayapp.schemas.record import short
from rayapp.serve.batching import Batcher
from rayapp.serve.loading import Store, open_proven
from rayapp.serve.meter import PoolMeter

log = logging.getLogger("rayapp.serve.pool.model")


@dataclass(eq=False)
class Model:
    """busy_s: how long its calls took, all together."""

    batcher: Batcher
    busy_s: float = 0.0
    reported_s: float = 0.0


class Opener:
    """Models of releases, by their ids."""

    def __init__(self, store: Store, config: PoolConfig, meter: PoolMeter) -> None:
        self._store = store
        self._config = config
        self._meter = meter

    async def load(self, release_id: str) -> Model:
        """Raises Unavailable, whatever is wrong with the release: it is not whoever asks that has
        to mend it, and somebody else may answer."""
        start_s = time.monotonic()
        try:
            model = await asyncio.to_thread(self.open, release_id)
        except Unavailable:
            raise
        except Exception as error:
            log.exception("model_not_loaded", extra={"release_id": release_id})
            raise Unavailable(
                f"release {short(release_id)} cannot be loaded: {public_reason(error)}",
                "release another, or roll back; the log of the pool's replicas has more",
            ) from None
        self._meter.load(time.monotonic() - start_s)
        return model

    def open(self, release_id: str) -> Model:
        """Blocks. Raises what `Store` and `open_proven` raise, and what the model's library
        does."""
        manifest = self._store.read(release_id).manifest
        bundle = open_proven(self._store, manifest.bundle)

        def score(x_NF: Floats) -> Floats:
            start_s = time.monotonic()
            try:
                return bundle.score(x_NF)
            finally:
                model.busy_s += time.monotonic() - start_s

        model = Model(
            Batcher(
                score,
                self._config.max_batch_rows,
                self._config.batch_wait_ms,
                lambda num_rows: self._meter.batch(manifest.endpoint, num_rows),
            )
        )
        return model
