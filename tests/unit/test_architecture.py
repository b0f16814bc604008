"""The dependency rule, read from the source: layers, rooms, one door per vendor, and sizes.

Imports inside functions count like any other, so hiding one does not help. `if TYPE_CHECKING:`
imports count too: a type is a dependency.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("rayapp", "jobs", "serve_apps")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

ROOMS = {
    *("data", "train", "tune", "evaluate", "register", "release", "serve"),
    *("score", "observe", "operate", "govern", "llm"),
}
DOORS = {"jobs", "serve_apps", "cli"}
RANK = {
    **{"errors": 0, "schemas": 1},
    **dict.fromkeys(("config", "storage", "database", "ledger", "telemetry"), 2),
    **dict.fromkeys(("transforms", "shelf", "pages"), 2),
    "families": 3,
    **dict.fromkeys(ROOMS, 4),
    "flows": 5,
    **dict.fromkeys(DOORS, 6),
}
# ledger and storage stand side by side in the picture, yet neither may need the other's layer peers
# except downwards; these few edges between equals are allowed and named.
EQUALS_ALLOWED = {("ledger", "storage"), ("ledger", "database")}

VENDOR_DOORS = {
    "mlflow": {"register"},
    "ray.tune": {"tune"},
    "ray.serve": {"serve", "llm", "serve_apps"},
    "ray.train": {"train", "families"},
    "ray.data": {"data", "score", "evaluate"},
    "torch": {"families", "llm"},
    "transformers": {"families", "llm"},
    "peft": {"families"},
    "vllm": {"llm"},
    "opentelemetry": {"serve"},
    "xgboost": {"families"},
    "openfeature": {"serve"},
    "jinja2": {"pages"},
}
WITHOUT_RAY = {"errors", "schemas"} | {room for room, rank in RANK.items() if rank == 2}
# Seconds of every start that does not train, so imported where a trainer is made.
HEAVY = {"ray.train.torch", "ray.train.xgboost"}
# Seconds, or the memory, of each build of a gateway, beside those that answer, and of each replica.
UNSERVED = {"ray.data", "ray.train", "ray.tune", "ray.util.state", "mlflow", "torch", "vllm"}
FORBIDDEN = {"pickle", "cloudpickle", "joblib"}
# Partial results that one of our tasks hands to its own driver, as Ray itself does; never a file.
PICKLE_IN_FLIGHT = {"rayapp/families/parcel.py"}
# Whose loss a Ray upgrade would be noticed by a test, and why each is needed.
PRIVATE_ALLOWED = {
    # what travels with a job is measured by the very rules by which Ray will pack it
    ("rayapp/cli/submit.py", "ray._private.runtime_env.packaging._dir_travel"),
    ("rayapp/cli/submit.py", "ray._private.runtime_env.packaging._get_excludes"),
    # Serve offers its controller a callback, and nothing public that it could mend this with
    ("rayapp/serve/cluster/controller.py", "ray.serve._private.application_state.ApplicationState"),
}

File = tuple[str, str]
"""Path relative to the root, and text."""


@cache
def _sources() -> list[File]:
    return [
        (path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for folder in SOURCES
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def _room(path: str) -> str | None:
    """The layer or room that a module belongs to; None for rayapp/__init__.py."""
    parts = path.removesuffix(".py").split("/")
    if parts[0] != "rayapp":
        return parts[0]
    return parts[1] if parts[1] != "__init__" else None


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def _statements(text: str) -> list[ast.stmt]:
    """Every statement, however deep; expressions, most of a tree, hold none."""
    found: list[ast.stmt] = []
    blocks: list[ast.AST] = [_parsed(text)]
    while blocks:
        block = blocks.pop()
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(block, name, [])
            found += [node for node in inner if isinstance(node, ast.stmt)]
            blocks += inner
    return found


@cache
def _imports(text: str) -> list[tuple[int, str]]:
    """Line and dotted name of each import; `from a import b` gives a.b."""
    return _named(_statements(text))


def _named(statements: Iterable[ast.stmt]) -> list[tuple[int, str]]:
    found = []
    for node in statements:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def _target_room(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] in ("jobs", "serve_apps"):
        return parts[0]
    return parts[1] if parts[0] == "rayapp" and len(parts) > 1 else None


def _is_below(name: str, vendor: str) -> bool:
    return name == vendor or name.startswith(vendor + ".")


def broken_rules(files: list[File]) -> list[str]:
    """Every import that breaks the dependency rule, as `path:line: what`."""
    found = []
    for path, text in files:
        room = _room(path)
        for line, name in _imports(text):
            problem = (
                _layer_problem(room, name)
                or _vendor_problem(room, name)
                or _private_problem(path, name)
            )
            if name.split(".")[0] in FORBIDDEN and path not in PICKLE_IN_FLIGHT:
                problem = f"{name} runs whatever is in the bytes it loads"
            if problem:
                found.append(f"{path}:{line}: {problem}")
    return found


def _private_problem(path: str, name: str) -> str | None:
    is_private = any(part == "_private" or part == "_internal" for part in name.split("."))
    if is_private and (path, name) not in PRIVATE_ALLOWED:
        return f"{name} is private and may go with any release: name it in PRIVATE_ALLOWED, and why"
    return None


def _layer_problem(room: str | None, name: str) -> str | None:
    if name.startswith("."):
        return f"relative import {name!r}: write the whole name"
    target = _target_room(name)
    if target is None or room is None or target == room:
        return None
    if target not in RANK:
        return f"{name} is in no layer of the map"
    if room not in RANK:
        return f"{room} is in no layer of the map"
    if RANK[target] > RANK[room]:
        return f"{room} imports {target}, which is above it"
    if RANK[target] == RANK[room]:
        if {room, target} <= ROOMS:
            return f"room {room} imports room {target}: rooms meet in flows"
        if (room, target) not in EQUALS_ALLOWED:
            return f"{room} imports {target}, its equal: name the edge in EQUALS_ALLOWED or go down"
    return None


def _vendor_problem(room: str | None, name: str) -> str | None:
    for vendor, rooms in VENDOR_DOORS.items():
        if _is_below(name, vendor) and room not in rooms:
            return f"{name} belongs behind {sorted(rooms)}, not in {room}"
    if room in WITHOUT_RAY and (_is_below(name, "ray") or _is_below(name, "torch")):
        return f"{room} must import without Ray"
    return None


def heavy_at_start(files: list[File]) -> list[str]:
    """Imports of HEAVY outside functions, as `path:line: what`."""
    return [
        f"{path}:{line}: {name} takes seconds of every start: import it where it is used"
        for path, text in files
        if any(heavy in text for heavy in HEAVY)
        for line, name in _named(_parsed(text).body)
        if any(_is_below(name, heavy) for heavy in HEAVY)
    ]


def at_start(files: list[File], path: str) -> dict[str, str]:
    """All that the start of the module in `path` imports, ours and others', and the file that does;
    what functions import waits for their call."""
    texts = dict(files)
    found: dict[str, str] = {}
    waiting, seen = [path], {path}
    while waiting:
        path = waiting.pop()
        for _, name in _named(_parsed(texts[path]).body):
            found.setdefault(name, path)
            names = (name, name.rpartition(".")[0])
            ours = {f"{one.replace('.', '/')}.py" for one in names} & texts.keys() - seen
            seen |= ours
            waiting += ours
    return found


def oversized(files: list[File]) -> list[str]:
    """Files and functions beyond the limits."""
    found = []
    for path, text in files:
        lines = text.count("\n")
        if lines > MAX_FILE_LINES:
            found.append(f"{path}: {lines} lines, the limit is {MAX_FILE_LINES}")
        for function in _functions(text):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(
                    f"{path}:{function.lineno}: {function.name} has {length} lines, "
                    f"the limit is {MAX_FUNCTION_LINES}"
                )
    return found


def untyped(files: list[File]) -> list[str]:
    """Functions without a return type or with an argument without a type."""
    found = []
    for path, text in files:
        for function in _functions(text):
            arguments = function.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            bare = [a.arg for a in named if a.annotation is None and a.arg not in ("self", "cls")]
            if function.returns is None or bare:
                found.append(f"{path}:{function.lineno}: {function.name} ({', '.join(bare)})")
    return found


def misnamed_logs(files: list[File]) -> list[str]:
    """Logs by whose name nobody finds the module that writes them."""
    return [
        f"{path}: {name}"
        for path, text in files
        for name in re.findall(r'^log = logging\.getLogger\("(.*)"\)$', text, re.MULTILINE)
        if name != path.removesuffix(".py").replace("/", ".")
    ]


def _functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in _statements(text):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def cycles(files: list[File]) -> list[list[str]]:
    """Modules that import each other in a ring."""
    modules = {path.removesuffix(".py").replace("/", "."): text for path, text in files}
    graph: dict[str, set[str]] = {}
    for module, text in modules.items():
        names = {name for _, name in _imports(text)}
        hits = {n if n in modules else n.rpartition(".")[0] for n in names}
        graph[module] = (hits & modules.keys()) - {module}
    while leaves := [m for m, targets in graph.items() if not targets & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    return [sorted(graph)] if graph else []


def test_the_dependency_rule_holds() -> None:
    assert broken_rules(_sources()) == []


def test_no_start_pays_for_a_trainer_that_it_does_not_run() -> None:
    assert heavy_at_start(_sources()) == []
    planted = "from ray.train.torch import TorchTrainer\ndef f(): import ray.train.xgboost"
    assert len(heavy_at_start([("rayapp/train/x.py", planted)])) == 1


@pytest.mark.parametrize("path", ["serve_apps/predict.py", "serve_apps/llm.py"])
def test_no_gateway_pays_for_what_only_jobs_use(path: str) -> None:
    found = at_start(_sources(), path)
    assert "ray.serve.Application" in found
    assert "rayapp.database.Database" in found  # three modules away
    assert {n: found[n] for n in found if any(_is_below(n, one) for one in UNSERVED)} == {}


def test_files_and_functions_stay_small() -> None:
    assert oversized(_sources()) == []


def test_every_function_is_typed() -> None:
    assert untyped(_sources()) == []


def test_logs_are_named_by_their_modules() -> None:
    assert misnamed_logs(_sources()) == []


def test_no_import_cycles() -> None:
    assert cycles(_sources()) == []


def test_every_room_is_on_the_map() -> None:
    rooms = {_room(path) for path, _ in _sources()} - {None}
    assert rooms <= RANK.keys()


PLANTED = {
    "a room imports a room": ("rayapp/train/x.py", "from rayapp.data.read import read_view"),
    "hidden in a function": (
        "rayapp/train/x.py",
        "def f() -> None:\n    from rayapp.data.read import read_view",
    ),
    "hidden in a block": (
        "rayapp/train/x.py",
        "try:\n    pass\nexcept OSError:\n    match 1:\n        case 1:\n            import mlflow",
    ),
    "storage imports the ledger": ("rayapp/storage.py", "import rayapp.ledger"),
    "floor imports a room": ("rayapp/storage.py", "import rayapp.data.read"),
    "schemas import config": ("rayapp/schemas/x.py", "from rayapp.config.load import load"),
    "a room imports flows": ("rayapp/tune/x.py", "from rayapp.flows.session import Session"),
    "flows import the cli": ("rayapp/flows/x.py", "from rayapp.cli.app import main"),
    "flows import jobs": ("rayapp/flows/x.py", "from jobs.entry import run_job"),
    "a door into a door": ("rayapp/cli/x.py", "from jobs.entry import run_job"),
    "relative": ("rayapp/train/x.py", "from ..data import read"),
    "not on the map": ("rayapp/train/x.py", "from rayapp.utils import anything"),
    "mlflow": ("rayapp/train/x.py", "import mlflow"),
    "ray.tune": ("rayapp/train/x.py", "from ray import tune"),
    "ray.serve": ("rayapp/observe/x.py", "from ray.serve.schema import ServeDeploySchema"),
    "ray.train": ("rayapp/tune/x.py", "import ray.train"),
    "ray.data": ("rayapp/train/x.py", "from ray.data import Dataset"),
    "private": ("rayapp/serve/x.py", "from ray._private.worker import get_dashboard_url"),
    "torch": ("rayapp/evaluate/x.py", "from torch import nn"),
    "xgboost": ("rayapp/train/x.py", "import xgboost as xgb"),
    "peft": ("rayapp/llm/x.py", "import peft"),
    "Ray on the floor": ("rayapp/config/x.py", "import ray"),
    "pickle": ("rayapp/register/x.py", "import pickle"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_violation_is_found(case: str) -> None:
    path, text = PLANTED[case]
    assert len(broken_rules([(path, text)])) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("rayapp/flows/x.py", "from rayapp.data.read import read_view"),
        ("rayapp/train/x.py", "from ray.train import Checkpoint"),
        ("rayapp/evaluate/x.py", "import ray.data"),
        ("serve_apps/x.py", "from ray import serve"),
    ],
)
def test_what_the_rule_allows(path: str, text: str) -> None:
    assert broken_rules([(path, text)]) == []


def test_planted_sizes_types_names_and_rings_are_found() -> None:
    long_function = "def f() -> None:\n" + "    x = 1\n" * MAX_FUNCTION_LINES
    assert len(oversized([("a.py", long_function), ("b.py", "\n" * 401)])) == 2
    assert len(untyped([("a.py", "def f(x): ...\ndef g() -> None: ...")])) == 1
    assert len(misnamed_logs([("rayapp/a.py", 'log = logging.getLogger("rayapp.b")')])) == 1
    ring = [("rayapp/a.py", "import rayapp.b"), ("rayapp/b.py", "from rayapp.a import x")]
    assert cycles([*ring, ("rayapp/c.py", "import rayapp.a")])[0][:2] == ["rayapp.a", "rayapp.b"]
