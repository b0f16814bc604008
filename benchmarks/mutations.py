"""Good bodies of every kind that an endpoint takes, and ways to spoil them. Seeded: the same seed
gives the same inputs."""

import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

ROW: dict[str, Any] = {
    "distance": 733.0,
    "flight": 1545,
    "carrier": "UA",
    "temp": None,
    "is_holiday": False,
    "departure": "2013-10-01T12:15:00Z",
}
DATATYPES = {"distance": "FP64", "flight": "INT64", "temp": "FP32", "is_holiday": "BOOL"}
FORMATS = {"FP64": "d", "INT64": "q", "FP32": "f", "BOOL": "?"}
MAX_LONG_BITS = 20
"""The longest bodies have about a mebibyte."""
LONG_EVERY = 500

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null')
VALUES: tuple[bytes, ...] = (
    *(b"0", b"-0", b"1", b"-1", b"2", b"3", b"1.0", b"1.5", b"-1e-320", b"1e308", b"1e999"),
    *(b"255", b"256", b"65536", b"4294967296", b"2147483648", b"9007199254740993"),
    *(b"9223372036854775807", b"9223372036854775808", b"18446744073709551616"),
    *(b"1" * 400, b"1" * 5000, b"NaN", b"Infinity", b"-Infinity", b"null", b"true", b"false"),
    *(b"[]", b"{}", b"[[]]", b"[1]", b"[1,1]", b"[0]", b"[-1]", b"[1,2]", b"[1.0]", b"[[1]]"),
    *(b'""', b'"x"', b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xed\xa0\x80"', b'"\xff"'),
    *(b'"id"', b'"name"', b'"shape"', b'"data"', b'"datatype"', b'"parameters"', b'"inputs"'),
    *(b'"outputs"', b'"label"', b'"probability"', b'"binary_data_size"', b'"binary_data"'),
    *(b'"columns"', b'"instances"', b'"params"', b'"at"', b'"request_id"', b'"classification"'),
    *(b'"BYTES"', b'"BOOL"', b'"INT8"', b'"UINT64"', b'"FP16"', b'"FP32"', b'"FP64"', b'"FP128"'),
    *(b'"distance"', b'"flight"', b'"carrier"', b'"departure"', b'"2013-02-30T00:00:00Z"'),
    *(b'"0001-01-01T00:00:00+05:00"', b'"9999-12-31T23:59:59-14:00"', b'"2013-10-01"'),
    *(b"[" * n + b"]" * n for n in (50, 900, 1020, 1100, 100_000)),
    *(b'{"a":' * n + b"1" + b"}" * n for n in (50, 900, 1020)),
    b'"' + b"x" * 5000 + b'"',
    b'"' + "é😀".encode() * 500 + b'"',
)
PIECES = (
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"\x00", b"\xff", b"\xef\xbb\xbf"),
)
HEADERS = (
    *(None, b"", b"0", b"1", b"-1", b"+5", b" 7", b"x", b"1e3", b"\xb2", b"9" * 19, b"9" * 5000),
)
SIZES = (0, 1, 3, 4, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True)
class Sample:
    """kind: oip, mlflow or feedback. header_length: the header's value, for oip."""

    kind: str
    body: bytes
    header_length: bytes | None = None


def samples() -> list[Sample]:
    rows = [ROW, {**ROW, "temp": 39.5, "carrier": "AA", "id": "k"}]
    split = {"columns": list(ROW), "data": [list(ROW.values())] * 3}
    mlflow: list[Any] = [
        {"dataframe_records": rows},
        {"dataframe_records": [{**ROW, "id": 7}] * 40},
        {"dataframe_split": split},
        {"inputs": {name: [value, value] for name, value in ROW.items()}},
        {"inputs": {name: [[value]] for name, value in ROW.items()}},
        {"instances": rows, "params": {}},
    ]
    feedback: list[Any] = [
        {"request_id": "a1", "row": 1, "label": "late", "at": "2013-10-01T12:15:00Z"},
        {"request_id": "a1", "score": 0.5, "comment": "fine"},
        {"request_id": "a1", "label": True},
    ]
    return [
        *(Sample("mlflow", json.dumps(value).encode()) for value in mlflow),
        *(Sample("feedback", json.dumps(value).encode()) for value in feedback),
        *(Sample("oip", json.dumps(_tensors(n, False)[0]).encode()) for n in (1, 3, 40)),
        *(_binary(n) for n in (1, 2, 40)),
        *(_binary(n) for n in (1, 2, 40)),
    ]


