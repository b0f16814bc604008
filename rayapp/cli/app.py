"""The command line: names, arguments and help. What a command does is in the module it calls."""

import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table

from rayapp.cli.asking import ask
from rayapp.cli.audited import show_audit
from rayapp.cli.flags import flags_app
from rayapp.cli.keys import keys_app
from rayapp.cli.last_screen import first_chat, summary
from rayapp.cli.plan import plan
from rayapp.cli.releases import releases
from rayapp.cli.terminal import (
    Json,
    emit_json,
    readable,
    show_folded,
    show_next,
    show_pairs,
    show_problems,
    to_caller,
    to_person,
    waiting,
)
from rayapp.errors import RayappError, UserError

if TYPE_CHECKING:
    from rayapp.storage import Workspace

_MAX_WINDOW_DAYS = 36_500
app = App(
    name="rayapp",
    help="""From raw data to a gated, signed, served release on Ray.

    A first round, from the project's directory:

    * `rayapp doctor`: is this machine fit for it?
    * `rayapp up`: start a local Ray head with dashboard and token
    * `rayapp submit configs/golden_paths/flight_delay.yaml`: data to endpoint, as one Ray job
    * `rayapp ask flight-delay`: send real rows to the endpoint
    * `rayapp ask MODEL "question"`: ask a language model, once one is served
    * `rayapp explain REQUEST_ID`: from one answer back to release, run, snapshot and contract
    * `rayapp down`: stop what `up` started

    State is kept in the workspace: RAYAPP_WORKSPACE, by default ~/.rayapp.
    """,
    version_flags=["--version"],
    result_action="return_value",
    help_format="markdown",
)
audit_app = App(name="audit", help="Check that what the ledger says is what is there.")
app.command(audit_app)
app.command(keys_app)
app.command(flags_app)
app.command(releases)
app.command(plan)
app.command(ask)
app.command(summary, show=False)
app.command(first_chat, show=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 ok, 1 away, busy or broken, 2 the input is wrong, 3 refused; for submit the
    job's own."""
    try:
        result = app(
            list(sys.argv[1:] if arguments is None else arguments),
            exit_on_error=False,
            error_console=Console(stderr=True),
        )
    except CycloptsError:
        return 2  # cyclopts has printed what is wrong
    except RayappError as error:
        to_person().print(f"error: {error}", markup=False)
        return error.exit_code
    return result if isinstance(result, int) else 0


@app.command
def up(
    *,
    num_cpus: Annotated[int | None, Parameter(help="CPUs the head offers; default all.")] = None,
    num_gpus: Annotated[int | None, Parameter(help="GPUs the head offers; default all.")] = None,
    json: Json = False,
) -> None:
    """Start this workspace's local Ray head, or find it running.

    The dashboard listens on RAYAPP_DASHBOARD_PORT (8265), endpoints on RAYAPP_HTTP_PORT (8000) and,
    where a serving config wants gRPC, RAYAPP_GRPC_PORT (its port).
    Other Ray clusters on this machine are neither joined nor disturbed.
    """
    from rayapp.cli.head import start
    from rayapp.ledger import Ledger
    from rayapp.release.promote import champions

    asked = {"--num-cpus": num_cpus, "--num-gpus": num_gpus}
    _check_between("--num-cpus", num_cpus, 1)
    _check_between("--num-gpus", num_gpus, 0)
    resources = [f"{flag}={number}" for flag, number in asked.items() if number is not None]
    began_s = time.monotonic()
    workspace = _workspace()
    with waiting("looking for the Ray head") as say:
        head, is_new = start(workspace, os.environ, resources, say)
    if json:
        emit_json(head.model_dump(mode="json") | {"is_new": is_new})
        return
    known = sorted(champions(Ledger.of(workspace, "rayapp up")))
    how = f"is up ({time.monotonic() - began_s:.0f} s)" if is_new else "was up already"
    show_pairs(
        f"The Ray head {how}.",
        {
            "dashboard": f"{head.dashboard_url}  (it asks for the token in {head.token_path})",
            "endpoints": f"{head.endpoint_url}  (what was deployed before comes back by itself)",
            "workspace": head.workspace,
            "logs": f"{head.temp_dir}/session_latest/logs",
            "stock tools": 'eval "$(rayapp env)"  lets `ray job` and `serve` speak to this head',
            "next": f"rayapp ask {known[0]}"
            if known
            else "rayapp submit configs/golden_paths/flight_delay.yaml",
        },
    )


@app.command
def down(*, json: Json = False) -> None:
    """Stop this workspace's head and everything it started, and nothing else.

    Jobs and the endpoint are remembered: the next `rayapp up` brings the endpoint back.
    """
    from rayapp.cli.head import stop

    workspace = _workspace()
    with waiting("stopping the Ray head") as say:
        head = stop(workspace, say)
    if json:
        emit_json({"was_running": head is not None, "workspace": workspace.uri})
    elif head is None:
        to_caller().print(f"No Ray head was running for workspace {workspace.uri}.", markup=False)
    else:
        to_caller().print(f"The Ray head (process {head.pid}) is down.", markup=False)


@app.command
def env(*, json: Json = False) -> None:
    """Print the variables that let stock tools speak to this head.

    * `eval "$(rayapp env)"`
    * `ray job submit --working-dir . -- python -m jobs.train configs/training/NAME.yaml`
    * `serve status`
    """
    import shlex

    from rayapp.cli.head_state import client_environment, running_head

    variables = client_environment(running_head(_workspace()))
    if json:
        emit_json(variables)
        return
    for name, value in variables.items():
        to_caller().print(f"export {name}={shlex.quote(value)}", markup=False)


@app.command
def submit(
    config: Annotated[str, Parameter(help="A YAML file below configs/.")],
    *overrides: Annotated[str, Parameter(help="key=value, for example workers.num_workers=2.")],
    job: Annotated[str | None, Parameter(help="Which job; default by the folder.")] = None,
    environment: Annotated[
        str | None, Parameter(help="An overlay of configs/environments/, for example gpu.")
    ] = None,
    json: Json = False,
) -> int:
    """Run a config as a Ray job, show its log, and exit with the job's own exit code.

    * `rayapp submit configs/training/flight_delay_trees.yaml tabular.num_rounds=50`
    * `rayapp submit configs/training/flight_delay_neural.yaml --environment gpu`
    * `rayapp submit configs/releases/flight_delay_trees.yaml --job evaluate`

    The config and every file that it leads to are checked here first. Ctrl-C stops the job. With
    --json the log goes to stderr.
    """
    from pathlib import Path

    from rayapp.cli.job_choice import CONFIG_OF_JOB, choose_job, next_commands, path_in
    from rayapp.config.load import load, read_yaml

    path_in(Path.cwd(), config)
    chosen = choose_job(config, read_yaml(config)[0], job)
    environ = dict(os.environ)
    if environment is not None:
        environ["RAYAPP_ENVIRONMENT"] = environment
    workspace = _introduce_to_head()
    overlay = environ.get("RAYAPP_ENVIRONMENT")
    checked = load(CONFIG_OF_JOB[chosen], config, overrides, overlay)
    from rayapp.flows.references import check_references

    check_references(checked, config, overlay, workspace)
    from rayapp.cli import submit as submitting

    outcome = submitting.submit(
        chosen,
        config,
        overrides,
        environ,
        _jobs_address(environ),
        submitting.show_on("stderr" if json else "stdout"),
        _workspace(),
    )
    if json:
        emit_json(vars(outcome))
        return outcome.exit_code
    if outcome.figures:
        shown = {name: value for name, value in outcome.figures.items() if name != "problems"}
        show_pairs(f"\njob {outcome.submission_id}", readable(shown))
    if outcome.exit_code == 0:
        show_problems(outcome.figures.get("problems", ()))
        show_next(next_commands(chosen, config, outcome.figures))
    else:
        to_person().print(
            f"job {outcome.submission_id} {outcome.status} with exit code {outcome.exit_code}",
            markup=False,
        )
    return outcome.exit_code


@app.command
def spending(*, json: Json = False) -> None:
    """What each tenant has spent of its budgets, in money and in tokens, by accounts and by logs.

    `lent` is in the hands of gateways, which return what they do not spend of it within seconds.
    Once nothing is lent and the log is committed, `spent` and `logged` are equal. In JSON they are
    whole numbers of `unit`: nano_usd, that is billionths of a dollar, or tokens.
    """
    from rayapp.cli.spending import show, spending_of

    found = spending_of(_workspace())
    if json:
        emit_json([vars(one) for one in found])
    else:
        show(found)


@audit_app.command
def verify(*, json: Json = False) -> int:
    """Check the ledger's chain and every artefact that it names, byte by byte.

    Names the first altered, missing or inserted event, and each manifest, model or data file that
    is not what was recorded. Exit code 3 when there is a finding.
    """
    from rayapp.flows.operations import audit_workspace

    with waiting("verifying the ledger and the artefacts"):
        found = audit_workspace(_workspace())
    if json:
        emit_json(found.model_dump(mode="json"))
    else:
        show_audit(found)
    return 3 if found.problems else 0


@app.command
def explain(request_id: str, *, json: Json = False) -> None:
    """Walk from one answer to its release, run, snapshot and contracts; of a language model's, to
    what it was asked, cost, and the weights. What a shadow made of it is beneath the answer.

    REQUEST_ID is the x-request-id header of the answer.
    """
    from rayapp.flows.operations import explain_request
    from rayapp.govern.explain import Explanation, render_explanation
    from rayapp.govern.explain_language import render_answers

    explanation = explain_request(_workspace(), request_id)
    if json:
        emit_json(explanation.model_dump(mode="json"))
    elif isinstance(explanation, Explanation):
        show_folded(render_explanation(explanation))
    else:
        show_folded(render_answers(explanation))


@app.command
def kpis(
    *,
    window_days: Annotated[int, Parameter(help="How far back to look.")] = 30,
    json: Json = False,
) -> None:
    """Figures that the ledger supports, and what is missing for the others."""
    from rayapp.flows.operations import kpis as compute
    from rayapp.operate.kpis import render_kpis

    _check_between("--window-days", window_days, 1, _MAX_WINDOW_DAYS)
    figures = compute(_workspace(), datetime.now(UTC), window_days)
    if json:
        emit_json([figure.model_dump(mode="json") for figure in figures])
    else:
        show_folded(render_kpis(figures))


@app.command
def doctor(*, json: Json = False) -> int:
    """Check Python, packages, memory, disk, ports, workspace and head; say what would mend each.

    Exit code 2 when something must be mended first; a warning is not such a thing.
    """
    from rayapp.cli.doctor import examine

    findings = examine(os.environ)
    if json:
        emit_json([vars(finding) for finding in findings])
    colours = {"ok": "green", "warning": "yellow", "problem": "red"}
    table = Table("", "check", "found", "to do", box=None)
    for f in findings:
        table.add_row(f"[{colours[f.state]}]{f.state}[/]", f.check, f.what, f.advice)
    if not json:
        show_folded(table)
    return 2 if any(finding.state == "problem" for finding in findings) else 0


def _check_between(flag: str, number: int | None, least: int, most: int | None = None) -> None:
    """Raises UserError."""
    if number is not None and (number < least or (most is not None and number > most)):
        limit = f"{least} or more" if most is None else f"from {least} to {most}"
        raise UserError(f"{flag} is {number}, must be {limit}", f"correct {flag}, or leave it out")


def _workspace() -> "Workspace":
    from rayapp.storage import Workspace

    return Workspace.from_environment(os.environ)


def _jobs_address(environ: dict[str, str]) -> str:
    """The local head's Jobs API; without one, the cluster that RAY_API_SERVER_ADDRESS names."""
    from rayapp.cli.head_state import is_alive, read_head, running_head

    workspace = _workspace()
    head = read_head(workspace)
    remote = environ.get("RAY_API_SERVER_ADDRESS")
    if remote and (head is None or not is_alive(head)):
        return remote
    return running_head(workspace).dashboard_url


def _introduce_to_head() -> "Workspace | None":
    """Ray takes its credentials from the environment when it is first imported, which the check of
    a serving config does. Returns the workspace of the head's jobs; None where there is no head, as
    another cluster's jobs may have another."""
    from rayapp.cli.head_state import client_environment, is_alive, read_head

    workspace = _workspace()
    head = read_head(workspace)
    if head is None or not is_alive(head):
        return None
    os.environ.update(client_environment(head))
    return workspace
