"""A run as a frozen value, and the identity that is hashed from it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from trainer.errors import UserError
from trainer.methods import method
from trainer.objective import Objective
from trainer.rollout import Sampling
from trainer.settings import canonical, edit


@dataclass(frozen=True)
class Data:
    """Where prompts come from and how many make a step."""

    source: str  # `toy:math`, `toy:math+code`, `hub:…`, or a JSONL or parquet file
    prompts: int = 64  # per optimisation step
    samples: int = 1  # rollouts per prompt
    column: str = ""  # of a file with several candidates: the one that holds the problem
    max_prompt: int | None = None  # prompts of more tokens, template included, are left out; None = no limit
    duplicates: Literal["drop", "keep"] = "drop"  # prompts of one text and one domain

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.samples < 1:
            raise UserError("a step needs at least one prompt and one sample per prompt")
        if self.max_prompt is not None and self.max_prompt < 1:
            raise UserError(f"option 'data.max_prompt' must be at least 1, got {self.max_prompt}")
        if self.duplicates not in ("drop", "keep"):
            raise UserError(f"option 'data.duplicates' is drop or keep, not '{self.duplicates}'")


@dataclass(frozen=True)
class Optim:
    """AdamW with a warm-up and a decay. `final` is the last learning rate as a fraction of `lr`."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    warmup: int = 5
    decay: Literal["linear", "cosine", "constant"] = "linear"
    final: float = 0.1

    def __post_init__(self) -> None:
        if not (self.lr >= 0 and self.weight_decay >= 0 and self.clip_norm > 0):
            raise UserError("'optim.lr' and 'optim.weight_decay' must not be negative, 'optim.clip_norm' not even zero")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UserError(f"'optim.beta1' and 'optim.beta2' lie in [0, 1), got {self.beta1:g} and {self.beta2:g}")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.decay == "constant":
            return self.lr
        done = (step - self.warmup) / max(1, steps - self.warmup)
        shape = 1.0 - done if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.lr * (self.final + (1.0 - self.final) * shape)


@dataclass(frozen=True)
class Vllm:
    """How vLLM is run where it is a run's engine: in this process, or as a server with the weights sent to it."""

    server: str = ""  # address of a vLLM server that gives the rollouts; "" = vLLM in this process
    handover: str = ""  # folder that run and server both see, for the weights; "" = this machine's memory
    memory: float = 0.5  # part of the GPU's memory for weights and cache, in this process
    tensor_parallel: int = 1  # devices, in this process
    context: int = 0  # most tokens of prompt and response, in this process; 0 = what the model was made for
    sleep: bool = False  # gives the GPU's memory back between rollouts, in this process

    def __post_init__(self) -> None:
        if not 0 < self.memory <= 1:
            raise UserError(f"option 'machine.vllm.memory' lies in (0, 1], got {self.memory:g}")
        if self.tensor_parallel < 1 or self.context < 0:
            raise UserError("options 'machine.vllm.tensor_parallel' and 'machine.vllm.context' must be positive")


