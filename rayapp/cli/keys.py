"""`rayapp keys`: the API keys of the endpoints' callers."""

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from rich.table import Table

from rayapp.cli.own_ledger import own_ledger
from rayapp.cli.terminal import Json, emit_json, show_folded, show_next, show_pairs, to_caller

if TYPE_CHECKING:
    from rayapp.schemas.traffic import ApiKey

keys_app = App(name="keys", help="API keys of the endpoints' callers, tenant by tenant.")


@keys_app.command
def create(
    tenant: str,
    *,
    role: Annotated[
        Literal["caller", "reader"], Parameter(help="reader may only look.")
    ] = "caller",
    json: Json = False,
) -> None:
    """Make a key for TENANT and tell it, once. Gateways know it within a second."""
    from rayapp.govern.keys import create_key

    _print_key(*create_key(own_ledger(), tenant, role), json)


@keys_app.command(name="list")
def list_(*, json: Json = False) -> None:
    """All keys there are and were; their secrets are not kept anywhere."""
    from rayapp.govern.keys import list_keys

    keys = list_keys(own_ledger())
    if json:
        emit_json([key.model_dump(exclude={"secret_sha256"}) for key in keys])
        return
    if not keys:
        to_caller().print("no key was made yet")
        show_next(["rayapp keys create TENANT"])
        return
    table = Table("key", "tenant", "role", "state", box=None)
    for key in keys:
        table.add_row(key.key_id, key.tenant, key.role, "revoked" if key.is_revoked else "valid")
    show_folded(table)


@keys_app.command
def rotate(
    key_id: str,
    *,
    keep_old: Annotated[bool, Parameter(help="Revoke the old one later, by hand.")] = False,
    json: Json = False,
) -> None:
    """Make another key for the same tenant and role, and revoke this one."""
    from rayapp.govern.keys import rotate_key

    rotated = rotate_key(own_ledger(), key_id, keep_old)
    _print_key(rotated.text, rotated.key, json)
    if rotated.failure is not None:
        raise rotated.failure


@keys_app.command
def revoke(key_id: str, *, json: Json = False) -> None:
    """End a key. Gateways refuse it within a second."""
    from rayapp.govern.keys import revoke_key

    key = revoke_key(own_ledger(), key_id)
    if json:
        emit_json(key.model_dump(exclude={"secret_sha256"}))
    else:
        to_caller().print(f"Key {key.key_id} of {key.tenant} is revoked.", markup=False)


def _print_key(text: str, key: "ApiKey", json: bool) -> None:
    if json:
        emit_json({"key": text, **key.model_dump(exclude={"secret_sha256"})})
        return
    pairs = {"key": text, "tenant": key.tenant, "role": key.role}
    show_pairs("Keep it now, it is not told again.", pairs)
    asks = ["rayapp ask ENDPOINT", 'rayapp ask MODEL "question"']
    show_next(["export RAYAPP_API_KEY=…", *asks])