def _tensors(num_rows: int, is_binary: bool) -> tuple[dict[str, Any], bytes]:
    tensors, buffers = [], []
    for name, value in (ROW | {"temp": 39.5, "id": "k"}).items():
        datatype = DATATYPES.get(name, "BYTES")
        tensor: dict[str, Any] = {"name": name, "shape": [num_rows, 1], "datatype": datatype}
        if is_binary:
            raw = _packed(value, datatype) * num_rows
            tensor["parameters"] = {"binary_data_size": len(raw)}
            buffers.append(raw)
        else:
            tensor["data"] = [value] * num_rows
        tensors.append(tensor)
    outputs = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "probability"}]
    request = {"id": "q", "parameters": {"binary_data_output": True}, "inputs": tensors}
    return request | {"outputs": outputs}, b"".join(buffers)


def _packed(value: Any, datatype: str) -> bytes:
    if datatype == "BYTES":
        return struct.pack("<I", len(value)) + str(value).encode()
    return struct.pack("<" + FORMATS[datatype], value)


def _binary(num_rows: int) -> Sample:
    request, raw = _tensors(num_rows, True)
    text = json.dumps(request).encode()
    return Sample("oip", text + raw, str(len(text)).encode())


@lru_cache(maxsize=64)  # of the good bodies only; a spoiled one is looked at once
def _spans(text: bytes) -> list[tuple[int, int]]:
    return [found.span() for found in _TOKEN.finditer(text)]


