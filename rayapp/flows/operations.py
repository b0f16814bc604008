"""Questions to the workspace: is it what was recorded, why this answer, how are we doing."""

from datetime import datetime
from functools import partial

from rayapp.data.delta import recomputed_digest
from rayapp.govern.audit import Audit, audit
from rayapp.govern.explain import Explanation, explain
from rayapp.govern.explain_language import ModelExplanation, explain_answers
from rayapp.ledger import Ledger
from rayapp.observe.predictions import find_predictions
from rayapp.observe.prompts import find_prompts
from rayapp.operate.kpis import Kpi, compute_kpis
from rayapp.schemas.traffic import is_shadows
from rayapp.storage import Workspace


def audit_workspace(workspace: Workspace) -> Audit:
    """Everything the ledger names, checked against the bytes that are there."""
    return audit(Ledger.of(workspace, "audit"), workspace, recomputed_digest)


def explain_request(workspace: Workspace, request_id: str) -> Explanation | ModelExplanation:
    """Of rows, or of what a language model answered. Raises what `explain` does."""
    ledger = Ledger.of(workspace, "explain")
    parts = find_prompts(workspace, request_id, with_shadows=True)
    if any(not is_shadows(part.endpoint) for part in parts):
        return explain_answers(request_id, parts, ledger, workspace)
    find = partial(find_predictions, workspace, with_shadows=True)
    return explain(request_id, find, ledger, workspace)


def kpis(workspace: Workspace, now: datetime, window_days: int = 30) -> tuple[Kpi, ...]:
    events = Ledger.of(workspace, "kpis").events()
    return compute_kpis(events, now, window_days)
