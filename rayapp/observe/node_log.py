"""What one node records: its spools, and their commit to the tables."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from rayapp.errors import WorkspaceError
from rayapp.families.meter import step_back
from rayapp.observe.commit import commit_spool
from rayapp.observe.costs import paid_by
from rayapp.observe.predictions import FEEDBACK, FEEDBACK_TABLE, PREDICTIONS, PREDICTIONS_TABLE
from rayapp.observe.prompts import PROMPTS, PROMPTS_TABLE
from rayapp.observe.spool import Spool
from rayapp.storage import Workspace

_FEEDBACK_SPOOL = "_feedback"  # no endpoint has such a name

OnRepeated = Callable[[Mapping[str, int]], object]


@dataclass(frozen=True)
class Committed:
    """repeated_costs: of rows that were left out, since the table had them, by the loan that paid
    for the repetition, in the loan's unit. refused: by a table that did not take its rows."""

    num_rows: int
    repeated_costs: Mapping[str, int]
    refused: WorkspaceError | None = None


class NodeLog:
    """One replica's writers, and the commit of everything this node has spooled.

    commits_aside: commits run in a process of their own. In a thread they would hold Python's lock
    for a tenth of a second at a time, and every request of the process would wait for it.
    on_repeated: gets what was paid for rows that another replica had recorded, and been paid for,
    already; loan by loan, and again at the next commit where it raises.
    """

    def __init__(
        self,
        workspace: Workspace,
        commits_aside: bool = False,
        on_repeated: OnRepeated = lambda costs: None,
    ) -> None:
        self._workspace = workspace
        self._commits_aside = commits_aside
        self._on_repeated = on_repeated
        self._repeated: Counter[str] = Counter()
        self._aside: ProcessPoolExecutor | None = None
        self._spools: dict[tuple[str, str], Spool] = {}
        self.feedback = Spool(workspace.spool(_FEEDBACK_SPOOL))

    def predictions(self, endpoint: str) -> Spool:
        return self._spool(endpoint, PREDICTIONS_TABLE)

    def prompts(self, endpoint: str) -> Spool:
        return self._spool(endpoint, PROMPTS_TABLE)

    def _spool(self, endpoint: str, table: str) -> Spool:
        found = self._spools.get((endpoint, table))
        if found is None:
            made = Spool(self._workspace.spool(endpoint) / table)
            found = self._spools.setdefault((endpoint, table), made)
        return found

    def commit(self, wait: bool = False) -> int:
        """Rows committed, of live and of dead processes. While another process is at it: 0, or with
        `wait` after it. Raises WorkspaceError once every table was tried."""
        if not self._commits_aside:
            return self._told(commit_node(self._workspace, wait))
        if self._aside is None:
            spawn = get_context("spawn")  # a fork would copy Ray's threads' locks, not the threads
            self._aside = ProcessPoolExecutor(1, spawn, initializer=step_back)
        try:
            return self._told(self._aside.submit(commit_node, self._workspace, wait).result())
        except BrokenProcessPool:
            self._aside = None  # it was killed; the next commit has another
            raise

    def flush(self) -> int:
        """Close this replica's spools and commit, after the process that may be at it."""
        for spool in (self.feedback, *self._spools.values()):
            spool.close()
        if self._aside is not None:
            self._aside.shutdown(cancel_futures=True)
            self._aside = None
        return self._told(commit_node(self._workspace, wait=True))

    def _told(self, committed: Committed) -> int:
        self._repeated.update(committed.repeated_costs)
        for loan_id, cost in list(self._repeated.items()):
            self._on_repeated({loan_id: cost})
            del self._repeated[loan_id]
        if committed.refused is not None:
            raise committed.refused
        return committed.num_rows


def commit_node(workspace: Workspace, wait: bool) -> Committed:
    """Commit everything that this node has spooled, to each table that takes it."""
    feedback = workspace.spool(_FEEDBACK_SPOOL)
    spools = (
        (feedback, FEEDBACK_TABLE, FEEDBACK, "."),
        (feedback.parent, PREDICTIONS_TABLE, PREDICTIONS, f"*/{PREDICTIONS_TABLE}"),
        (feedback.parent, PROMPTS_TABLE, PROMPTS, f"*/{PROMPTS_TABLE}"),
    )
    num_rows, refused = 0, []
    repeated: Counter[str] = Counter()

    def add(rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            for loan_id, amount in paid_by(row):
                repeated[loan_id] += amount

    for folder, name, kind, below in spools:
        table_uri = workspace.table(name)
        try:
            num_rows += commit_spool(folder, table_uri, kind, wait, on_repeated=add, below=below)
        except WorkspaceError as error:  # one table's trouble must not keep the others back
            refused.append(error)
    return Committed(num_rows, repeated, refused[0] if refused else None)
