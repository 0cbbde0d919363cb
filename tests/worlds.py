"""Small random worlds for the tests of the trainer.

`random_scores` makes ragged `Scores` with every optional field; `World` holds hidden states and heads from which
scores come through `score_head` and updates through `head_loss`; `tiny_policy` is a random Qwen3 of a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from trainer.config import Data, Machine, Optim, RunSpec
from trainer.data import Prompt
from trainer.head import head_loss, score_head
from trainer.losses import Tokens
from trainer.objective import Block, Objective, Plan, Scores
from trainer.policy import Policy
from trainer.rollout import Sampling
from trainer.scores import ROW_FIELDS, TOKEN_FIELDS

FROM_ELSEWHERE = ("ref_logprobs", "rollout_logprobs")  # the token fields that `score_head` does not make
WANT = tuple(name for name in TOKEN_FIELDS if name not in FROM_ELSEWHERE)


# --- scores out of thin air -----------------------------------------------------------------------------------


def random_lengths(generator: torch.Generator, rows: int, tokens: int) -> Tensor:
    """[rows] lengths in 0..tokens; empty rollouts are common on purpose."""
    return torch.randint(0, tokens + 1, (rows,), generator=generator)


def random_scores(seed: int, rows: int = 6, tokens: int = 5, lengths: Sequence[int] | None = None) -> Scores:
    """Ragged scores with every optional field, and NaN or infinity at every position outside of the mask."""
    g = torch.Generator().manual_seed(seed)
    sizes = random_lengths(g, rows, tokens) if lengths is None else torch.tensor(lengths)
    mask = torch.arange(tokens)[None, :] < sizes[:, None]
    garbage = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30])
    rubbish = garbage[torch.randint(0, 4, mask.shape, generator=g)]

    def noise() -> Tensor:
        return torch.where(mask, torch.rand(mask.shape, generator=g) * 3, rubbish)

    values = {name: -noise() if name.endswith("logprobs") else noise() for name in TOKEN_FIELDS}
    values["rollout_logprobs"] = values["logprobs"] + 0.1 * noise()
    values["teacher_rank"] = (3 * values["teacher_rank"]).floor() + 1
    values["teacher_mass"] = values["teacher_mass"] / 3
    return Scores(mask, **values, **random_columns(g, rows), progress=float(torch.rand((), generator=g)))


def random_columns(generator: torch.Generator, rows: int) -> dict[str, Tensor]:
    """The `[rows]` fields of scores. Group and domain numbers have gaps; identities are large and distinct."""
    return {
        "correct": torch.rand(rows, generator=generator) < 0.5,
        "completed": torch.rand(rows, generator=generator) < 0.7,
        "group": torch.arange(rows) // 2 * 3,
        "domain": torch.tensor([4, 1])[torch.randint(0, 2, (rows,), generator=generator)],
        "uid": torch.randperm(10 * rows + 1, generator=generator)[:rows] * (2**55 + 12345),
    }


def reorder(scores: Scores, order: Tensor) -> Scores:
    """The rows of `scores` in another order (written out, so as not to lean on `Scores.select`)."""
    picked = {name: getattr(scores, name) for name in (*TOKEN_FIELDS, *ROW_FIELDS)}
    moved = {name: None if value is None else value[order] for name, value in picked.items()}
    return Scores(scores.mask[order], **moved, progress=scores.progress)


def shifted(scores: Scores, left: int, right: int) -> Scores:
    """The same tokens with `left` and `right` more columns of padding that hold NaN."""

    def pad(value: Tensor) -> Tensor:
        return torch.nn.functional.pad(value, (left, right), value=float("nan"))

    tokens = {name: getattr(scores, name) for name in TOKEN_FIELDS}
    moved = {name: None if value is None else pad(value) for name, value in tokens.items()}
    mask = torch.nn.functional.pad(scores.mask, (left, right), value=False)
    return Scores(mask, **moved, **{name: getattr(scores, name) for name in ROW_FIELDS}, progress=scores.progress)


# --- hidden states and heads ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class World:
    """A batch of hidden states of a student and a teacher with `V` ids in common; masked positions hold NaN."""

    mask: Tensor  # [B,T]
    hidden: Tensor  # [B,T,h]
    head: Tensor  # [V,h]
    teacher_hidden: Tensor  # [B,T,g]
    teacher_head: Tensor  # [V,g]
    targets: Tensor  # [B,T]
    rollout_gap: Tensor  # [B,T] engine log-prob − trainer log-prob
    ref_logprobs: Tensor  # [B,T] of a third model
    columns: dict[str, Tensor]  # the row fields of Scores
    progress: float = 0.25

    def teacher(self) -> Callable[[Tensor], Tensor]:
        """The teacher's logits by place among the valid tokens."""
        hidden = self.teacher_hidden[self.mask]
        return lambda positions: hidden[positions] @ self.teacher_head.T

    def scores(self, chunk: int | None = None) -> Scores:
        """All scores of the batch, by way of `score_head`."""
        flat = score_head(self.hidden[self.mask], self.head, self.targets[self.mask], self.teacher(), WANT, chunk=chunk)
        full = {name: self._spread(value) for name, value in flat.items()}
        rollout = full["logprobs"] + self._spread(self.rollout_gap[self.mask])
        return Scores(
            self.mask,
            **full,
            rollout_logprobs=rollout,
            ref_logprobs=self.ref_logprobs,
            **self.columns,
            progress=self.progress,
        )

    def _spread(self, flat: Tensor) -> Tensor:
        return torch.full(self.mask.shape, float("nan")).masked_scatter(self.mask, flat)

    def tokens(self, hidden: Tensor, head: Tensor, rows: Tensor) -> Tokens:
        """What the contract path of an objective takes: `[b,T]` log-probs and `[b,T,V]` distributions, plain autograd."""
        safe = torch.where(self.mask[rows][..., None], hidden[rows], 0.0)
        other = torch.where(self.mask[rows][..., None], self.teacher_hidden[rows], 0.0)
        student = (safe @ head.T).log_softmax(-1)
        sampled = student.gather(-1, self.targets[rows][..., None])[..., 0]
        return Tokens(sampled, student, (other @ self.teacher_head.T).log_softmax(-1))

    def permuted(self, order: Tensor) -> World:
        """Rows in another order."""
        by_row = ("mask", "hidden", "teacher_hidden", "targets", "rollout_gap", "ref_logprobs")
        moved: dict[str, Any] = {name: getattr(self, name)[order] for name in by_row}
        return replace(self, **moved, columns={name: value[order] for name, value in self.columns.items()})

    def padded(self, left: int, right: int) -> World:
        """More padding on either side of the responses."""
        pad = torch.nn.functional.pad
        return replace(
            self,
            mask=pad(self.mask, (left, right), value=False),
            hidden=pad(self.hidden, (0, 0, left, right), value=float("nan")),
            teacher_hidden=pad(self.teacher_hidden, (0, 0, left, right), value=float("nan")),
            targets=pad(self.targets, (left, right), value=0),
            rollout_gap=pad(self.rollout_gap, (left, right), value=float("nan")),
            ref_logprobs=pad(self.ref_logprobs, (left, right), value=float("nan")),
        )


