"""`rayapp flags`: the feature flags that rules of endpoints ask."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.markup import escape

from rayapp.cli.own_ledger import own_ledger
from rayapp.cli.terminal import (
    Json,
    emit_json,
    folding_table,
    moment,
    show_folded,
    show_next,
    to_caller,
)

if TYPE_CHECKING:
    from rayapp.config.routing import ConditionConfig, FlagConfig, TargetingConfig

flags_app = App(name="flags", help="Feature flags, which the rules of endpoints ask.")


@flags_app.command
def publish(
    config: Annotated[str, Parameter(help="A YAML file below configs/flags/.")],
    *,
    json: Json = False,
) -> None:
    """Let the flags of a file hold from now on, in place of those of the same set.

    Gateways know them within a second; nothing is deployed anew. The ledger has who did it.
    """
    from rayapp.config.load import load
    from rayapp.config.routing import FlagsConfig
    from rayapp.govern.flags import publish_flags

    flags = load(FlagsConfig, config)
    is_new = publish_flags(own_ledger(), flags)
    if json:
        emit_json({"set": flags.name, "flags": sorted(flags.flags), "is_new": is_new})
        return
    what = f"{len(flags.flags)} flag{'' if len(flags.flags) == 1 else 's'} of {flags.name}"
    how = "published" if is_new else "as they were already"
    to_caller().print(f"{what}: {how}.", markup=False)
    show_next(["rayapp flags show", "rayapp flags history"])


@flags_app.command
def show(*, json: Json = False) -> None:
    """The flags that hold now, and who published them."""
    from rayapp.govern.flags import list_flags

    flags = list_flags(own_ledger())
    if json:
        emit_json([asdict(f) | {"flag": f.flag.model_dump(mode="json")} for f in flags])
        return
    if not flags:
        _show_none("There are no flags.")
        return
    table = folding_table("flag", "by default", "targeting", "set", "published by", "at")
    for f in flags:
        default = f"{f.flag.default} ({f.flag.variants[f.flag.default]!r})"
        cells = (f.name, default, _targeting(f.flag), f.set_name, f.by, moment(f.at))
        table.add_row(*map(escape, cells))
    show_folded(table)


@flags_app.command
def history(*, json: Json = False) -> None:
    """Every publication, newest first, and what it changed."""
    from rayapp.govern.flags import flag_history

    publications = flag_history(own_ledger())
    if json:
        emit_json([asdict(publication) for publication in publications])
        return
    if not publications:
        _show_none("No flags were published yet.")
        return
    table = folding_table("event", "set", "added", "changed", "removed", "published by", "at")
    for p in publications:
        changes = (", ".join(names) for names in (p.added, p.changed, p.removed))
        table.add_row(str(p.sequence), p.set_name, *changes, p.by, moment(p.at))
    show_folded(table)


def _show_none(what: str) -> None:
    to_caller().print(what)
    show_next(["rayapp flags publish configs/flags/NAME.yaml"])


def _targeting(flag: "FlagConfig") -> str:
    if not flag.is_enabled:
        return "disabled: everybody gets the default"
    return "\n".join(_entry(entry) for entry in flag.targeting)


def _entry(entry: "TargetingConfig") -> str:
    given = entry.variant or ", ".join(
        f"{100 * share:.3g}% {variant}" for variant, share in (entry.shares or {}).items()
    )
    return f"{_condition(entry.when)} → {given}"


def _condition(when: "ConditionConfig | None") -> str:
    if when is None:
        return "all"
    parts = [f"tenant {' or '.join(when.tenants)}"] if when.tenants else []
    parts += [f"{name}: {' or '.join(values)}" for name, values in (when.headers or {}).items()]
    return ", ".join(parts)
