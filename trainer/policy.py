"""The one file that knows transformers' model classes: loading, hidden states, the head, saving."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.rollout import Rollouts


class Policy:
    """A causal language model with its tokenizer. Student and teachers are policies; only one of them is trained.

    Attributes:
        vocab: ids below it exist in every model of the run; head rows above it are never looked at.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str = "") -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.vocab = min(model.get_output_embeddings().weight.shape[0], max(tokenizer.get_vocab().values()) + 1)
        eos = model.generation_config.eos_token_id
        found = [tokenizer.eos_token_id] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        self.eos_ids = frozenset(i for i in found if i is not None)
        if not self.eos_ids:
            raise UserError(f"{name}: neither generation_config nor tokenizer names an end-of-sequence token")
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.eos_ids)
        head = model.get_output_embeddings()
        if type(head) is not torch.nn.Linear or head.bias is not None:
            raise UserError(f"{name}: its head is not a plain linear map, which the fused loss needs")

    @classmethod
    def load(cls, path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Policy:
        """Reads a transformers folder.

        Raises:
            UserError: if the folder is missing or transformers cannot read it.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # our own bars say what is going on
        if not path.is_dir():
            raise UserError(f"model folder {path} does not exist")
        if not (path / "config.json").exists():
            raise UserError(f"{path} has no config.json: it is not a transformers model folder")
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
        except Exception as error:  # a damaged folder fails in many ways: SafetensorError, KeyError, OSError, …
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"transformers cannot read the model in {path}: {reason}") from error
        # Dropout would make a rollout and its score disagree.
        return cls(model.eval().to(device), tokenizer, path.name)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def head(self) -> Tensor:
        """[vocab,h] head weight, a view: gradients reach the model's own parameter."""
        return self.model.get_output_embeddings().weight[: self.vocab]

    def render(self, text: str) -> list[int]:
        """Token ids of a user message under the model's chat template, thinking off, ready for generation."""
        if not self.tokenizer.chat_template:
            raise UserError(f"{self.name}: the tokenizer has no chat template")
        return list(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                add_generation_prompt=True,
                enable_thinking=False,
                tokenize=True,
                return_dict=False,
            )
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of response ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def hidden(self, rollouts: Rollouts) -> Tensor:
        """[N,h] states at the positions that predict the valid response tokens, in row order."""
        positions = (rollouts.attention.cumsum(1) - 1).clamp(min=0)
        states = self.model.model(
            input_ids=rollouts.input_ids,
            attention_mask=rollouts.attention,
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        width = rollouts.input_ids.shape[1] - rollouts.mask.shape[1]
        return states[:, width - 1 : -1][rollouts.mask]

    def save(self, folder: Path) -> None:
        """Writes a transformers folder that `load`, vLLM and lm-eval read."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def share_vocabulary(student: Policy, other: Policy) -> None:
    """Checks that two models mean the same token by the same id, and cuts both to the ids they share.

    Head sizes may differ (151,936 against 152,064 in one family): the token → id maps decide, not the config.

    Raises:
        UserError: naming the first id on which the maps differ, or the end-of-sequence ids where those do.
    """
    ours, theirs = ({i: t for t, i in p.tokenizer.get_vocab().items()} for p in (student, other))
    most = min(student.vocab, other.vocab)
    shared = next((i for i in range(most) if ours.get(i) != theirs.get(i)), most)
    # A few extra special tokens at the end of one tokenizer are fine; a different tokenizer is not.
    if shared < 0.99 * max(len(ours), len(theirs)):
        raise UserError(
            f"student '{student.name}' and teacher '{other.name}' have different vocabularies: id {shared} is "
            f"{ours.get(shared)!r} in one and {theirs.get(shared)!r} in the other; use models of one tokenizer"
        )
    if not student.eos_ids & other.eos_ids:
        raise UserError(
            f"student '{student.name}' ends at {sorted(student.eos_ids)}, teacher '{other.name}' at "
            f"{sorted(other.eos_ids)}: they share no end-of-sequence id"
        )
    student.vocab = other.vocab = shared


def fingerprint(folder: Path) -> str:
    """SHA-256 (first 16 hex digits) of a model folder's weights, config and tokenizer."""
    digest = hashlib.sha256()
    names = ("*.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template*")
    files = sorted({file for name in names for file in folder.glob(name)})
    if not files:
        raise UserError(f"{folder} holds no model (no safetensors, no config.json)")
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()[:16]