def random_world(
    seed: int,
    rows: int = 7,
    tokens: int = 6,
    vocab: int = 11,
    width: int = 5,
    lengths: Sequence[int] | None = None,
) -> World:
    """A world of random lengths; teacher and student differ but are not strangers."""
    g = torch.Generator().manual_seed(seed)
    sizes = random_lengths(g, rows, tokens) if lengths is None else torch.tensor(lengths)
    mask = torch.arange(tokens)[None, :] < sizes[:, None]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    hidden = normal(rows, tokens, width)
    head = normal(vocab, width)
    other = torch.cat([hidden + 0.5 * normal(rows, tokens, width), normal(rows, tokens, 2)], -1)
    other_head = torch.cat([head + 0.3 * normal(vocab, width), 0.3 * normal(vocab, 2)], -1)
    dead = ~mask[..., None]
    return World(
        mask,
        hidden.masked_fill(dead, float("nan")),
        head,
        other.masked_fill(dead, float("nan")),
        other_head,
        torch.randint(0, vocab, (rows, tokens), generator=g),
        0.2 * normal(rows, tokens),
        normal(rows, tokens) - 3.0,
        random_columns(g, rows),
    )


@dataclass(frozen=True, eq=False)
class Update:
    """What an objective does to a world: the numbers that no memory setting may change."""

    loss: float
    hidden: Tensor  # [B,T,h] gradient
    head: Tensor  # [V,h] gradient
    plan: Plan


def update(
    objective: Objective,
    world: World,
    parts: Sequence[Tensor] | None = None,
    chunk: int | None = None,
    only_live: bool = True,
) -> Update:
    """Loss and gradient of `objective` in micro-batches of the rows `parts`, as the training loop forms them.

    Args:
        only_live: hand the head the tokens with a coefficient only (as the loop does), or all valid ones.
    """
    plan = objective.plan(world.scores(chunk))
    hidden, head = world.hidden.clone().requires_grad_(), world.head.clone().requires_grad_()
    place = torch.zeros(world.mask.shape, dtype=torch.int64)
    place[world.mask] = torch.arange(int(world.mask.sum()))
    total = 0.0
    for rows in parts if parts is not None else [torch.arange(len(world.mask))]:
        inside = (plan.live & plan.mask if only_live else plan.mask)[rows]
        loss = head_loss(
            hidden[rows][inside],
            head,
            world.targets[rows][inside],
            place[rows][inside],
            objective,
            plan.map(lambda x, rows=rows, inside=inside: x[rows][inside]),  # type: ignore[misc]
            world.teacher(),
            chunk,
        )
        loss.backward()
        total += loss.item()
    assert hidden.grad is not None and head.grad is not None
    return Update(total, hidden.grad, head.grad, plan)


