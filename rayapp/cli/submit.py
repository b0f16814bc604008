"""`rayapp submit`: run one config as a Ray job, show its log, and exit with its own exit code."""

import asyncio
import contextlib
import json
import logging
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray._private.runtime_env.packaging import _dir_travel, _get_excludes
from ray.job_submission import JobStatus, JobSubmissionClient
from requests.exceptions import ConnectionError as NotReached  # what Ray's client raises

from rayapp.cli.head_state import is_alive, read_head
from rayapp.cli.job_choice import path_in, require_small, submission_id
from rayapp.errors import Unavailable, UserError
from rayapp.storage import Workspace

# Left out besides what .gitignore and .rayignore name. A job needs code and configs, nothing else.
EXCLUDES = (
    *("/.git/", "/.venv/", "/venv/", "__pycache__/", "*.pyc"),
    *("/.ci/", "/.github/", "/.mypy_cache/", "/.ruff_cache/", "/.pytest_cache/", "/.hypothesis/"),
    *("/tests/", "/docs/", "/benchmarks/", "/scripts/", "/requirements/"),
)

# The job inherits the head's environment, not ours: these are the ones a person sets per command.
_PASSED_ON = ("RAYAPP_ENVIRONMENT", "RAYAPP_LOG_LEVEL")

_INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """How a job ended. exit_code is the driver's own; figures its last line, where it is JSON."""

    submission_id: str
    status: str
    exit_code: int
    message: str
    figures: dict[str, Any]


