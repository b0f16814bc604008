"""What the parsers of a request do with bodies that nobody would send.

    python -m benchmarks.parser_fuzz [--inputs 1000000] [--seed 1] [OUTPUT.json]

Good bodies of every kind (Open Inference Protocol as JSON and with binary tensors, MLflow's four
shapes, feedback) are mutated: bits flipped, pieces cut, doubled and spliced, numbers, texts and
shapes put in each other's place, values nested deep, lengths that lie. Each is parsed, and checked
against a schema if it can be. What must hold, for each input:

    outcome   rows, or an error of ours that becomes a 4xx answer of at most MAX_ANSWER_BYTES
    memory    at most BYTES_PER_BYTE times the body, and BYTES_FOR_ANY, above what was there before
              (tracemalloc; for one input in TRACED_EVERY and for every long one)

CPU time is told, not judged. The first inputs that break a rule are in the result, as text that
Python reads.
"""

import argparse
import logging
import resource
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from benchmarks import results_file
from benchmarks.mutations import Mutator, Sample, samples
from rayapp.errors import DataError, RequestError
from rayapp.families.base import Floats
from rayapp.families.encoding import encode
from rayapp.schemas.data import Column
from rayapp.schemas.model import BundleSchema, EncodedFeature
from rayapp.serve.wire.feedback import parse_feedback
from rayapp.serve.wire.http import refusal
from rayapp.serve.wire.oip import parse_oip
from rayapp.serve.wire.protocols import Parsed, parse_mlflow
from rayapp.serve.wire.rows import RowEncoder
from rayapp.serve.wire.validation import validated

MAX_ROWS = 1000
MAX_ANSWER_BYTES = 4096
BYTES_PER_BYTE, BYTES_FOR_ANY = 64, 256 * 1024
TRACED_EVERY, LONG_BYTES = 20, 16 * 1024
MAX_EXAMPLES = 20

COLUMNS = (
    Column(name="distance", type="number", minimum=0, maximum=5000),
    Column(name="flight", type="integer", minimum=1),
    Column(name="carrier", type="string", allowed=("AA", "DL", "UA")),
    Column(name="temp", type="number", nullable=True),
    Column(name="is_holiday", type="boolean", nullable=True),
    Column(name="departure", type="timestamp"),
)
SCHEMA = BundleSchema(
    name="fuzzed",
    family="tabular",
    task="binary",
    label="y",
    classes=("no", "yes"),
    inputs=COLUMNS,
    features=(
        EncodedFeature(name="distance", expression="distance", kind="number"),
        EncodedFeature(name="flight", expression="flight", kind="number"),
        EncodedFeature(
            name="carrier", expression="carrier", kind="category", vocabulary=("AA", "DL")
        ),
        EncodedFeature(name="temp", expression="temp", kind="number"),
        EncodedFeature(name="holiday", expression="if_else(is_holiday, 1, 0)", kind="number"),
        EncodedFeature(name="hour", expression="hour(departure, 'UTC')", kind="number"),
    ),
)


class Encoding:
    """A bundle that is asked for no scores."""

    schema = SCHEMA

    def encode(self, table: pa.Table) -> Floats:
        return encode(SCHEMA.features, table)

    def score(self, x_NF: Floats) -> Floats:
        raise AssertionError


_ENCODING, _ENCODER = Encoding(), RowEncoder(SCHEMA)


def require(is_so: bool, what: str) -> None:
    if not is_so:
        raise AssertionError(what)


def rows_of(parsed: Parsed) -> str:
    require(1 <= parsed.num_rows <= MAX_ROWS, "a number of rows beyond its limit")
    rows = validated(parsed, _ENCODING, _ENCODER)
    lengths = {len(rows.x_NF), len(rows.inputs), len(rows.unit_ids)}
    require(lengths == {parsed.num_rows}, "rows that went missing")
    return "rows"


def _feedback(sample: Sample) -> str:
    record = parse_feedback(sample.body, results_file.now())
    require(bool(record["request_id"]), "feedback on nothing")
    return "feedback"


PARSE: dict[str, Callable[[Sample], str]] = {
    "oip": lambda sample: rows_of(parse_oip(sample.body, sample.header_length, MAX_ROWS)),
    "mlflow": lambda sample: rows_of(parse_mlflow(sample.body, MAX_ROWS)),
    "feedback": _feedback,
}


