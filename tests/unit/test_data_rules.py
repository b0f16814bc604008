"""Text to values, the checks, duplicates across blocks, and the digest."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from rayapp.config.snapshot import SourceConfig
from rayapp.data.block import TablePlan, check_part, decide, write_good
from rayapp.data.contract import Contract, load_contract
from rayapp.data.delta import commit, recomputed_digest, write_file
from rayapp.data.digest import digest_of, hash_rows, table_digest
from rayapp.data.ingest import files_digest
from rayapp.data.parse import typed
from rayapp.data.parts import cut_source, read_part
from rayapp.data.rules import check
from rayapp.errors import DataError
from rayapp.schemas.data import Column, TableVersion

CONTRACT = """
apiVersion: v3.1.0
kind: DataContract
id: t
version: 1.0.0
status: active
schema:
  - name: t
    logicalType: object
    properties:
      - {name: id, logicalType: integer, primaryKey: true}
      - {name: name, logicalType: string, logicalTypeOptions: {pattern: "[a-z]+", maxLength: 5}}
      - {name: size, logicalType: number, required: true,
         logicalTypeOptions: {minimum: 0, maximum: 10}}
      - {name: kind, logicalType: string,
         quality: [{metric: invalidValues, arguments: {validValues: [a, b]}, mustBe: 0}]}
      - {name: place, logicalType: string, relationships: [{to: places.code}]}
      - {name: at, logicalType: timestamp}
    quality:
      - {type: custom, engine: rayapp, name: b_is_big, implementation: "kind != 'b' or size > 5"}