class Mutator:
    """Each call of `next` gives another input: a good one with one to four things changed, and
    now and then a very long one."""

    def __init__(self, seed: int, good: Sequence[Sample]) -> None:
        self._rng = random.Random(seed)
        self._good = good
        self._changes: tuple[Callable[[bytes], bytes], ...] = (
            *(self._token,) * 12,  # what is still JSON gets further
            *(self._flip, self._piece, self._cut, self._double, self._splice, self._add_key),
        )

    def next(self) -> Sample:
        rng = self._rng
        sample = rng.choice(self._good)
        text, tail = _divided(sample)
        if rng.random() < 1 / LONG_EVERY:
            if rng.random() < 0.5:
                return self._crowd()
            return replace(sample, body=self._long(text), header_length=None)
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
            if tail and rng.random() < 0.4:
                tail = self._raw(tail)
            else:
                text = rng.choice(self._changes)(text)
        return replace(sample, body=text + tail, header_length=self._header(sample, text))

    def _header(self, sample: Sample, text: bytes) -> bytes | None:
        rng = self._rng
        chance = rng.random()
        if sample.header_length is None:
            return rng.choice(HEADERS) if chance < 0.02 else None
        if chance < 0.9:
            return str(len(text)).encode()
        if chance < 0.95:
            return str(len(text) + rng.randint(-9, 9)).encode()
        return rng.choice(HEADERS)

    def _token(self, text: bytes) -> bytes:
        """Another value in the place of one."""
        spans = _spans(text)
        if not spans:
            return text
        start, end = self._rng.choice(spans)
        return text[:start] + self._rng.choice(VALUES) + text[end:]

    def _add_key(self, text: bytes) -> bytes:
        """Perhaps one that is there already."""
        at = text.find(b"{", self._rng.randrange(len(text) + 1)) + 1
        key = next((v for v in self._rng.choices(VALUES, k=20) if v[:1] == b'"'), b'"id"')
        return text[:at] + key + b":" + self._rng.choice(VALUES) + b"," + text[at:]

    def _flip(self, text: bytes) -> bytes:
        changed = bytearray(text or b"x")
        for _ in range(self._rng.randint(1, 4)):
            changed[self._rng.randrange(len(changed))] ^= 1 << self._rng.randrange(8)
        return bytes(changed)

    def _piece(self, text: bytes) -> bytes:
        at = self._rng.randrange(len(text) + 1)
        return text[:at] + self._rng.choice(PIECES) + text[at:]

    def _cut(self, text: bytes) -> bytes:
        start, end = self._range(text)
        return text[:start] + text[end:]

    def _double(self, text: bytes) -> bytes:
        start, end = self._range(text)
        return text[:end] + text[start:]

    def _splice(self, text: bytes) -> bytes:
        other = self._rng.choice(self._good).body
        start, end = self._range(other)
        at = self._rng.randrange(len(text) + 1)
        return text[:at] + other[start:end] + text[at:]

    def _range(self, text: bytes) -> tuple[int, int]:
        start = self._rng.randrange(len(text) + 1)
        return start, min(len(text), start + int(2 ** (self._rng.random() * 10)))

    def _raw(self, tail: bytes) -> bytes:
        """Binary tensors: a length that lies, or what may happen to any bytes."""
        rng = self._rng
        if rng.random() < 0.5:
            at = rng.randrange(len(tail))
            return tail[:at] + struct.pack("<I", rng.choice(SIZES)) + tail[at + 4 :]
        return rng.choice((self._flip, self._cut, self._double, self._piece))(tail)

    def _long(self, text: bytes) -> bytes:
        """One piece many times over."""
        start, end = self._token_range(text)
        piece = text[start:end] + b","
        size = int(2 ** self._rng.uniform(14, MAX_LONG_BITS))
        return text[:start] + piece * (size // len(piece)) + text[start:]

    def _crowd(self) -> Sample:
        """Well formed, with many names: of columns, of each row's own columns, of tensors."""
        rng = self._rng
        names = [f"n{i}" for i in range(int(2 ** rng.uniform(6, MAX_LONG_BITS - 4)))]
        same = [*names, names[-1]]
        tensor = {"shape": [1], "datatype": "FP64", "data": [1]}
        records = [{name: 1} for name in names[:1000]]
        bodies: list[tuple[str, Any]] = [
            ("mlflow", {"dataframe_split": {"columns": names, "data": [[1] * len(names)]}}),
            ("mlflow", {"dataframe_split": {"columns": same, "data": [[1] * len(same)]}}),
            ("mlflow", {"dataframe_records": records}),
            ("mlflow", {"instances": [dict.fromkeys(names, 1), *records[1:]]}),
            ("mlflow", {"inputs": {name: [1] for name in names}}),
            ("mlflow", dict.fromkeys(names, 1)),
            ("feedback", dict.fromkeys(names, 1)),
            ("oip", {"inputs": [{"name": name} | tensor for name in same]}),
            ("oip", {"inputs": [{"name": "x"} | tensor], "outputs": [{"name": n} for n in same]}),
        ]
        kind, body = rng.choice(bodies)
        return Sample(kind, json.dumps(body).encode())

    def _token_range(self, text: bytes) -> tuple[int, int]:
        """Of one token, or of an object or array from its beginning to some end."""
        spans = _spans(text)
        start, end = self._rng.choice(spans)
        if self._rng.random() < 0.5:
            return start, end
        opening = max(text.rfind(b"{", 0, start), text.rfind(b"[", 0, start), 0)
        closing = text.find(b"}" if text[opening : opening + 1] == b"{" else b"]", end)
        return opening, closing + 1 if closing >= 0 else end


def _divided(sample: Sample) -> tuple[bytes, bytes]:
    length = len(sample.body) if sample.header_length is None else int(sample.header_length)
    return sample.body[:length], sample.body[length:]
