"""A workspace with releases, for gateways on Ray Serve."""

import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
from serving_case import ENDPOINT, ROW, seal_release

from rayapp.families.bundle import Bundle
from rayapp.ledger import Ledger
from rayapp.release.promote import champion_pointer, promote
from rayapp.schemas.release import SignedManifest
from rayapp.storage import Workspace

SCORE = f"/endpoints/{ENDPOINT}/invocations"
RECORDS = {"dataframe_records": [ROW]}


class Served:
    """Two sealed releases, and where the gateway that answers from them listens."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(str(folder / "workspace"))
        Path(self.workspace.uri).mkdir()
        self.ledger = Ledger.of(self.workspace, "test")
        self.releases = [seal_release(self.workspace, folder / str(seed), seed) for seed in (1, 2)]
        self.port, self.grpc_port = _free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"

    def bundle(self, number: int) -> Bundle:
        return Bundle.open(Path(self.releases[number].manifest.bundle.uri))

    def promote(self, signed: SignedManifest) -> None:
        pointer = self.ledger.pointer(champion_pointer(ENDPOINT))
        promote(self.ledger, signed, pointer.revision if pointer else 0)

    def release(self) -> str | None:
        found: str | None = httpx.get(f"{self.url}/v2").headers.get("x-release")
        return found


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in free]
