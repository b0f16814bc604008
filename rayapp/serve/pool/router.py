"""Which replica of a pool gets a request: one that holds the model, else the model's home.

A model's home is a replica by rendezvous hashing (D. Thaler and C. Ravishankar, 1998): every
gateway finds the same one without asking anybody, and when a replica comes or goes, only the models
at home there move. So a model that nobody holds is loaded once, not once for each gateway.
"""

import hashlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from rayapp.shelf import HELD


@lru_cache(maxsize=16384)
def _weight(model_id: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{model_id}\n{replica}".encode(), digest_size=8).digest()


def ranks(model_id: str, held: Mapping[str, AbstractSet[str]]) -> list[list[str]]:
    """Replicas in the order in which they should be tried, equals together. held: replica → the
    models that it holds."""
    warm = [replica for replica, models in held.items() if model_id in models]
    cold = [replica for replica in held if model_id not in held[replica]]
    cold.sort(key=lambda replica: _weight(model_id, replica), reverse=True)
    return [group for group in (warm, cold[:1], cold[1:]) if group]


class ModelRouter(RequestRouter):
    """Ray Serve takes, of the first rank where one has room, the replica with the fewest requests;
    its own multiplexing sends a request for a model that no replica holds to whichever has the
    fewest models, so that each gateway may load it somewhere else."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        model_id = pending_request.metadata.multiplexed_model_id if pending_request else ""
        if not model_id:
            return [candidate_replicas]
        replicas = {r.replica_id.unique_id: r for r in candidate_replicas}
        held = {name: frozenset(_held(replica)) for name, replica in replicas.items()}
        return [[replicas[name] for name in group] for group in ranks(model_id, held)]


def _held(replica: RunningReplica) -> list[str]:
    found: list[str] = replica.routing_stats.get(HELD, [])
    return found
