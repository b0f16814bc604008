"""What every flow needs: the workspace, the ledger, a voice, and the identity of this code."""

import fcntl
import getpass
import hashlib
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import ray

import rayapp
from rayapp.config.load import ConfigT, load
from rayapp.data.read import speak_only_of_trouble
from rayapp.errors import Unavailable
from rayapp.ledger import Ledger
from rayapp.schemas.record import canonical_json
from rayapp.storage import Workspace, commit_bytes, sha256

TELL_EVERY_S = 10
STAGE_ROOMS = {
    "snapshot": ("data",),
    "tune": ("data", "families", "train", "tune"),
    "train": ("data", "families", "train"),
    "evaluate": ("data", "families", "evaluate"),
}
"""The rooms whose code decides a stage's result, besides the floor that all stand on."""
_FLOOR = ("schemas", "storage.py", "transforms.py")
_OF_JOB = " of job "
_NAME_AND_VERSION = re.compile(r"^(Name|Version):[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_MODEL_LIBRARIES = ("numpy", "pyarrow", "torch", "xgboost", "xgboost-cpu")
STAGE_LIBRARIES = {
    "snapshot": ("deltalake", "numpy", "pandas", "pyarrow"),
    "tune": (*_MODEL_LIBRARIES, "optuna"),
    "train": _MODEL_LIBRARIES,
    "evaluate": (*_MODEL_LIBRARIES, "scipy"),
}
"""The libraries that compute a stage's result: with another version of one of them the stage runs
again. Any other package may come and go."""


@dataclass(frozen=True)
class Session:
    """say: shows one line to whoever watches the job. environ: the job's environment.
    dashboard_url: the cluster's, once connected to one that has a dashboard."""

    workspace: Workspace
    ledger: Ledger
    say: Callable[[str], None]
    environ: Mapping[str, str]
    code_digest: str
    environment_digest: str
    dashboard_url: str | None = None

    def key(self, stage: str, *inputs: Any) -> str:
        """Names a piece of work by everything that decides its result, its own code and libraries
        included: a change to the gateway trains nothing again."""
        code, libraries = code_digest(STAGE_ROOMS[stage]), installed(STAGE_LIBRARIES[stage])
        return sha256(canonical_json([stage, code, libraries, *inputs]))

    def load(self, cls: type[ConfigT], path: str) -> ConfigT:
        """A config that another one names, under the same environment overlay as that one."""
        return load(cls, path, environment=self.environ.get("RAYAPP_ENVIRONMENT"))

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold `name` while the block runs; released by the operating system if this process dies.

        Raises Unavailable at once when another process on this node holds it. (Job drivers run on
        the head node; what must hold across nodes is decided by the ledger's compare-and-set.)
        """
        folder = self.workspace.local / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise _held(name, file.read().strip()) from None
            file.truncate(0)
            file.write(_who(self.environ))
            file.flush()
            yield


def _who(environ: Mapping[str, str]) -> str:
    """This process, and the job that it is the driver of."""
    job = _job(environ)
    return f"process {os.getpid()}{'' if job is None else f'{_OF_JOB}{job}'}"


def _held(name: str, holder: str) -> Unavailable:
    """holder: as `_who` has it; empty where that is not written yet."""
    _, _, job = holder.partition(_OF_JOB)
    stop = f'stop that job: eval "$(rayapp env)" && ray job stop {job}' if job else "end that one"
    return Unavailable(
        f"{name} is being worked on by {holder or 'another process'}",
        f"run this again once it has finished, or {stop}",
    )


def _job(environ: Mapping[str, str]) -> str | None:
    """The submission id of the job whose driver has this environment; None outside one."""
    told = json.loads(environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    job: str | None = told.get("metadata", {}).get("job_submission_id")
    return job


def now_and_then(
    tell: Callable[[int], None], clock_s: Callable[[], float] = time.monotonic
) -> Callable[[int], None]:
    """Tells how many are done, not more often than people read."""
    told_s = clock_s()

    def told(done: int) -> None:
        nonlocal told_s
        if clock_s() - told_s >= TELL_EVERY_S:
            told_s = clock_s()
            tell(done)

    return told


def open_session(environ: Mapping[str, str], say: Callable[[str], None]) -> Session:
    workspace = Workspace.from_environment(environ)
    actor = f"{getpass.getuser()}@{socket.gethostname()}"
    lock = environment_lock()
    digest = sha256(lock)
    commit_bytes(f"{workspace.artifact('environments', digest)}/lock.txt", lock)
    return Session(
        workspace=workspace,
        ledger=Ledger.of(workspace, actor),
        say=say,
        environ=environ,
        code_digest=code_digest(),
        environment_digest=digest,
    )


def code_digest(rooms: Sequence[str] | None = None) -> str:
    """SHA-256 over the Python files of the package, or of some of its rooms and the floor: the code
    that ran, whatever git says."""
    root = Path(rayapp.__file__).parent
    wanted = ("",) if rooms is None else (*_FLOOR, *rooms)
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith(wanted):
            whole.update(name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def environment_lock() -> bytes:
    """`name==version` of every installed distribution, one a line, sorted."""
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        # `distribution.metadata` parses all of it, the description too, at each access.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        known = dict(reversed(_NAME_AND_VERSION.findall(text.partition("\n\n")[0])))
        versions.setdefault(known["Name"].lower(), known["Version"])
    return "".join(f"{name}=={versions[name]}\n" for name in sorted(versions)).encode()


def installed(names: Sequence[str]) -> list[str]:
    """`name==version` of those that are installed."""
    found = []
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name}=={metadata.version(name)}")
    return found


def connect(session: Session) -> Session:
    """Join the cluster that this job was submitted to; outside a job, start one of our own.

    A bare ray.init() would join whatever cluster it finds on the machine. Workers are told the
    address too: Ray Train asks for its cluster from within them, and would find others. What
    workers print stays in their logs (the dashboard shows them); the terminal belongs to `say`.
    """
    address = session.environ.get("RAY_ADDRESS") or "local"
    variables = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    if address != "local":
        variables["RAY_ADDRESS"] = address
    speak_only_of_trouble()
    context = ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.WARNING,
        runtime_env={"env_vars": variables},
    )
    return replace(session, dashboard_url=dashboard_url(session.environ, context.dashboard_url))


def dashboard_url(environ: Mapping[str, str], host: str | None) -> str | None:
    """host: what Ray tells. A head that was started again at another port tells the old one, which
    its store has kept, so the environment of our heads comes first."""
    return environ.get("RAY_DASHBOARD_ADDRESS") or (f"http://{host}" if host else None)