@dataclass(frozen=True)
class Machine:
    """What may change speed and memory but never results beyond rounding: outside of a run's identity."""

    device: str = "cpu"
    micro_batch: int = 64  # rollouts per forward and backward pass
    engine_batch: int = 64  # rollouts decoded side by side
    checkpoint_every: int = 10  # steps
    profile_every: int = 10  # steps between those whose tokens are counted into bins
    token_budget: int = 0  # padded tokens per pass, of rollouts sorted by length, in place of `micro_batch`; 0 = off
    gradient_checkpointing: bool = False  # keep each layer's input only, compute the rest again in the backward pass
    offload_teacher: bool = False  # teachers and reference wait in the host's memory until they are asked
    shard: bool = False  # as several processes do (FSDP2), also in one
    patience: int = 3600  # seconds that a process waits for the others before the run ends
    score_cache: str = ""  # folder that keeps what remote teachers said, for a run that is killed; "" = none
    vllm: Vllm = Vllm()

    def __post_init__(self) -> None:
        for name in ("micro_batch", "engine_batch", "checkpoint_every", "profile_every", "patience"):
            if getattr(self, name) < 1:
                raise UserError(f"option 'machine.{name}' must be at least 1, got {getattr(self, name)}")
        if self.token_budget < 0:
            raise UserError(f"option 'machine.token_budget' must not be negative, got {self.token_budget}")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on every linear map of the student's layers: they are trained, the model's weights are not."""

    rank: int = 0  # 0: off, all weights are trained
    alpha: float = 32.0  # the adapters' product is scaled by alpha / rank

    def __post_init__(self) -> None:
        if self.rank < 0 or not self.alpha > 0:
            raise UserError("option 'lora.rank' must not be negative, and 'lora.alpha' must be positive")


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines a run.

    `digests` holds the fingerprints of the model folders and the data file, so that a changed file is another run.
    """

    method: str
    student: str
    teachers: tuple[tuple[str, str], ...]  # (domain, model); the domain "" serves all prompts
    data: Data
    rollout: Sampling
    optim: Optim = Optim()
    steps: int = 60
    seed: int = 0
    edits: tuple[tuple[str, str], ...] = ()  # of the method: (path, value)
    reference: str = ""  # third model of methods that read `ref_logprobs`; "" is the student's start
    importance_cap: float | None = None  # truncated importance weights for engine–trainer mismatch; None = off
    uncorrected: bool = False  # rollouts at another temperature are taken as the student's own: shows what that does
    baseline: str = "opd"  # the method that each step's diagnostics compare the plan with
    # Of activations and of the weights they meet. What is trained, and the optimiser, is float32 in any case, and so is
    # all that follows the head's product.
    dtype: str = "float32"
    lora: Lora = Lora()
    engine: Literal["hf", "vllm"] = "hf"  # what draws the rollouts and answers benchmarks
    digests: tuple[tuple[str, str], ...] = ()
    machine: Machine = field(default=Machine(), compare=False)

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"option '{name}' must be at least {least}, got {getattr(self, name)}")
        if self.rollout.max_tokens < 1:
            raise UserError(f"option 'rollout.max_tokens' must be at least 1, got {self.rollout.max_tokens}")
        corrected = self.importance_cap is not None and self.rollout.temperature > 0
        if self.rollout.top_p != 1.0 or not (self.rollout.temperature == 1.0 or corrected or self.uncorrected):
            raise UserError(
                "training rollouts need top-p 1, and temperature 1 or an importance cap: the student's log-probs would "
                "not be those of the tokens that were drawn (uncorrected=true trains on them all the same)"
            )
        if self.uncorrected and (self.importance_cap is not None or not self.rollout.temperature > 0):
            raise UserError("'uncorrected' is for rollouts at a temperature above 0 without an importance cap")
        if self.optim.decay not in ("linear", "cosine", "constant"):
            raise UserError(f"option 'optim.decay' is linear, cosine or constant, not '{self.optim.decay}'")
        if self.dtype not in ("float32", "bfloat16", "float16", "float64"):
            raise UserError(f"option 'dtype' is float32, bfloat16, float16 or float64, not '{self.dtype}'")
        if self.engine not in ("hf", "vllm"):
            raise UserError(f"option 'engine' is hf or vllm, not '{self.engine}'")
        if self.engine == "hf" and self.machine.vllm != Vllm():
            raise UserError("options 'machine.vllm.…' say how vLLM is run: add engine=vllm, or leave them out")
        method(self.baseline)
        if not self.teachers:
            raise UserError("a run needs a teacher: --teacher MODEL, or --teacher DOMAIN=MODEL")
        domains = [domain for domain, _ in self.teachers]
        for _, model in self.teachers:
            served(model)
        if doubled := sorted({domain for domain in domains if domains.count(domain) > 1}):
            raise UserError(f"two teachers for {f'domain {doubled[0]!r}' if doubled[0] else 'all prompts'}: keep one")
        self.objective()

    def objective(self) -> Objective:
        """The method of the table with this run's edits.

        Raises:
            UserError: for an unknown method or an unknown path in the edits.
        """
        found = method(self.method)
        for path, text in self.edits:
            if path == "importance_cap":
                raise UserError("option 'importance_cap' belongs to the run, not to a method: every arm has the same")
            found = edit(found, path, text)
        return replace(found, importance_cap=self.importance_cap)

    def identity(self) -> dict[str, str]:
        """Canonical JSON of every field that counts, and the objective written out.

        Neither `machine` nor order counts, nor where a server is. The objective stands for the edits: in another
        order, or with one that changes nothing, it is the same run.
        """
        counted = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("machine", "edits")}
        teachers = sorted((domain, served(model) or model) for domain, model in self.teachers)
        counted |= {"teachers": teachers, "digests": sorted(self.digests), "objective": self.objective()}
        if not self.lora.rank:
            counted["lora"] = Lora()  # without adapters their scale means nothing
        return {name: canonical(value) for name, value in counted.items()}

    @property
    def run_id(self) -> str:
        """`<method>-<8 hex digits>`, the same in every process and on every machine."""
        return f"{self.method}-{digest(self.identity())}"


def served(model: str) -> str:
    """`server:NAME` of a model behind a server (`server:NAME@http://HOST:PORT/v1`); "" for any other model.

    Raises:
        UserError: for a server without an address.
    """
    if not model.startswith("server:"):
        return ""
    name, at, _ = model.partition("@http")
    if not at or name == "server:":
        raise UserError(f"'{model}' names no model on a server: write server:MODEL@http://HOST:PORT/v1")
    return name


def digest(parts: dict[str, str]) -> str:
    """First 8 hex digits of the SHA-256 of a mapping of canonical texts."""
    return hashlib.sha256(canonical(parts).encode()).hexdigest()[:8]


def differences(a: dict[str, str], b: dict[str, str]) -> list[str]:
    """Names of the fields in which two identities differ."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
