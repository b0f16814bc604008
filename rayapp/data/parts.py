"""Raw files cut into parts that Ray reads in parallel, and the reading of one part.

A plain CSV file is cut at line ends (never inside quotes), JSON lines at line ends; Parquet at row
groups; a .zip or .gz cannot be split, so it is unpacked here and its text is cut. CSV must be UTF-8
with a header line.
"""

import csv
import difflib
import gzip
import io
import itertools
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from rayapp.config.snapshot import SourceConfig
from rayapp.data.contract import Contract
from rayapp.data.json_lines import keys_of, read_json_lines
from rayapp.data.parse import Parsed, typed
from rayapp.data.sources import expand, open_uri
from rayapp.errors import DataError
from rayapp.schemas.data import Column

_CHUNK_BYTES = 8 * 1024 * 1024
_OF_FILE = " (of the file)"
_QUOTE, _NEWLINE = b'"', b"\n"


@dataclass(frozen=True)
class RawPart:
    """One part of one file. CSV: bytes [start, stop), or `text` itself where the file had to be
    unpacked. Parquet: row groups [start, stop).

    header: all columns in the file's order, those that the contract describes by its names. keys:
    for JSON lines, the same columns as the file calls them."""

    uri: str
    header: tuple[str, ...]
    start: int
    stop: int
    text: bytes | None = None
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Read:
    """A part's rows, and the lines that do not have the header's number of fields."""

    parsed: Parsed
    misshapen: tuple[str, ...]