def outcome_of(sample: Sample) -> str:
    """In a word. Raises whatever is no answer of ours."""
    try:
        return PARSE[sample.kind](sample)
    except RequestError as error:
        answer = refusal(error)
        require(400 <= answer.status < 500, f"status {answer.status}")
        require(len(answer.body) <= MAX_ANSWER_BYTES, f"a long {error.kind}")
        return error.kind
    except DataError:
        return "unusable_rows"


@dataclass
class Findings:
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)
    slowest_ms: float = 0.0
    slowest_bytes: int = 0
    slowest_ms_per_mib: float = 0.0
    longest_bytes: int = 0
    num_traced: int = 0
    most_bytes_per_byte: float = 0.0
    most_bytes: int = 0

    def failed(self, what: str, sample: Sample) -> None:
        self.failures[what] += 1
        if len(self.examples) < MAX_EXAMPLES and self.failures[what] <= 2:
            body = repr(sample.body[:2000])
            length = repr(sample.header_length)
            self.examples.append(
                {"what": what, "kind": sample.kind, "header_length": length, "body": body}
            )

    def took(self, seconds: float, sample: Sample) -> None:
        size, ms = len(sample.body), seconds * 1000
        self.longest_bytes = max(self.longest_bytes, size)
        if ms > self.slowest_ms:
            self.slowest_ms, self.slowest_bytes = ms, size
        if size >= LONG_BYTES:
            self.slowest_ms_per_mib = max(self.slowest_ms_per_mib, ms / size * 2**20)

    def allocated(self, num_bytes: int, sample: Sample) -> None:
        size = len(sample.body)
        self.num_traced += 1
        self.most_bytes = max(self.most_bytes, num_bytes)
        over = (num_bytes - BYTES_FOR_ANY) / max(size, 1)
        self.most_bytes_per_byte = max(self.most_bytes_per_byte, over)
        if over > BYTES_PER_BYTE:
            self.failed("memory", sample)

    def summary(self) -> dict[str, Any]:
        return {
            "outcomes": dict(self.outcomes.most_common()),
            "failures": dict(self.failures),
            "examples": self.examples,
            "cpu_time": {
                "slowest_ms": round(self.slowest_ms, 1),
                "slowest_bytes": self.slowest_bytes,
                "slowest_ms_per_mib_of_long_ones": round(self.slowest_ms_per_mib, 1),
                "longest_bytes": self.longest_bytes,
            },
            "memory": {
                "num_traced": self.num_traced,
                "most_bytes": self.most_bytes,
                "most_bytes_per_byte_above_the_constant": round(self.most_bytes_per_byte, 1),
                "limit": f"{BYTES_PER_BYTE} × body + {BYTES_FOR_ANY}",
            },
        }


def fuzz(num_inputs: int, seed: int) -> Findings:
    findings = Findings()
    mutator = Mutator(seed, samples())
    for number in range(num_inputs):
        sample = mutator.next()
        is_traced = number % TRACED_EVERY == 0 or len(sample.body) >= LONG_BYTES
        if is_traced:
            _trace(sample, findings)
        began_s = time.process_time()
        try:
            findings.outcomes[outcome_of(sample)] += 1
        except Exception as error:  # noqa: BLE001 - finding these is what this is for
            findings.failed(f"{type(error).__name__}: {str(error)[:80]}", sample)
        findings.took(time.process_time() - began_s, sample)
    return findings


def _trace(sample: Sample, findings: Findings) -> None:
    """By itself, since tracing makes everything several times as slow."""
    tracemalloc.start()
    with suppress(Exception):  # counted by the run that is timed
        outcome_of(sample)
    findings.allocated(tracemalloc.get_traced_memory()[1], sample)
    tracemalloc.stop()


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("output", nargs="?", help="default: benchmarks/results/parser-fuzz-DATE")
    chosen = parser.parse_args()
    logging.disable(logging.INFO)
    output = results_file.path_of("parser-fuzz", chosen.output)
    fuzz(5000, chosen.seed + 1)  # what any run needs is allocated
    before_mib, began_s = peak_mib(), time.perf_counter()
    findings = fuzz(chosen.inputs, chosen.seed)
    seconds = time.perf_counter() - began_s
    result = {
        "num_inputs": chosen.inputs,
        "seed": chosen.seed,
        "seconds": round(seconds, 1),
        **findings.summary(),
        "process": {
            "peak_mib_before": round(before_mib, 1),
            "peak_mib_after": round(peak_mib(), 1),
        },
    }
    results_file.tell(output, result | results_file.measured_here())
    if findings.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
