"""A language model's weights, brought into the form that vLLM and transformers read, by content.

Only data is taken from where they come: safetensors or GGUF, the tokenizer and configuration as
JSON and text. A folder whose weights are pickled is refused, and code in one is left where it is.
"""

import copy
import importlib.metadata
import importlib.util
import json
import shutil
import struct
import tempfile
from math import prod
from pathlib import Path
from typing import NamedTuple

from rayapp.config.weights import WeightsConfig
from rayapp.errors import DataError, TamperedError, UserError
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.record import short
from rayapp.storage import (
    Workspace,
    commit_folder,
    digest_file,
    digest_folder,
    folder_digest,
    local_folder,
    present_weights,
)

TAKEN = frozenset((".json", ".safetensors", ".txt", ".jinja", ".model", ".md"))
REFUSED = frozenset((".bin", ".pt", ".pth", ".pkl", ".ckpt"))
"""Loading these would run what is in them."""
_CONFIG, _SAFETENSORS = "config.json", ".safetensors"


def add_weights(config: WeightsConfig, workspace: Workspace) -> WeightsRef:
    """Keep the weights in the workspace; again with the same content does nothing.

    Raises UserError where the source is not there, TamperedError where it is not what `sha256`
    says, DataError where it holds no model that could be served.
    """
    source = source_of(config)
    with tempfile.TemporaryDirectory(prefix="rayapp-weights-") as scratch:
        folder = Path(scratch) / "model"
        if source.suffix == ".gguf":
            source_sha256: str | None = _require_sha256(config, source)
            _convert_gguf(source, folder, config.dtype or "float32")
        else:
            source_sha256 = _require_sha256(config, _weights_in(source)) if config.sha256 else None
            _take(source, folder)
        files = digest_folder(folder)
        digest = folder_digest(files)
        uri = workspace.artifact("weights", digest)
        facts = _facts(folder)
        commit_folder(folder, uri)
    package = config.package
    return WeightsRef(
        name=config.name,
        uri=uri,
        digest=digest,
        files=files,
        task=config.task,
        source=f"{package.package}=={package.version}/{package.path}" if package else str(source),
        source_sha256=source_sha256,
        license=config.license,
        **facts._asdict(),
    )


def local_path(weights: WeightsRef, workspace: Workspace) -> Path:
    """Where a node has them, or will: in the workspace itself, where that is a folder."""
    return local_folder(weights.uri, _cache(weights, workspace))


def local_weights(weights: WeightsRef, workspace: Workspace) -> Path:
    """Have them on this node. Raises TamperedError unless every file is what it was."""
    return present_weights(weights, _cache(weights, workspace))


def local_tokenizer(weights: WeightsRef, workspace: Workspace) -> Path:
    """As local_weights, without the weights themselves: for those who only count tokens."""
    cache = _cache(weights, workspace)
    return present_weights(weights, cache, lambda path: not path.endswith(_SAFETENSORS))


def _cache(weights: WeightsRef, workspace: Workspace) -> Path:
    return workspace.local / "weights" / weights.digest


def source_of(config: WeightsConfig) -> Path:
    """Where they lie. Raises UserError where they do not, or in another version."""
    package = config.package
    if package is None:
        found = Path(config.source_path).expanduser().absolute()
    else:
        spec = importlib.util.find_spec(package.package)
        if spec is None or spec.origin is None:
            raise UserError(
                f"the package {package.package} is not installed here", "run: scripts/setup llm"
            )
        installed = importlib.metadata.version(package.package)
        if installed != package.version:
            raise UserError(
                f"{package.package} {installed} is installed, the config names {package.version}",
                "name that version, with the sha256 of its file, or install the other",
            )
        found = Path(spec.origin).parent / package.path
    if not found.exists():
        raise UserError(f"there are no weights at {found}", "correct `path` or `folder`")
    return found


def _require_sha256(config: WeightsConfig, file: Path) -> str:
    found = digest_file(file)
    if found != config.sha256:
        raise TamperedError(
            f"{file}: sha256 is {short(found)}…, the config has {short(config.sha256 or '')}…",
            "get the file again; if it was meant to change, correct the config",
        )
    return found


def _weights_in(folder: Path) -> Path:
    found = sorted(folder.glob(f"*{_SAFETENSORS}"))
    if len(found) != 1:
        raise UserError(
            f"{folder} has {len(found)} files of weights, `sha256` is of one",
            "leave `sha256` out where weights are in several files",
        )
    return found[0]


def _take(source: Path, folder: Path) -> None:
    """Copy what a model is read from."""
    names = {path.suffix for path in source.iterdir() if path.is_file()}
    if names & REFUSED and _SAFETENSORS not in names:
        raise DataError(
            f"{source} has its weights in {', '.join(sorted(names & REFUSED))} files, which run "
            "code when they are loaded",
            "convert them to safetensors first",
        )
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix in TAKEN:
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


class _Facts(NamedTuple):
    architecture: str
    num_parameters: int
    max_context_tokens: int


def _facts(folder: Path) -> _Facts:
    """What the model's own files say of it. Raises DataError where they are no model's."""
    try:
        config = json.loads((folder / _CONFIG).read_bytes())
        architecture = config["architectures"][0]
        max_context_tokens = int(config["max_position_embeddings"])
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"{_CONFIG} does not say what model it is ({error!r})",
            "take a folder in Hugging Face's layout, with `architectures` and "
            "`max_position_embeddings`",
        ) from None
    shards = sorted(folder.glob(f"*{_SAFETENSORS}"))
    if not shards:
        raise DataError("there are no weights as safetensors", "convert them first")
    return _Facts(architecture, sum(map(_num_parameters, shards)), max_context_tokens)


def _num_parameters(shard: Path) -> int:
    """From the head of a safetensors file (its format: 8 bytes of length, then JSON)."""
    with shard.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(length))
    return sum(prod(entry["shape"]) for name, entry in head.items() if name != "__metadata__")


def _convert_gguf(source: Path, folder: Path, dtype: str) -> None:
    """transformers reads a GGUF file into full numbers, but saves no model that came from one; so
    another of the same class takes its numbers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    kind = getattr(torch, dtype)
    read = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=kind,
        quantization_config=GgufConfig(dequantize=True),
    )
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    made = type(read)(config)
    made.load_state_dict(read.state_dict())
    made.to(kind)
    made.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    special = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    made.generation_config = GenerationConfig(**special)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
