"""Low-rank adapters (LoRA) by way of peft, put into the student's own layers: the model keeps its class and its calls.

While it trains, and while its own modules roll out, the adapters compute beside the frozen weights. Whatever leaves
(a saved folder, another engine, an evaluation) has them merged, in float32 and then rounded to the weights' dtype.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.config import Lora
from trainer.data import derive_seed
from trainer.errors import UserError

NAME = "default"  # peft's own for a model's only adapter


def attach(model: Any, lora: Lora, seed: int) -> None:
    """Puts adapters on every linear map of the layers and freezes all else. Untrained, they change nothing.

    Raises:
        UserError: where peft is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(f"option 'lora.rank' needs peft ({error}): install `opd-harness[lora]`") from error
    options: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": "all-linear"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lora"))
        inject_adapter_in_model(LoraConfig(**options), model, NAME)
    model.eval()
    for parameter in model.parameters():
        if parameter.requires_grad:  # trained, hence float32
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def merged(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The state of the plain model: W + scale·B·A, under the names from before there were adapters."""
    found = {}
    for name, value in state.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        stem, base, rest = name.partition(".base_layer.")
        down = state.get(f"{stem}.lora_A.{NAME}.weight")
        if base and rest == "weight" and down is not None:
            up = state[f"{stem}.lora_B.{NAME}.weight"]
            wide = torch.promote_types(value.dtype, torch.float32)
            value = (value.to(wide) + (up.to(wide) @ down.to(wide)) * scale).to(value.dtype)
        found[f"{stem}.{rest}" if base else name] = value
    return found


@contextlib.contextmanager
def standing_in(model: Any, weights: Mapping[str, Tensor], keep: bool) -> Iterator[None]:
    """The model computes with merged `weights`, its adapters idle.

    Args:
        keep: put the frozen weights back afterwards, to the bit; not for those that a reshard throws away anyway.
    """
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    frozen = {}
    for name, layer in layers.items():
        weight = layer.get_base_layer().weight
        if keep:
            frozen[name] = weight.detach().cpu().clone()
        weight.data.copy_(weights[f"{name}.weight"])
        layer.merged_adapters.append(NAME)
    try:
        yield
    finally:
        for name, layer in layers.items():
            layer.merged_adapters.clear()
            if keep:
                layer.get_base_layer().weight.data.copy_(frozen[name])