def submit(
    job: str,
    config: str,
    overrides: Sequence[str],
    environ: Mapping[str, str],
    address: str,
    show: Callable[[str], None],
    workspace: Workspace,
) -> Outcome:
    """Submit `python -m jobs.JOB CONFIG …` from the current directory and follow it to its end.

    address: the Jobs API's URL; its token is taken from RAY_AUTH_TOKEN_PATH. workspace: whose part
    on this machine never travels. The job's last line, its figures, is not shown but returned.
    Ctrl-C stops the job, and so does SIGTERM.
    Raises UserError when the directory is too big or the workspace itself, Unavailable when the API
    cannot be reached.
    """
    logging.disable(logging.WARNING)  # Ray tells of every ignored file, three times over
    working_dir = Path.cwd()
    inside = path_in(working_dir, config)
    require_apart(working_dir, workspace.local)
    excludes = left_out(working_dir, [workspace.local, Path(sys.prefix)])
    require_small(files_that_travel(working_dir, excludes))
    head = read_head(workspace)  # now: `rayapp down` forgets it
    own_address = head.dashboard_url if head is not None and is_alive(head) else None
    try:
        client = JobSubmissionClient(address)
        job_id = client.submit_job(
            entrypoint=shlex.join(["python", "-m", f"jobs.{job}", inside, *overrides]),
            submission_id=submission_id(job, inside, time.time_ns() // 1_000_000),
            runtime_env={
                "working_dir": str(working_dir),
                "excludes": excludes,
                "env_vars": {k: environ[k] for k in _PASSED_ON if k in environ},
            },
            metadata={"job": job, "config": inside},
        )
    except (OSError, RuntimeError) as error:
        raise Unavailable(
            f"the Jobs API at {address} did not take the job: {error}", "look at it: rayapp doctor"
        ) from error
    try:
        return _follow(client, job_id, show)
    except OSError as error:
        raise _lost(address, own_address == address, job_id, error) from error


def _lost(address: str, is_own: bool, job_id: str, error: OSError) -> Unavailable:
    """is_own: the head at the address is the workspace's own, on this machine, so that nothing but
    its end keeps it from being reached."""
    if is_own and isinstance(error, NotReached):
        return Unavailable(
            f"the Ray head at {address} went away while job {job_id} ran, and the job with it",
            "rayapp up, then submit the same again: it resumes",
        )
    why = "it cannot be reached" if isinstance(error, NotReached) else str(error)
    return Unavailable(
        f"lost the Jobs API at {address} while job {job_id} ran: {why}",
        f"the job may go on; see it: ray job logs {job_id}",
    )


def require_apart(working_dir: Path, workspace: Path) -> None:
    """Raises UserError where the workspace, with its keys, is what would travel."""
    if workspace.resolve() == working_dir.resolve():
        raise UserError(
            f"the workspace is the project's own folder ({working_dir}), which travels with every "
            "job, and the workspace's keys with it",
            "give it a folder of its own: export RAYAPP_WORKSPACE=~/.rayapp, and `rayapp up`",
        )


def left_out(working_dir: Path, folders: Iterable[Path]) -> list[str]:
    """EXCLUDES, and those of the folders that lie in the working directory, as .gitignore writes
    them: a workspace holds secrets, an environment gigabytes, wherever people put them."""
    root = working_dir.resolve()
    inside = [one.relative_to(root) for one in map(Path.resolve, folders) if root in one.parents]
    return [*EXCLUDES, *(f"/{one.as_posix()}/" for one in inside)]


def files_that_travel(working_dir: Path, excludes: Sequence[str]) -> dict[str, int]:
    """Bytes of each file that Ray will upload, found by Ray's own rules."""
    sizes: dict[str, int] = {}

    def add(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(working_dir).as_posix()] = path.stat().st_size

    _dir_travel(
        working_dir, [_get_excludes(working_dir, list(excludes))], add, include_gitignore=True
    )
    return sizes


def _follow(client: JobSubmissionClient, job_id: str, show: Callable[[str], None]) -> Outcome:
    lines = _LastLine(show)
    interrupted = False
    # who ends this command means its job: as timeout(1) does it, or a CI system that cancels
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(_tail(client, job_id, lines))
    except KeyboardInterrupt:
        interrupted = True
        show(f"\nstopping job {job_id} …\n")
        if job_id.startswith("deploy-"):
            show("what Serve was given by then goes on: to go back, submit the config before\n")
        client.stop_job(job_id)
        _wait_until_ended(client, job_id)
    finally:
        signal.signal(signal.SIGTERM, before)
        figures = lines.end()  # what is held back is shown even when the API is lost
    info = client.get_job_info(job_id)
    code = info.driver_exit_code
    if interrupted or info.status == JobStatus.STOPPED:
        code = _INTERRUPTED
    elif code is None:
        code = 0 if info.status == JobStatus.SUCCEEDED else 1
    status = JobStatus.STOPPED.value if interrupted else info.status.value
    return Outcome(job_id, status, code, info.message or "", figures)


async def _tail(client: JobSubmissionClient, job_id: str, lines: "_LastLine") -> None:
    """Show the log until the job ends. A connection that breaks is opened again where it broke."""
    while True:
        seen = 0
        with contextlib.suppress(RuntimeError, OSError):  # the dashboard was too busy: tail again
            async for chunk in client.tail_job_logs(job_id):
                new = chunk[max(0, lines.shown - seen) :]
                seen += len(chunk)
                lines.add(new)
        if client.get_job_status(job_id).is_terminal():
            rest = client.get_job_logs(job_id)[lines.shown :]
            lines.add(rest)
            return
        await asyncio.sleep(0.5)


def _wait_until_ended(client: JobSubmissionClient, job_id: str) -> None:
    while not client.get_job_status(job_id).is_terminal():
        time.sleep(0.5)  # the Jobs API has no call that waits


class _LastLine:
    """Passes a log on but for a line of JSON at its end: a job's figures, once nothing follows."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._held = ""
        self._at_line_start = True
        self.shown = 0

    def add(self, text: str) -> None:
        self.shown += len(text)
        for line in text.splitlines(keepends=True):
            if self._held.endswith("\n"):
                self._release()
            if self._held or (self._at_line_start and line.startswith("{")):
                self._held += line
            else:
                self._show(line)
            self._at_line_start = line.endswith("\n")

    def end(self) -> dict[str, Any]:
        """The held line as JSON; empty when the job ended before it printed one."""
        try:
            value = json.loads(self._held)
        except ValueError:
            value = {}
        if not isinstance(value, dict) or not value:
            self._release()
            return {}
        return value

    def _release(self) -> None:
        if self._held:
            self._show(self._held)
        self._held = ""


def show_on(stream_name: str) -> Callable[[str], None]:
    """Write a log as it comes to "stdout" or "stderr"."""
    stream = getattr(sys, stream_name)

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write