def cut_source(config: SourceConfig, contract: Contract, num_blocks: int) -> list[RawPart]:
    """Parts that cover every row once; about num_blocks of them. Raises DataError for a missing
    column."""
    uris = expand(config)
    cut = {"parquet": _parquet_parts, "csv": _csv_parts, "jsonl": _json_parts}[config.format]
    parts = [part for uri in uris for part in cut(uri, -(-num_blocks // len(uris)))]
    parts = [replace(part, header=_in_words_of(contract, part.header)) for part in parts]
    for part in parts:
        _must_have(part, contract)
    if not parts:
        raise DataError(f"source {uris[0]}: no rows", "check the file")
    return parts


def _in_words_of(contract: Contract, header: Sequence[str]) -> tuple[str, ...]:
    """The columns of a file by the names that its contract gives them. One that bears a name which
    the contract gives to another is nothing that the contract describes."""
    logical = {physical: name for name, physical in contract.physical_names.items()}
    others = {name: f"{name}{_OF_FILE}" for name in contract.physical_names}
    return tuple((others | logical).get(name, name) for name in header)


def _must_have(part: RawPart, contract: Contract) -> None:
    twice = next((name for name in part.header if part.header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{part.uri}: two columns are {twice!r}", "rename one of them")
    described = {column.name for column in contract.columns}
    others = [name.removesuffix(_OF_FILE) for name in part.header if name not in described]
    for column in contract.columns:
        if column.name not in part.header:
            wanted = contract.physical_names.get(column.name, column.name)
            near = difflib.get_close_matches(wanted, others, n=1)
            raise DataError(
                f"{part.uri}: no column {wanted!r}, which its contract describes",
                f"did you mean {near[0]!r}?" if near else f"other columns are {others}",
            )


def _parquet_parts(uri: str, parts: int) -> list[RawPart]:
    filesystem, path = open_uri(uri)
    try:
        metadata = pq.read_metadata(path, filesystem=filesystem)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{uri}: not a Parquet file ({error})", "check `format`") from None
    header = tuple(metadata.schema.to_arrow_schema().names)
    cuts = np.linspace(0, metadata.num_row_groups, min(parts, metadata.num_row_groups) + 1)
    return [RawPart(uri, header, int(start), int(stop)) for start, stop in itertools.pairwise(cuts)]


def _csv_parts(uri: str, parts: int) -> list[RawPart]:
    return _text_parts(uri, parts, _header, _QUOTE)


def _json_parts(uri: str, parts: int) -> list[RawPart]:
    """No line end stands inside a JSON object that is written on a line."""
    found = _text_parts(uri, parts, _keys, b"")
    return [replace(part, keys=part.header) for part in found]


def _text_parts(
    uri: str, parts: int, head: Callable[[str, Any], tuple[tuple[str, ...], int]], quote: bytes
) -> list[RawPart]:
    """head: the column names, and the offset of the first row."""
    text = _unpacked(uri)
    if text is not None:
        header, start = head(uri, io.BytesIO(text))
        cuts = _cuts(io.BytesIO(text), start, len(text), parts, quote)
        return [RawPart(uri, header, a, b, text[a:b]) for a, b in itertools.pairwise(cuts)]
    filesystem, path = open_uri(uri)
    size = filesystem.get_file_info(path).size
    with filesystem.open_input_file(path) as file:
        header, start = head(uri, file)
        file.seek(0)
        cuts = _cuts(file, start, size, parts, quote)
    return [RawPart(uri, header, a, b) for a, b in itertools.pairwise(cuts)]


def _unpacked(uri: str) -> bytes | None:
    """The text of a compressed file; None where the file is plain."""
    if not uri.endswith((".zip", ".gz")):
        return None
    filesystem, path = open_uri(uri)
    with filesystem.open_input_stream(path, compression=None) as stream:
        packed = stream.read()
    try:
        if uri.endswith(".gz"):
            return gzip.decompress(packed)
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            names = [n for n in archive.namelist() if not n.endswith("/")]
            if len(names) != 1:
                raise DataError(f"{uri}: holds {len(names)} files, expected one", "pack one file")
            return archive.read(names[0])
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{uri}: cannot be unpacked ({error})", "check the file") from None


def _header(uri: str, file: Any) -> tuple[tuple[str, ...], int]:
    """The column names, and the offset of the first row."""
    start = file.read(_CHUNK_BYTES)
    line, newline, _ = start.partition(b"\n")
    try:
        names = next(csv.reader([line.decode("utf-8-sig").rstrip("\r")]), [])
    except UnicodeDecodeError:
        raise DataError(f"{uri}: the header is not UTF-8", "save the file as UTF-8") from None
    if not names:
        raise DataError(f"{uri}: is empty", "a CSV file starts with a header line")
    return tuple(names), len(line) + len(newline)


def _keys(uri: str, file: Any) -> tuple[tuple[str, ...], int]:
    return keys_of(uri, file.read(_CHUNK_BYTES)), 0


def _cuts(file: Any, start: int, size: int, parts: int, quote: bytes) -> list[int]:
    """Offsets of row starts near equal shares of the file, from its first row to its end."""
    targets = np.linspace(start, size, parts + 1)[1:-1]
    wanted = iter([int(target) for target in targets])
    cuts, target, position, num_quotes = [start], next(wanted, None), 0, 0
    while target is not None and (chunk := file.read(_CHUNK_BYTES)):
        while target is not None and target < position + len(chunk):
            found = _row_end(chunk, max(target, cuts[-1]) - position, num_quotes, quote)
            if found is None:
                break
            cuts.append(position + found)
            target = next(wanted, None)
        num_quotes += _count(chunk, quote)
        position += len(chunk)
    return sorted({cut for cut in cuts if cut < size} | ({size} if size > start else set()))


def _row_end(chunk: bytes, at: int, quotes_before: int, quote: bytes) -> int | None:
    """The first offset at or after `at` that follows a line end outside quotes."""
    at = max(at, 0)
    is_quoted = (quotes_before + _count(chunk, quote, 0, at)) % 2 == 1
    while (end := chunk.find(_NEWLINE, at)) >= 0:
        is_quoted ^= _count(chunk, quote, at, end) % 2 == 1
        if not is_quoted:
            return end + 1
        at = end + 1
    return None


def _count(chunk: bytes, quote: bytes, start: int = 0, stop: int | None = None) -> int:
    return chunk.count(quote, start, stop) if quote else 0


def read_part(part: RawPart, config: SourceConfig, columns: Sequence[Column]) -> Read:
    """Raises DataError for text that is not UTF-8; everything else costs single rows."""
    names = [c.name for c in columns]
    if config.format == "parquet":
        filesystem, path = open_uri(part.uri)
        file = pq.ParquetFile(path, filesystem=filesystem)
        groups = list(range(part.start, part.stop))
        physical = dict(zip(file.schema_arrow.names, part.header, strict=True))
        wanted = [old for old, name in physical.items() if name in names]
        table = file.read_row_groups(groups, columns=wanted)
        table = table.rename_columns([physical[name] for name in table.column_names])
        return Read(typed(table, columns), ())
    text = part.text if part.text is not None else _range(part)
    if config.format == "jsonl":
        words = dict(zip(part.header, part.keys, strict=True))
        table, misshapen = read_json_lines(text, [words[n] for n in names], config.null_values)
        return Read(typed(table.rename_columns(names), columns), misshapen)
    return _read_csv(text, part, config, columns)


def _range(part: RawPart) -> bytes:
    filesystem, path = open_uri(part.uri)
    with filesystem.open_input_file(path) as file:
        file.seek(part.start)
        data: bytes = file.read(part.stop - part.start)
        return data


def _read_csv(text: bytes, part: RawPart, config: SourceConfig, columns: Sequence[Column]) -> Read:
    """As text first: reading and casting takes as long as reading with types, and one bad cell
    does not stop it. Text that stays text is read as places in a dictionary of distinct ones."""
    encoded = pa.dictionary(pa.int32(), pa.string())
    types = {c.name: encoded if c.type == "string" else pa.string() for c in columns}
    if not text or text.isspace():
        return Read(typed(pa.schema(types.items()).empty_table(), columns), ())
    misshapen: list[str] = []

    def set_aside(row: pa_csv.InvalidRow) -> str:
        misshapen.append(row.text)
        return "skip"

    try:
        table = pa_csv.read_csv(
            pa.py_buffer(text),
            pa_csv.ReadOptions(
                use_threads=False, block_size=len(text) + 1, column_names=list(part.header)
            ),
            pa_csv.ParseOptions(newlines_in_values=b'"' in text, invalid_row_handler=set_aside),
            pa_csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=list(config.null_values),
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{part.uri}: bytes {part.start} to {part.stop} are not CSV in UTF-8 ({error})",
            "save the file as UTF-8",
        ) from None
    return Read(typed(table, columns), tuple(misshapen))
