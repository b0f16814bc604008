"""A released adapter without hours of training: small random LoRA weights, sealed as the flows do
it. What an adapter learns is other tests' affair (tests/local/test_tuning_on_ray.py)."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from shells import Shell

from rayapp.families.bundle import write_bundle
from rayapp.flows.weights import find_weights
from rayapp.ledger import Ledger
from rayapp.register.manifest import manifest_uri, seal, write_manifest
from rayapp.register.signing import load_or_create_key
from rayapp.release.promote import champion_pointer, promote
from rayapp.schemas.data import Column, Profile
from rayapp.schemas.language import WeightsRef
from rayapp.schemas.model import BundleRef, BundleSchema, Feature, LanguageSchema
from rayapp.schemas.operations import EventKind
from rayapp.schemas.release import Estimate, Evaluation, Manifest, SliceEvaluation, Verdict
from rayapp.storage import commit_bytes, commit_folder, folder_digest

RANK, NUM_LAYERS, WIDTH = 8, 30, 576
PASSED = Verdict(gate="useful", value="pass", reason="exact_match 0.68 [0.61, 0.74] is over 0.60")


def release_adapter(
    shell: Shell,
    weights: str,
    endpoint: str,
    seed: int,
    rank: int = RANK,
    scale: float = 0.05,
    reads: str | None = None,
    estimates: tuple[Estimate, ...] = (),
) -> str:
    """A champion, by its release id. weights: their name; the shapes are those of SmolLM2-135M.
    reads: the column that its prompt shows; None: its callers send whole chats. estimates: of the
    evaluation that it is sealed with; nobody measured them, as random weights have no task."""
    workspace = shell.workspace
    ledger = Ledger.of(workspace, "test")
    base = find_weights(ledger, weights)
    folder = Path(workspace.uri).parent / f"adapter-{endpoint}-{seed}"
    schema = _schema(endpoint, base, reads)
    write_bundle(
        folder,
        schema,
        Profile(num_rows=1, columns=()),
        lambda model: _write(model, base.name, seed, rank, scale),
    )
    uri = workspace.artifact("bundles", f"{endpoint}-{seed}")
    files = commit_folder(folder, uri)
    bundle = BundleRef(uri=uri, digest=folder_digest(files), files=files, bundle_schema=schema)
    evaluation = _evaluation(bundle, estimates)
    evaluated = f"{workspace.artifact('evaluations', evaluation.content_digest())}/evaluation.json"
    commit_bytes(evaluated, evaluation.canonical())
    judged = {"evaluation_digest": evaluation.content_digest(), "evaluation_uri": evaluated}
    manifest = _manifest(endpoint, bundle).model_copy(update=judged)
    signed = seal(manifest, load_or_create_key(workspace.keys))
    write_manifest(workspace, signed)
    payload = {
        "release_id": signed.release_id,
        "manifest_uri": manifest_uri(workspace, signed.release_id),
        "endpoint": endpoint,
        "run_id": signed.manifest.run_id,
        "verdicts": [PASSED.model_dump(mode="json")],
    }
    ledger.append(EventKind.RELEASE_SEALED, signed.release_id, payload)
    before = ledger.pointer(champion_pointer(endpoint))
    promote(ledger, signed, before.revision if before else 0)
    return signed.release_id


def _write(folder: Path, base: str, seed: int, rank: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(NUM_LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = rng.normal(0, 1, (rank, WIDTH)).astype(np.float32)
        made = rng.normal(0, scale, (WIDTH, rank)).astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = made
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj"],
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _schema(endpoint: str, base: WeightsRef, reads: str | None) -> BundleSchema:
    language = LanguageSchema(
        base_name=base.name,
        base_digest=base.digest,
        method="lora",
        system="Parse the user agent.",
        prompt="{%s}" % (reads or "useragent"),
        features=(Feature(name=reads, expression=reads),) if reads else (),
        fields=(),
    )
    return BundleSchema(
        name=f"{endpoint}_lora",
        family="llm",
        task="text",
        label="answer",
        classes=(),
        inputs=(Column(name=reads, type="string"),) if reads else (),
        features=(),
        language=language,
    )


def _evaluation(bundle: BundleRef, estimates: tuple[Estimate, ...]) -> Evaluation:
    return Evaluation(
        run_id=f"run-{bundle.digest[:8]}",
        snapshot_id="0" * 64,
        split="test",
        task="text",
        bundle_digest=bundle.digest,
        champion=None,
        overall=SliceEvaluation(slice="", num_rows=100, estimates=estimates),
        slices=(),
        curves=(),
        label_shares=(),
        latency=None,
    )


def _manifest(endpoint: str, bundle: BundleRef) -> Manifest:
    return Manifest(
        endpoint=endpoint,
        created_at=datetime.now(UTC),
        run_id=f"run-{endpoint}",
        bundle=bundle,
        snapshot_id="0" * 64,
        data_digests={},
        contracts=(),
        config={},
        code_digest="c",
        environment_digest="e",
        evaluation_digest="v",
        evaluation_uri="memory",
        verdicts=(PASSED,),
        policy_digest="p",
        card_digest="k",
        card_uri="memory",
        mlflow_run_id="m",
    )