def plain_update(objective: Objective, world: World, parts: Sequence[Tensor] | None = None) -> Update:
    """The same through plain autograd on full logits and the contract path `objective.loss(plan, …, rows=rows)`."""
    plan = objective.plan(world.scores())
    hidden, head = world.hidden.clone().requires_grad_(), world.head.clone().requires_grad_()
    total = 0.0
    for rows in parts if parts is not None else [torch.arange(len(world.mask))]:
        loss = objective.loss(plan, world.tokens(hidden, head, rows), rows=rows)
        loss.backward()
        total += loss.item()
    assert hidden.grad is not None and head.grad is not None
    return Update(total, hidden.grad, head.grad, plan)


def assert_near(found: Tensor, expected: Tensor, rtol: float = 2e-5, atol: float = 1e-6) -> None:
    """Equal up to rounding, measured against the largest entry: sums that cancel have no relative precision."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    worst = float((found - expected).abs().max()) if found.numel() else 0.0
    assert worst <= atol + rtol * float(expected.abs().max() if expected.numel() else 0.0), worst  # false for NaN


def assert_same(a: Update, b: Update, rtol: float = 2e-5, atol: float = 1e-6) -> None:
    """Loss and both gradients agree, and none of them is NaN."""
    assert abs(a.loss - b.loss) <= atol + rtol * abs(b.loss), (a.loss, b.loss)
    assert_near(a.hidden, b.hidden, rtol, atol)
    assert_near(a.head, b.head, rtol, atol)


def has_block_scope(value: Any) -> bool:
    """Whether any statistic of an objective runs over consecutive rows, and so depends on their order."""
    if isinstance(value, Block):
        return True
    if isinstance(value, tuple):
        return any(map(has_block_scope, value))
    if is_dataclass(value) and not isinstance(value, type):
        return any(has_block_scope(getattr(value, f.name)) for f in fields(value))
    return False


# --- tiny models ----------------------------------------------------------------------------------------------

PAD, EOS, UNKNOWN, WORDS = 0, 1, 2, 60
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
)


@cache
def tiny_tokenizer(prefix: str = "w", size: int = WORDS) -> Any:
    """Whitespace-separated words `<pad> <eos> <unk> user assistant w5 w6 …`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<eos>", "<unk>", "user", "assistant", *(f"{prefix}{i}" for i in range(5, size))]
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", chat_template=TEMPLATE
    )


def tiny_policy(seed: int, head_rows: int = 64, tie: bool = False, tokenizer: Any = None, name: str = "") -> Policy:
    """A random Qwen3 with two layers of width 32, opinionated enough for its argmax to be stable."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=head_rows,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=256,
            tie_word_embeddings=tie,
            initializer_range=0.15,
            bos_token_id=None,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )
    torch.set_rng_state(state)
    return Policy(model.eval(), tokenizer or tiny_tokenizer(), name or f"tiny-{seed}")


class ListPrompts:
    """A prompt source that walks through a short list, a pure function of the step."""

    def __init__(self, domains: Sequence[str] = ("",), count: int = 11) -> None:
        self.prompts = [
            Prompt(str(i), " ".join(f"w{5 + (7 * i + j) % 50}" for j in range(1 + i % 4)), domains[i % len(domains)])
            for i in range(count)
        ]

    def batch(self, step: int, size: int) -> list[Prompt]:
        return [self.prompts[i % len(self.prompts)] for i in range(step * size, (step + 1) * size)]


def tiny_spec(method: str = "opd", **changes: Any) -> RunSpec:
    """A run of three steps with five short rollouts each."""
    machine = Machine(micro_batch=changes.pop("micro_batch", 64), engine_batch=changes.pop("engine_batch", 64))
    defaults: dict[str, Any] = {
        "student": "tiny-1",
        "teachers": (("", "tiny-2"),),
        "data": Data("list", prompts=5),
        "rollout": Sampling(max_tokens=7),
        "optim": Optim(lr=1e-3, warmup=1),
        "steps": 3,
        "machine": machine,
    }
    return RunSpec(method=method, **(defaults | changes))