"""
PLACES = {"place": pa.array(["X", "Y"])}
HEADER = "id,name,size,kind,place,at\n"


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    path = tmp_path / "t.odcs.yaml"
    path.write_text(CONTRACT)
    return load_contract(path)


def _reasons(contract: Contract, **cells: str | None) -> str | None:
    row = {"id": "1", "name": "ab", "size": "3", "kind": "a", "place": "X", "at": "2013-01-01"}
    table = pa.table({k: pa.array([v], pa.string()) for k, v in (row | cells).items()})
    found: str | None = check(table, contract, PLACES)[0].as_py()
    return found


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({}, None),
        ({"name": None, "kind": None, "place": None, "at": None}, None),
        ({"size": None}, "null:size"),
        ({"size": "nan"}, "null:size"),
        ({"size": "x"}, "type:size"),
        ({"size": "inf"}, "range:size"),
        ({"size": "-0.1"}, "range:size"),
        ({"size": "10"}, None),
        ({"size": "11"}, "range:size"),
        ({"id": "1.5"}, "type:id"),
        ({"id": "12.0"}, None),
        ({"name": "A1"}, "pattern:name"),
        ({"name": "abcdef"}, "length:name"),
        ({"kind": "c"}, "enum:kind"),
        ({"place": "Z"}, "reference:place"),
        ({"kind": "b"}, "rule:b_is_big"),
        ({"kind": "b", "size": "6"}, None),
        ({"at": "yesterday"}, "type:at"),
        ({"at": "2013-01-01T10:00:00+02:00"}, None),
        ({"kind": "b", "size": "x"}, "type:size"),
        ({"id": "x", "size": "99", "place": "Q"}, "type:id;range:size;reference:place"),
    ],
)
def test_reason_codes(
    contract: Contract, cells: dict[str, str | None], expected: str | None
) -> None:
    assert _reasons(contract, **cells) == expected


def test_typed_columns_pass_as_they_are(contract: Contract) -> None:
    table = pa.table(
        {
            "id": [1, 2],
            "name": ["a", "b"],
            "size": [1.0, 20.0],
            "kind": ["a", "a"],
            "place": ["X", "Y"],
            "at": pa.array([0, 1], pa.timestamp("ms")),
        }
    )
    assert check(table, contract, PLACES).to_pylist() == [None, "range:size"]


def test_text_in_a_dictionary_is_text(contract: Contract) -> None:
    columns = {"id": ["1", "2"], "name": ["a", "A"], "size": ["1", "2"], "kind": ["a", "c"]}
    columns |= {"place": ["X", "Z"], "at": ["2013-01-01", "2013-01-02"]}
    plain = pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()})
    encoded = pa.table({n: plain.column(n).dictionary_encode() for n in plain.column_names})
    codes = check(plain, contract, PLACES).to_pylist()
    assert codes == [None, "pattern:name;enum:kind;reference:place"]
    assert check(encoded, contract, PLACES).to_pylist() == codes
    assert digest_of(plain) == table_digest(
        plain.schema, len(plain), hash_rows(encoded, [encoded.column_names])[0].total()
    )


@pytest.mark.parametrize(
    ("kind", "texts", "values"),
    [
        ("integer", ["1", " 2 ", "3.0", "4.5", "1e3", None], [1, 2, 3, None, 1000, None]),
        ("number", ["1", "-2.5", "x", "NaN", None], [1.0, -2.5, None, None, None]),
        ("boolean", ["true", "0", "Yes", "maybe", None], [True, False, True, None, None]),
    ],
)
def test_texts_and_values(kind: str, texts: list[str | None], values: list[object]) -> None:
    column = Column.model_validate({"name": "x", "type": kind, "nullable": True})
    parsed = typed(pa.table({"x": pa.array(texts, pa.string())}), [column])
    assert parsed.table.column("x").to_pylist() == values


def test_times_are_read_in_utc() -> None:
    texts = ["2013-01-01T10:00:00Z", "2013-01-01 12:00:00+02:00", "2013-01-01 10:00:00", "soon"]
    column = Column(name="x", type="timestamp", nullable=True)
    parsed = typed(pa.table({"x": texts}), [column])
    first, second, third, fourth = parsed.table.column("x").to_pylist()
    assert first == second == third
    assert fourth is None
    assert parsed.unreadable["x"].to_pylist() == [None, None, None, "soon"]


def _table_plan(tmp_path: Path, contract: Contract, text: str) -> TablePlan:
    raw = tmp_path / "raw.csv"
    raw.write_text(HEADER + text)
    source = SourceConfig(uri=str(raw))
    return TablePlan(contract, source, PLACES, str(tmp_path / "good"), str(tmp_path / "bad"))


def _ingested(table_plan: TablePlan, num_blocks: int) -> tuple[str, list[dict[str, object]]]:
    """The digest of the good rows, and the quarantined rows."""
    contract = table_plan.contract
    parts = cut_source(table_plan.source, contract, num_blocks)
    checked = [check_part(table_plan, part) for part in parts]
    decisions = decide(contract, checked)
    written = [
        write_good(table_plan, c.rows, c.keep_N, decision)
        for c, decision in zip(checked, decisions, strict=True)
        if c.rows is not None
    ]
    bad = [file for file in (*[c.bad for c in checked], *[w.duplicates for w in written]) if file]
    tables = [pq.read_table(f"{table_plan.bad_uri}/{file.path}") for file in bad]
    rows = [row for table in tables for row in table.to_pylist()]
    good = [w.good for w in written if w.good]
    stored = pa.concat_tables([pq.read_table(f"{table_plan.good_uri}/{f.path}") for f in good])
    assert files_digest(stored.schema, good) == digest_of(stored)
    return digest_of(stored), sorted(rows, key=str)


def _lines() -> str:
    lines = [f"{n},ab,{n % 10},a,X,2013-01-0{n % 9 + 1}" for n in range(400)]
    lines[7] = "7,ab,oops,a,X,"
    lines[50] = "50,ab,1,a"
    lines[99] = '99,"a,b\nc",1,a,X,'
    lines += ["3,zz,3,a,X,2013-01-04", lines[200], "12,ab,77,a,X,"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("num_blocks", [2, 3, 16])
def test_blocks_change_neither_verdict_nor_digest(
    tmp_path: Path, contract: Contract, num_blocks: int
) -> None:
    table_plan = _table_plan(tmp_path, contract, _lines())
    digest, rows = _ingested(table_plan, 1)
    assert _ingested(table_plan, num_blocks) == (digest, rows)
    assert sorted(str(row["_reasons"]) for row in rows) == [
        "duplicate:id",
        "duplicate:id",
        "pattern:name",
        "range:size",
        "row:shape",
        "type:size",
    ]
    assert next(r for r in rows if r["_reasons"] == "type:size")["size"] == "oops"
    assert next(r for r in rows if r["_reasons"] == "row:shape")["_raw"] == "50,ab,1,a"


def test_only_good_rows_compete_for_a_key(tmp_path: Path, contract: Contract) -> None:
    table_plan = _table_plan(tmp_path, contract, "1,ab,3,a,X,\n1,ab,99,a,X,\n")
    _, rows = _ingested(table_plan, 1)
    assert [row["_reasons"] for row in rows] == ["range:size"]


def test_parts_cover_every_row_once(tmp_path: Path, contract: Contract) -> None:
    table_plan = _table_plan(tmp_path, contract, _lines())
    for num_blocks in (1, 2, 5, 50, 1000):
        parts = cut_source(table_plan.source, contract, num_blocks)
        reads = [read_part(part, table_plan.source, contract.columns) for part in parts]
        assert sum(len(r.parsed.table) + len(r.misshapen) for r in reads) == 403


def test_missing_column_is_named(tmp_path: Path, contract: Contract) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("id,nam,size,kind,place,at\n1,a,1,a,X,\n")
    with pytest.raises(DataError, match="'name'") as error:
        cut_source(SourceConfig(uri=str(raw)), contract, 1)
    assert "did you mean 'nam'" in str(error.value)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_may_call_a_column_otherwise(tmp_path: Path, form: str) -> None:
    text = CONTRACT.replace("{name: size,", "{name: size, physicalName: the size,")
    (tmp_path / "t.odcs.yaml").write_text(text)
    contract = load_contract(tmp_path / "t.odcs.yaml")
    raw = tmp_path / f"raw.{form}"
    lines = HEADER.replace("size", "the size") + "1,ab,3,a,X,2013-01-01\n2,ab,4,a,X,2013-01-01\n"
    raw.write_text(lines)
    if form == "parquet":
        pq.write_table(pa_csv.read_csv(raw), raw)
    source = SourceConfig.model_validate({"uri": str(raw), "format": form})
    (part,) = cut_source(source, contract, 1)
    table = read_part(part, source, contract.columns).parsed.table
    assert table.column_names == ["id", "name", "size", "kind", "place", "at"]
    assert table.column("size").to_pylist() == [3, 4]


def test_a_column_is_found_by_its_physical_name_alone(tmp_path: Path) -> None:
    text = CONTRACT.replace("{name: size,", "{name: size, physicalName: the size,")
    (tmp_path / "t.odcs.yaml").write_text(text)
    contract = load_contract(tmp_path / "t.odcs.yaml")
    raw = tmp_path / "raw.csv"
    raw.write_text(HEADER + "1,ab,99,a,X,\n")
    with pytest.raises(DataError, match="no column 'the size'"):
        cut_source(SourceConfig(uri=str(raw)), contract, 1)
    raw.write_text("the size," + HEADER + "3,1,ab,99,a,X,\n")
    source = SourceConfig(uri=str(raw))
    (part,) = cut_source(source, contract, 1)
    assert read_part(part, source, contract.columns).parsed.table.column("size").to_pylist() == [3]
    raw.write_text("the size,the size," + HEADER + "3,3,1,ab,99,a,X,\n")
    with pytest.raises(DataError, match="two columns are 'size'"):
        cut_source(source, contract, 1)


def test_not_utf8_is_told(tmp_path: Path, contract: Contract) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_bytes(HEADER.encode() + b"1,\xff\xfe,1,a,X,\n")
    source = SourceConfig(uri=str(raw))
    with pytest.raises(DataError, match="UTF-8"):
        read_part(cut_source(source, contract, 1)[0], source, contract.columns)


VALUES = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-3, 3)),
        st.one_of(st.none(), st.sampled_from(["", "a", "b"])),
        st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.5])),
    ),
    min_size=1,
    max_size=12,
)
KINDS = {"i": pa.int64(), "s": pa.string(), "f": pa.float64()}


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, t) for c, t in zip(columns, KINDS.values(), strict=True)]
    return pa.table(arrays, names=list(KINDS))


@settings(max_examples=80, deadline=None)
@given(left=VALUES, right=VALUES)
def test_digest_is_equal_exactly_for_equal_multisets(
    left: list[tuple[object, ...]], right: list[tuple[object, ...]]
) -> None:
    def key(row: tuple[object, ...]) -> str:
        return str(tuple(0.0 if v == 0 and isinstance(v, float) else v for v in row))

    same = sorted(map(key, left)) == sorted(map(key, right))
    assert (digest_of(_table(left)) == digest_of(_table(right))) == same


@settings(max_examples=50, deadline=None)
@given(rows=VALUES, cut=st.integers(0, 12))
def test_digest_of_parts_adds_up(rows: list[tuple[object, ...]], cut: int) -> None:
    table = _table(rows)
    sums = [0, 0]
    for part in (table.slice(0, cut), table.slice(min(cut, len(rows)))):
        (hashes,) = hash_rows(part, [part.column_names])
        sums = [a + b for a, b in zip(sums, hashes.total(), strict=True)]
    assert table_digest(table.schema, len(table), (sums[0], sums[1])) == digest_of(table)


def test_values_that_change_places_change_the_digest() -> None:
    before = pa.table({"a": [1, 2], "b": [3, 4]})
    assert digest_of(before) != digest_of(pa.table({"a": [1, 2], "b": [4, 3]}))
    assert digest_of(before) != digest_of(pa.table({"b": [1, 2], "a": [3, 4]}))


def test_row_hashes_of_many_distinct_rows_are_distinct() -> None:
    whole_N = np.arange(100_000)
    table = pa.table({"i": whole_N, "f": whole_N / 4, "g": whole_N[::-1] * 2.0**40})
    (hashes,) = hash_rows(table, [table.column_names])
    assert all(len(np.unique(lane_N)) == len(whole_N) for lane_N in hashes.lanes_N)


def test_commits_that_race_each_get_their_own_version(tmp_path: Path) -> None:
    uri = str(tmp_path / "raced")

    def write(number: int) -> tuple[int, int]:
        table = pa.table({"n": [number]})
        file = write_file(uri, table, (number, number))
        return number, commit(uri, table.schema, [file], digest=f"d{number}")

    with ThreadPoolExecutor(4) as pool:
        versions = dict(pool.map(write, range(4)))
    assert sorted(versions.values()) == [0, 1, 2, 3]
    for number, version in versions.items():
        assert DeltaTable(uri, version=version).to_pyarrow_table().to_pydict() == {"n": [number]}
    newest = max(versions, key=lambda n: versions[n])
    again = write_file(uri, pa.table({"n": [newest]}), (newest, newest))
    assert commit(uri, pa.schema([("n", pa.int64())]), [again], digest=f"d{newest}") == 3
    assert not Path(uri, again.path).exists()


def test_every_version_of_a_table_is_verified_by_its_own_commit(tmp_path: Path) -> None:
    uri, made = str(tmp_path / "rebuilt"), []
    for number in range(3):
        table = pa.table({"n": [number]})
        digest = digest_of(table)
        file = write_file(uri, table, hash_rows(table, [["n"]])[0].total())
        made.append(
            TableVersion(
                name="rebuilt",
                uri=uri,
                version=commit(uri, table.schema, [file], digest),
                digest=digest,
                num_rows=1,
                num_quarantined=0,
                columns=(Column(name="n", type="integer"),),
                watermark=None,
                contract=None,
            )
        )
    assert [recomputed_digest(version) for version in made] == [v.digest for v in made]
