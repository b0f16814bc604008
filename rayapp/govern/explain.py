"""From one answered request back to the release, the run and the data that it came from."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TypeVar

from pydantic import ValidationError
from rich.tree import Tree

from rayapp.errors import TamperedError, UserError, WorkspaceError
from rayapp.govern.seals import seal_problem, trusted_keys
from rayapp.ledger import Ledger
from rayapp.schemas.data import Snapshot, TableVersion
from rayapp.schemas.language import PromptRecord
from rayapp.schemas.model import Run
from rayapp.schemas.operations import OTHER_VERSION, EventKind
from rayapp.schemas.record import Record, mismatch, short
from rayapp.schemas.release import SignedManifest, Verdict
from rayapp.schemas.traffic import NANO, SHADOW, STATIC, PredictionRecord, is_shadows
from rayapp.storage import Workspace, read_bytes

FoundT = TypeVar("FoundT")


class Provenance(Record):
    """One release that answered, and where it came from.

    seal_problem: what is wrong with the manifest, or None when digest and signature fit.
    promoted_at: when it last became the champion; None when it never did.
    is_champion: it answers at its endpoint now. run and snapshot: None when not in the ledger.
    """

    release_id: str
    signed: SignedManifest
    seal_problem: str | None
    promoted_at: datetime | None
    is_champion: bool
    run: Run | None
    snapshot: Snapshot | None


class Explanation(Record):
    """predictions: the request's rows in order. releases: those that answered, first use first, and
    after them those of shadows, as far as they can be read. declared_classes: whose scores a
    declared answer has, which no release gave; none of a regression, or where nothing is known of a
    champion. shadows: what they made of the rows, which nobody got."""

    request_id: str
    predictions: tuple[PredictionRecord, ...]
    releases: tuple[Provenance, ...]
    declared_classes: tuple[str, ...] = ()
    shadows: tuple[PredictionRecord, ...] = ()


def explain(
    request_id: str,
    find_prediction: Callable[[str], list[PredictionRecord]],
    ledger: Ledger,
    workspace: Workspace,
) -> Explanation:
    """find_prediction: what shadows made of a request may be there too. Raises UserError for an id
    that is not known (yet), TamperedError for a manifest that cannot be read, WorkspaceError when
    the manifest is gone."""
    found = sorted(find_prediction(request_id), key=lambda p: p.row)
    predictions = [one for one in found if not is_shadows(one.endpoint)]
    shadows = [one for one in found if is_shadows(one.endpoint)]
    if not predictions:
        raise UserError(
            f"request {request_id!r} is not among the committed predictions and answers",
            "they are committed every few seconds: try again, or check the id",
        )
    read = partial(provenance, ledger=ledger, workspace=workspace)
    used = dict.fromkeys(p.release_id for p in predictions if p.release_id != STATIC)
    heard = [s.release_id for s in shadows if s.release_id not in (STATIC, *used)]
    return Explanation(
        request_id=request_id,
        predictions=tuple(predictions),
        releases=(*map(read, used), *readable(heard, read)),
        declared_classes=_declared_classes(predictions, ledger, workspace),
        shadows=tuple(shadows),
    )


def readable(of_shadows: Iterable[str], read: Callable[[str], FoundT]) -> list[FoundT]:
    """What `read` finds of releases, each once. One that cannot be read is left out: whose answer
    nobody got keeps none from being explained."""
    found = []
    for release_id in dict.fromkeys(of_shadows):
        with suppress(TamperedError, WorkspaceError):
            found.append(read(release_id))
    return found


def _declared_classes(
    predictions: Sequence[PredictionRecord], ledger: Ledger, workspace: Workspace
) -> tuple[str, ...]:
    """Of the champion of that time, in whose terms a declared answer is given."""
    declared = next((p for p in predictions if p.release_id == STATIC), None)
    if declared is None:
        return ()
    moves = ledger.events(EventKind.CHAMPION_MOVED, subject=f"champion/{declared.endpoint}")
    before = [move for move in moves if move.at <= declared.at] or moves[:1]
    if not before:
        return ()
    champion = provenance(before[-1].payload["release_id"], ledger, workspace)
    return champion.signed.manifest.bundle.bundle_schema.classes


def provenance(release_id: str, ledger: Ledger, workspace: Workspace) -> Provenance:
    """Raises as `explain` does."""
    uri = f"{workspace.artifact('releases', release_id)}/manifest.json"
    raw = read_bytes(uri)
    problem = seal_problem(raw, trusted_keys(workspace))
    try:
        signed = SignedManifest.parse(raw)
    except ValidationError as error:
        if problem is None:
            raise WorkspaceError(f"{uri}: {mismatch(error)}", OTHER_VERSION) from None
        raise TamperedError(
            f"{uri}: {problem}", "run `rayapp audit verify`; restore it from a backup"
        ) from None
    if problem is None and signed.release_id != release_id:
        problem = f"the manifest is that of {short(signed.release_id)}…"
    manifest = signed.manifest
    moves = ledger.events(EventKind.CHAMPION_MOVED, subject=f"champion/{manifest.endpoint}")
    pointer = ledger.pointer(f"champion/{manifest.endpoint}")
    finished = ledger.latest(EventKind.RUN_FINISHED, subject=manifest.run_id)
    built = ledger.latest(EventKind.SNAPSHOT_BUILT, subject=manifest.snapshot_id)
    return Provenance(
        release_id=release_id,
        signed=signed,
        seal_problem=problem,
        promoted_at=max(
            (e.at for e in moves if e.payload["release_id"] == release_id), default=None
        ),
        is_champion=pointer is not None and pointer.target == release_id,
        run=finished.record(Run, "run") if finished else None,
        snapshot=built.record(Snapshot, "snapshot") if built else None,
    )


def render_explanation(explanation: Explanation) -> Tree:
    """The explanation as a tree for a terminal."""
    tree = Tree(f"request {_plain(explanation.request_id)}")
    classes = {
        release.release_id: release.signed.manifest.bundle.bundle_schema.classes
        for release in explanation.releases
    }
    heard = _shadows_by_answer(explanation)
    rows = list(enumerate(explanation.predictions))

    def add(release_id: str, named: tuple[str, ...]) -> None:
        for number, prediction in rows:
            if prediction.release_id == release_id:
                branch = _add_prediction(tree, prediction, named)
                for shadow in heard[number]:
                    _add_shadow(branch, shadow, classes.get(shadow.release_id, ()))

    add(STATIC, explanation.declared_classes)
    for release in explanation.releases:
        add(release.release_id, classes[release.release_id])
        add_release(tree, release)
    return tree


def _shadows_by_answer(explanation: Explanation) -> Mapping[int, list[PredictionRecord]]:
    """By the number of the prediction: where a caller used an id again, of the last one before."""
    alike: dict[tuple[str, int, str | None], list[int]] = defaultdict(list)
    for number, one in enumerate(explanation.predictions):
        alike[one.endpoint + SHADOW, one.row, one.tenant].append(number)
    found: dict[int, list[PredictionRecord]] = defaultdict(list)
    for shadow in explanation.shadows:
        numbers = alike[shadow.endpoint, shadow.row, shadow.tenant]
        heard = last_before({n: explanation.predictions[n].at for n in numbers}, shadow.at)
        if heard is not None:
            found[heard].append(shadow)
    return found


def last_before(times: Mapping[int, datetime], at: datetime) -> int | None:
    """The number of the last of these that was no later; of them all, where all were."""
    before = [number for number, time in times.items() if time <= at] or times
    return max(before, key=times.__getitem__, default=None)


def _add_shadow(branch: Tree, shadow: PredictionRecord, classes: tuple[str, ...]) -> None:
    degraded = "" if shadow.degraded is None else f", degraded: {shadow.degraded}"
    branch.add(
        _plain(
            f"heard by a shadow, release {short(shadow.release_id)}, whose answer nobody got: "
            f"{_scores(shadow, classes)} ({shadow.latency_ms:.1f} ms{degraded})"
        )
    )


def _scores(prediction: PredictionRecord, classes: tuple[str, ...]) -> str:
    if len(classes) == len(prediction.scores):
        named = zip(classes, prediction.scores, strict=True)
        return ", ".join(f"{name} {score:.4f}" for name, score in named)
    return "score " + ", ".join(f"{score:.4f}" for score in prediction.scores)


def _add_prediction(tree: Tree, prediction: PredictionRecord, classes: tuple[str, ...]) -> Tree:
    unit = f" of {prediction.unit_id}" if prediction.unit_id else ""
    scores = _scores(prediction, classes)
    branch = tree.add(
        _plain(
            f"row {prediction.row}{unit} at {prediction.at:%Y-%m-%d %H:%M:%S %Z}: {scores} "
            f"({prediction.latency_ms:.1f} ms)"
        )
    )
    if prediction.cost_nano_usd is not None:
        branch.add(f"cost: {prediction.cost_nano_usd / NANO:.9f} USD")
    if prediction.tenant is not None:
        branch.add(_plain(f"tenant: {prediction.tenant}"))
    if prediction.degraded is not None:
        who = "declared answer" if prediction.release_id == STATIC else "stand-in"
        branch.add(_plain(f"degraded: {prediction.degraded}, answered by a {who}"))
    if prediction.arm is not None:
        silent = "; it did not answer" if prediction.release_id == STATIC else ""
        branch.add(_plain(arm_line(prediction) + silent))
    if prediction.trace_id is not None:
        branch.add(_plain(f"in trace {prediction.trace_id}"))
    for name, value in prediction.inputs.items():
        branch.add(_plain(f"{name} = {value!r}"))
    return branch


def arm_line(answered: PredictionRecord | PromptRecord) -> str:
    """Which arm, of rules or a split, and how likely that was."""
    if answered.propensity is None or answered.propensity >= 1:
        return f"arm {answered.arm}: where every such request goes"
    share = f"{100 * answered.propensity:.3g}% of such units"
    return f"arm {answered.arm}: unit {answered.unit!r} is on it, as {share} are"


def add_release(tree: Tree, found: Provenance) -> None:
    """A branch of what is known of a release."""
    signed, manifest = found.signed, found.signed.manifest
    state = "champion now" if found.is_champion else "not the champion now"
    branch = tree.add(_plain(f"release {found.release_id} of {manifest.endpoint}, {state}"))
    if found.seal_problem is None:
        branch.add(f"seal: digest and signature fit (key {signed.key_id})")
    else:
        branch.add(f"[red]seal: {_plain(found.seal_problem)}[/red]")
    promoted = found.promoted_at
    branch.add(f"promoted: {promoted:%Y-%m-%d %H:%M:%S %Z}" if promoted else "promoted: never")
    _add_verdicts(branch, manifest.verdicts)
    branch.add(_plain(f"model card: {manifest.card_uri}"))
    branch.add(_plain(f"evaluation: {manifest.evaluation_uri}"))
    _add_run(branch, found)
    _add_snapshot(branch, found)


def _add_verdicts(branch: Tree, verdicts: tuple[Verdict, ...]) -> None:
    gates = branch.add(f"gates: {sum(v.value == 'pass' for v in verdicts)} of {len(verdicts)} pass")
    for verdict in verdicts:
        gates.add(_plain(f"{verdict.gate}: {verdict.value} - {verdict.reason}"))


def _add_run(branch: Tree, found: Provenance) -> None:
    run, manifest = found.run, found.signed.manifest
    if run is None:
        branch.add(f"[red]run {_plain(manifest.run_id)}: not in the ledger[/red]")
        return
    family = run.bundle.bundle_schema.family
    node = branch.add(_plain(f"run {run.run_id}: {family} on {run.num_rows:,} rows"))
    for name, value in sorted(run.metrics.items()):
        node.add(_plain(f"{name} = {value:.4f}"))
    node.add(f"code {short(run.code_digest)}")
    node.add(f"environment {short(run.environment_digest)}")


def _add_snapshot(branch: Tree, found: Provenance) -> None:
    snapshot, snapshot_id = found.snapshot, found.signed.manifest.snapshot_id
    if snapshot is None:
        branch.add(f"[red]snapshot {short(snapshot_id)}: not in the ledger[/red]")
        return
    node = branch.add(_plain(f"snapshot {snapshot.name} {short(snapshot_id)}"))
    for table in (*snapshot.tables, snapshot.view):
        node.add(_plain(_table_line(table)))


def _table_line(table: TableVersion) -> str:
    contract = table.contract
    promise = f", contract {contract.id} {contract.version}" if contract else ""
    return (
        f"{table.name} version {table.version}: {table.num_rows:,} rows, "
        f"{table.num_quarantined:,} quarantined, digest {short(table.digest)}{promise}"
    )


def _plain(text: str) -> str:
    """Brackets in data are no colour markup."""
    return text.replace("[", "\\[")
