"""What a decoder is made of: parameters, those that a token passes through, cache per token. From its config alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.errors import UserError
from harness.runs.assets import hub_name, model_folder


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer with gated feed-forward layers, dense or a mixture of experts."""

    name: str
    layers: int
    hidden: int
    attention: int  # heads × head size
    kv: int  # key-value heads × head size
    vocab: int
    feed_forward: int  # parameters of all experts of a layer
    feed_forward_active: int  # of those that one token passes through
    small: int  # norms and biases
    tied: bool

    @property
    def _attention(self) -> int:
        return 2 * self.hidden * (self.attention + self.kv)  # q and o, k and v

    @property
    def head(self) -> int:
        return self.vocab * self.hidden

    @property
    def body(self) -> int:
        """Parameters of the matrices between embedding and head that a token is multiplied with."""
        return self.layers * (self._attention + self.feed_forward_active)

    @property
    def parameters(self) -> int:
        layers = self.layers * (self._attention + self.feed_forward)
        return layers + self.head * (1 if self.tied else 2) + self.small

    @property
    def cache_bytes(self) -> int:
        """Of keys and values per token, in bf16."""
        return 2 * 2 * self.layers * self.kv


def shape(name: str, config: Mapping[str, Any]) -> Shape:
    """The shape that a transformers config describes.

    Raises:
        UserError: if the config is not that of such a decoder.
    """
    try:
        hidden, heads, layers = (
            int(config[key]) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")
        )
        size = int(config.get("head_dim") or hidden // heads)
        kv = size * int(config.get("num_key_value_heads") or heads)
        experts = int(config.get("num_experts") or 0)
        if experts:
            one = 3 * hidden * int(config["moe_intermediate_size"])
            gate = hidden * experts
            total, active = gate + experts * one, gate + int(config["num_experts_per_tok"]) * one
        else:
            total = active = 3 * hidden * int(config["intermediate_size"])
        kind = str(config.get("model_type", ""))
        norms = 2 * hidden + (2 * size if kind.startswith("qwen3") else 0)
        biases = heads * size + 2 * kv if kind == "qwen2" else 0
        return Shape(
            name,
            layers,
            hidden,
            heads * size,
            kv,
            int(config["vocab_size"]),
            total,
            active,
            layers * (norms + biases) + hidden,
            bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the config of {name} does not say what the model costs ({error}): no estimate") from None


def _qwen3(hidden: int, layers: int, heads: int, intermediate: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": intermediate,
        "vocab_size": 151936,
        "tie_word_embeddings": tied,
    }


_QWEN3_4B: Final = _qwen3(2560, 36, 32, 9728, True)
_QWEN3_30B_A3B: Final = _qwen3(2048, 48, 32, 6144, False) | {
    "model_type": "qwen3_moe",
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}

#: config.json of models on the hub, as far as costs go, and of checkpoints that were trained from them.
KNOWN: Final[dict[str, dict[str, Any]]] = {
    "Qwen/Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, True),
    "Qwen/Qwen3-4B": _QWEN3_4B,
    "Qwen/Qwen3-4B-Instruct-2507": _QWEN3_4B,
    "Qwen/Qwen3-8B": _qwen3(4096, 36, 32, 12288, False),
    "Qwen/Qwen3-14B": _qwen3(5120, 40, 40, 17408, False),
    "Qwen/Qwen3-30B-A3B": _QWEN3_30B_A3B,
    "Qwen/Qwen3-30B-A3B-Instruct-2507": _QWEN3_30B_A3B,
    "Keven16/Qwen3-4B-Non-Thinking-RL-Math-Step500": _QWEN3_4B,  # GRPO from Qwen3-4B
    "Keven16/Qwen3-4B-Non-Thinking-RL-Code-Step300": _QWEN3_4B,
}


def shape_of(name: str) -> Shape:
    """The shape of a model by its name in a spec: from its config.json where that is at hand, else from `KNOWN`.

    Raises:
        UserError: if neither is there, or the folder is none.
    """
    if not name.startswith("hub:"):
        return _read(name, model_folder(name) / "config.json")
    repo, revision, _ = hub_name(name)
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(repo, "config.json", revision=revision)
    if isinstance(cached, str):
        return _read(name, Path(cached))
    if repo in KNOWN:
        return shape(name, KNOWN[repo])
    raise UserError(f"the shape of {name} is not known: fetch its config.json, then there is an estimate")


def _read(name: str, path: Path) -> Shape:
    try:
        return shape(name, json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        raise UserError(f"{path} is not valid JSON: fetch the model again") from None
