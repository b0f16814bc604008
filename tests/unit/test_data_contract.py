"""Contract files: what is read from them, and how mistakes in them are told."""

from pathlib import Path

import pytest

from rayapp.data.contract import load_contract
from rayapp.errors import ContractError

GOOD = """
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 2.0.0
status: active
team: {name: shop}
slaProperties: [{property: freshness, value: 2, unit: d, element: orders.placed_at}]
schema:
  - name: orders
    logicalType: object
    properties:
      - {name: order_id, logicalType: string, primaryKey: true}
      - name: amount
        logicalType: number
        required: true
        logicalTypeOptions: {minimum: 0, maximum: 1000}
      - name: channel
        logicalType: string
        quality: [{metric: invalidValues, arguments: {validValues: [web, shop]}, mustBe: 0}]
      - {name: customer, logicalType: string, relationships: [{to: customers.id}]}
      - {name: email, logicalType: string, classification: restricted, unique: true}
      - name: returned
        logicalType: boolean
        customProperties: [{property: knownAt, value: outcome}]
      - {name: placed_at, logicalType: timestamp, required: true}
    quality:
      - {type: custom, engine: rayapp, name: web_has_email,
         implementation: "channel != 'web' or not is_null(email)"}
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "orders.odcs.yaml"
    path.write_text(text)
    return path


def test_reads_everything_it_enforces(tmp_path: Path) -> None:
    contract = load_contract(_write(tmp_path, GOOD))
    columns = {c.name: c for c in contract.columns}
    assert contract.owner == "shop"
    assert (contract.ref.id, contract.ref.version) == ("orders", "2.0.0")
    assert (columns["amount"].minimum, columns["amount"].maximum) == (0, 1000)
    assert not columns["amount"].nullable
    assert not columns["order_id"].nullable
    assert columns["channel"].allowed == ("web", "shop")
    assert columns["returned"].known_at == "outcome"
    assert columns["email"].classification == "restricted"
    assert contract.references == {"customer": ("customers", "id")}
    assert contract.unique == (("order_id",), ("email",))
    assert (contract.freshness_h, contract.event_time) == (48, "placed_at")
    assert [r.name for r in contract.rules] == ["web_has_email"]


def test_comments_do_not_change_the_digest(tmp_path: Path) -> None:
    before = load_contract(_write(tmp_path, GOOD)).ref.digest
    assert load_contract(_write(tmp_path, "# hello\n" + GOOD)).ref.digest == before
    assert load_contract(_write(tmp_path, GOOD.replace("1000", "999"))).ref.digest != before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("primaryKey: true", "primaryKeyy: true", "did you mean 'primaryKey'"),
        ("required: true\n", "requiredd: true\n", "line 16"),
        ("logicalType: number", "logicalType: numbr", "did you mean 'number'"),
        (
            "{name: customer, logicalType: string,",
            "{name: customer, logicalType: array,",
            "not one of",
        ),
        ("type: custom", "type: weird", "weird"),
        ("minimum: 0,", "multipleOf: 2,", "multipleOf is not enforced"),
        ("metric: invalidValues", "metric: rowCount", "rowCount"),
        (
            "minimum: 0, maximum: 1000}",
            "minimum: 0}\n        quality: [{metric: invalidValues, "
            "arguments: {pattern: '[0-9]+'}, mustBe: 0}]",
            "a pattern is for string, not number",
        ),
        ("mustBe: 0", "mustBeLessThan: 3", "mustBe: 0"),
        ("value: outcome", "value: later", "'later'"),
        ("not is_null(email)", "not is_null(emial)", "emial"),
        ("channel != 'web' or not is_null(email)", "amount + 1", "boolean"),
        ("unit: d", "unit: fortnight", "fortnight"),
        ("element: orders.placed_at", "element: orders.placed", "placed_at"),
        ("to: customers.id", "to: [customers.id, customers.b]", "not one table.column"),
        ("kind: DataContract", "kind: [", "not valid YAML"),
        ("minimum: 0,", "minimum: 2000,", "minimum 2000 is over maximum 1000"),
        ("schema:", "schemas:", "did you mean 'schema'"),
        ("name: amount", "name: the amount", "name: the_amount, physicalName: 'the amount'"),
        ("name: amount", "name: class", "name: c_class, physicalName: 'class'"),
        ("name: amount", "name: 2ndFloor", "name: c_2ndFloor, physicalName: '2ndFloor'"),
        ("name: amount", "name: amount\n        physicalName: channel", "column 'channel'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    path = _write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ContractError) as error:
        load_contract(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="cannot be read"):
        load_contract(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(Path("configs/contracts").glob("*.odcs.yaml")), ids=str)
def test_our_contracts_load(path: Path) -> None:
    contract = load_contract(path)
    assert contract.owner
    assert contract.unique
