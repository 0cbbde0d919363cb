"""The one file that knows transformers' model classes: loading, hidden states, the head, saving."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.batches import token_order
from trainer.distributed import ALONE
from trainer.errors import UserError
from trainer.rollout import Rollouts


class Policy:
    """A causal language model with its tokenizer. Student and teachers are policies; only one of them is trained.

    Attributes:
        vocab: ids below it exist in every model of the run; head rows above it are never looked at.
        ranks: the processes that hold it together. Where it is `sharded` (`trainer.sharding`), every method that
            computes or gathers is called by all of them.
        dtype: in which it computes, is saved and handed to engines.
        adapters: scale of its low-rank adapters (`trainer.adapters`); 0 without.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str = "") -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.ranks = ALONE
        self.sharded = False
        self.dtype: torch.dtype = model.get_output_embeddings().weight.dtype
        self.adapters = 0.0
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
        """[vocab,h] head weight, a view of `padded_head`."""
        return self.padded_head[: self.vocab]

    @property
    def padded_head(self) -> Tensor:
        """[rows,h] the head's parameter, with the rows of no id. Sharded: after a pass, or `whole`.

        A pass leaves it gathered until `release`; gradients of it are scattered back by the backward pass.
        """
        weight: Tensor = self.model.get_output_embeddings().weight
        if self.sharded and hasattr(weight, "full_tensor"):
            raise RuntimeError(f"{self.name}: the head is asked for while its parts lie in several processes")
        return weight

    def render(self, text: str, thinking: bool = False) -> list[int]:
        """As `Chat.render`."""
        return Chat(self.tokenizer, self.name).render(text, thinking)

    def decode(self, ids: Sequence[int]) -> str:
        """As `Chat.decode`."""
        return Chat(self.tokenizer, self.name).decode(ids)

    def hidden(self, rollouts: Rollouts) -> Tensor:
        """[N,h] states at the positions that predict the valid response tokens, in row order."""
        positions = (rollouts.attention.cumsum(1) - 1).clamp(min=0)
        states = self._states(rollouts.input_ids, rollouts.attention, positions)
        width = rollouts.input_ids.shape[1] - rollouts.mask.shape[1]
        return states[:, width - 1 : -1][rollouts.mask]

    def idle(self) -> Tensor:
        """[0,h]: a pass over one filler token, while other processes pass over rows that this one has not."""
        one = torch.ones((1, 1), dtype=torch.int64, device=self.device)
        return self._states(one * self.pad_id, one, one - 1)[0, :0]

    def hidden_in(self, rollouts: Rollouts, parts: Sequence[Tensor]) -> Tensor:
        """As `hidden`, in passes over `parts`, which hold every row once; in step with the other processes."""
        missing = max(1, self.ranks.most(len(parts))) - len(parts)  # one at least, for the head to be there
        states = [self.hidden(rollouts.rows(rows)) for rows in parts] + [self.idle() for _ in range(missing)]
        flat = torch.cat(states)
        order = token_order(rollouts.mask, parts) if parts else None
        return flat if order is None else flat[order]

    def _states(self, ids: Tensor, attention: Tensor, positions: Tensor) -> Tensor:
        inputs = {"input_ids": ids, "attention_mask": attention, "position_ids": positions, "use_cache": False}
        if self.sharded:  # through the root, which gathers and frees parameters around it
            states: Tensor = self.model.decoder_states(**inputs)
            return states
        return self.model.model(**inputs).last_hidden_state

    def release(self) -> None:
        """Frees what passes left gathered, before an optimiser's step at the latest."""
        if self.sharded:
            self.model.reshard()

    @contextlib.contextmanager
    def whole(self, merged: bool = False) -> Iterator[None]:
        """Within, the modules can be called directly: all parameters are in place, in every process.

        Args:
            merged: compute with the adapters merged, as `weights` and `save` have them. Otherwise they work beside the
                frozen weights, as in training: the same but for rounding.
        """
        with contextlib.ExitStack() as stack:
            weights = self.weights() if merged and self.adapters else None
            if self.sharded:
                from trainer.sharding import gathered

                stack.enter_context(gathered(self.model))
            if weights is not None:
                from trainer.adapters import standing_in

                stack.enter_context(standing_in(self.model, weights, keep=not self.sharded))
            yield

    def weights(self, everywhere: bool = True) -> dict[str, Tensor]:
        """The plain model's state: gathered, adapters merged, in `dtype`. For an engine, or a folder.

        Args:
            everywhere: in every process; else in the first, in host memory, and nothing in the others.
        """
        state: dict[str, Any] = {name: value.detach() for name, value in self.model.state_dict().items()}
        if self.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            options = StateDictOptions(full_state_dict=True, cpu_offload=not everywhere)
            state = dict(get_model_state_dict(self.model, options=options))
        if self.adapters:
            from trainer.adapters import merged

            state = merged(state, self.adapters)
        return {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in state.items()}

    def save(self, folder: Path) -> None:
        """Writes a transformers folder that `load`, vLLM and lm-eval read."""
        model = self.model
        if self.sharded or self.adapters:
            state = self.weights(everywhere=False)
            if not self.ranks.first:
                return
            with torch.device("meta"):  # a plain model of the class, to put the weights into
                model = type(self.model)(self.model.config)
            model.load_state_dict(state, assign=True)
            model.tie_weights()
            model.generation_config = self.model.generation_config
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class Chat:
    """A tokenizer with its chat template: all that is needed to put a problem to a model and to read its answer."""

    def __init__(self, tokenizer: Any, name: str = "") -> None:
        self.tokenizer, self.name = tokenizer, name

    @classmethod
    def load(cls, path: Path) -> Chat:
        """Of a transformers folder, without the model's weights.

        Raises:
            UserError: if transformers cannot read it.
        """
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(path, local_files_only=True), path.name)
        except Exception as error:  # as in `Policy.load`
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"transformers cannot read the tokenizer in {path}: {reason}") from error

    def render(self, text: str, thinking: bool = False) -> list[int]:
        """Token ids of a user message under the model's chat template, ready for generation.

        `thinking` is the template's own switch; a template without one ignores it.
        """
        if not self.tokenizer.chat_template:
            raise UserError(f"{self.name}: the tokenizer has no chat template")
        return list(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                add_generation_prompt=True,
                enable_thinking=thinking,
                tokenize=True,
                return_dict=False,
            )
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of response ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


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
