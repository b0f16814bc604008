"""The network of a fit: base weights and an adapter beside them, its loss, its files.

Shape suffixes: N sequences, L tokens in each, K of them looked at, V vocabulary.
"""

import copy
import importlib.util
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from rayapp.errors import UserError
from rayapp.schemas.record import canonical_json

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
MERGED_FOLDER = "merged"


def open_network(
    folder: Path, settings: Mapping[str, Any], device: torch.device, resume_from: Path | None
) -> PreTrainedModel | PeftModel:
    """The base model with a fresh adapter, or with what was learned so far. Raises UserError where
    this machine cannot do what `method` says."""
    method = settings["method"]
    options: dict[str, Any] = {
        "dtype": torch.float32 if method == "full" else getattr(torch, settings["precision"]),
        "attn_implementation": "sdpa",
        "local_files_only": True,
    }
    if method == "qlora":
        _require_four_bits(device)
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        options["device_map"] = {"": device}
    if method == "full":
        return AutoModelForCausalLM.from_pretrained(resume_from or folder, **options).to(device)
    base = AutoModelForCausalLM.from_pretrained(folder, **options)
    if method == "qlora":
        base = prepare_model_for_kbit_training(base)
    network = get_peft_model(base, _adapter(settings["lora"]))
    if resume_from is not None:
        set_peft_model_state_dict(network, load_file(resume_from / ADAPTER_FILE))
    return network if method == "qlora" else network.to(device)


def computing(settings: Mapping[str, Any]) -> torch.dtype | None:
    """What a pass computes in, where its weights are in full numbers; None: in what they are in.

    Weights that are learned must be: bfloat16 has three digits, and rounds most steps away.
    """
    is_other = settings["method"] == "full" and settings["precision"] != "float32"
    return getattr(torch, settings["precision"]) if is_other else None


def _adapter(lora: Mapping[str, Any]) -> LoraConfig:
    targets = list(lora["targets"])
    return LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )


def _require_four_bits(device: torch.device) -> None:
    if device.type != "cuda":
        raise UserError(
            f"method 'qlora' needs a GPU, this worker has {device.type}",
            "set workers.use_gpu, or method: lora",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "method 'qlora' needs the package bitsandbytes, which is not installed here",
            "install it into the environment of language models, or set method: lora",
        )


class AnswerLoss(nn.Module):
    """The network as a fit uses it: packed sequences in, the loss of the answers' tokens out.
    dtype: as `computing` gives it."""

    def __init__(
        self, network: PreTrainedModel | PeftModel, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.network: Any = network
        self._dtype = dtype

    def forward(
        self, tokens_NL: Tensor, positions_NL: Tensor, is_answer_NL: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum of the loss in nats over all answer tokens, and which tokens [N, L] were wrong:
        answer tokens that were not the likeliest.

        Only places where some sequence is about to predict an answer reach the vocabulary, which is
        most of a small model's work.
        """
        next_is_answer_NL = is_answer_NL[:, 1:]
        look_K = next_is_answer_NL.any(dim=0).nonzero().squeeze(1)
        dtype = self._dtype
        with torch.autocast(tokens_NL.device.type, dtype, enabled=dtype is not None):
            logits_NKV = self.network(
                input_ids=tokens_NL,
                position_ids=positions_NL,
                attention_mask=self._mask(positions_NL),
                logits_to_keep=look_K,
                use_cache=False,
            ).logits.float()
        target_NK = tokens_NL[:, 1:][:, look_K]
        counts_NK = next_is_answer_NL[:, look_K]
        loss_NK = nn.functional.cross_entropy(
            logits_NKV.flatten(0, 1), target_NK.flatten(), reduction="none"
        ).view_as(target_NK)
        wrong_NL = torch.zeros_like(is_answer_NL)
        wrong_NL[:, look_K + 1] = (logits_NKV.argmax(dim=-1) != target_NK) & counts_NK
        return (loss_NK * counts_NK).sum(), wrong_NL

    def _mask(self, positions_NL: Tensor) -> Tensor:
        """Zero where a token may look, the least number elsewhere: back, and within its own
        example. Given as a whole, it is taken as it is by every model of transformers."""
        segment_NL = (positions_NL == 0).cumsum(dim=1)
        same_NLL = segment_NL[:, :, None] == segment_NL[:, None, :]
        seen_NLL = same_NLL.tril()
        dtype = self._dtype or next(self.network.parameters()).dtype
        dtype = dtype if dtype.is_floating_point else torch.bfloat16
        mask_NLL = torch.zeros(seen_NLL.shape, dtype=dtype, device=positions_NL.device)
        mask_NLL.masked_fill_(~seen_NLL, torch.finfo(dtype).min)
        return mask_NLL[:, None]


def write_network(network: nn.Module, base: Path, base_name: str, folder: Path) -> None:
    """As peft, transformers and vLLM read it, and the same bytes for the same weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(network, PeftModel):
        _write_whole(network, base, folder)
        return
    state = get_peft_model_state_dict(network)
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(kept, folder / ADAPTER_FILE, metadata={"format": "pt"})
    config = network.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    plain = {key: sorted(v) if isinstance(v, set) else v for key, v in config.items()}
    text = canonical_json(json.loads(json.dumps(plain, default=str)))
    (folder / ADAPTER_CONFIG_FILE).write_bytes(text)


def write_merged(network: nn.Module, base: Path, folder: Path) -> None:
    """Whole weights with the adapter added; the network itself stays as it is."""
    copied: Any = copy.deepcopy(network)
    merged = copied.merge_and_unload()
    _write_whole(merged, base, folder)


def _write_whole(network: Any, base: Path, folder: Path) -> None:
    network.save_pretrained(folder)
    for path in sorted(base.iterdir()):  # the tokenizer, and the chat template
        if path.is_file() and path.suffix != ".safetensors" and not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
