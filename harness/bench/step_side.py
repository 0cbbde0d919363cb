"""One side of the step measurement, in a process of its own: ``python -m harness.bench.step_side SIDE IN OUT``.

Alone, or in turns with other sides (`measures.in_turns`). Each makes the same number of on-policy steps with the same
two models, prompts, batch, optimiser and precision, every response exactly as long as asked: the end-of-sequence id
is one that no vocabulary has. A step is timed from the end of the one before to its own end: prompts, generation,
both models' passes, update.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.bench.measures import Turn
from harness.bench.memory import highest

NEVER = 1 << 30  # an id that is never drawn
OURS = {"ours": "full-rkl", "ours-sampled": "opd"}
PEERS = ("DistillationTrainer", "GKDTrainer", "IWOPDTrainer")


class Watch:
    """Wall-clock and processor seconds of each step, without the time in which it is the other sides' turn."""

    def __init__(self, work: dict[str, Any]) -> None:
        self.device = work["device"]
        self.turn, self.steps = Turn(work.get("turn")), work["warmup"] + work["steps"]
        self.wall: list[float] = []
        self.processor: list[float] = []
        self.turn.wait()
        self.last = self._now()

    def _now(self) -> tuple[float, float]:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def lap(self) -> None:
        now = self._now()
        self.wall.append(now[0] - self.last[0])
        self.processor.append(now[1] - self.last[1])
        if len(self.wall) < self.steps:
            self.turn.wait()
        else:
            self.turn.done()
        self.last = self._now()


def ours(side: str, work: dict[str, Any]) -> dict[str, Any]:
    """Steps of `trainer.loop.train`, with the phases of each."""
    from harness.runs import assets
    from harness.runs.models import load_student, load_teacher, rollout_engine
    from trainer.config import Data, Machine, RunSpec
    from trainer.loop import TrainState, train
    from trainer.rollout import Sampling

    machine = Machine(work["device"], micro_batch=work["prompts"], engine_batch=work["prompts"])
    spec = RunSpec(
        method=OURS[side],
        student=work["student"],
        teachers=(("", work["teacher"]),),
        data=Data("toy:math", work["prompts"]),
        rollout=Sampling(work["tokens"]),
        steps=work["warmup"] + work["steps"],
        machine=machine,
    )
    state = TrainState.start(spec, load_student(spec))
    teacher = load_teacher(spec, state.policy)
    state.policy.eos_ids = frozenset({NEVER})
    engine = rollout_engine(spec, state.policy, teacher)
    source = assets.open_source(spec.data, spec.seed)
    phases = []
    before = highest(work["device"])
    watch = Watch(work)
    for step in train(spec, state, source, engine, teacher):
        watch.lap()
        assert int(step.rollouts.mask.sum()) == work["prompts"] * work["tokens"]
        phases.append({name: spent for name, spent in vars(step.timing).items() if name.startswith("seconds_")})
    return {"watch": watch, "phases": phases, "before": before}


def peer(side: str, work: dict[str, Any]) -> dict[str, Any]:
    """Steps of a trainer of TRL, with gradient checkpointing and 16-bit off, which its configurations switch on."""
    import datasets
    import transformers
    import trl

    from harness.runs import assets
    from trainer.config import Data

    source = assets.open_source(Data("toy:math"), 0)
    count = work["warmup"] + work["steps"]
    texts = [prompt.text for prompt in source.batch(0, work["prompts"] * count)]
    student, teacher = (
        transformers.AutoModelForCausalLM.from_pretrained(assets.model_folder(work[who]), dtype="float32")
        for who in ("student", "teacher")
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(assets.model_folder(work["student"]))
    student.generation_config.eos_token_id = NEVER
    module, rows, own = _of_peer(trl, side, texts, work)
    with tempfile.TemporaryDirectory() as folder:
        args = getattr(module, side.replace("Trainer", "Config"))(
            output_dir=folder,
            per_device_train_batch_size=work["prompts"],
            gradient_accumulation_steps=1,
            max_steps=count,
            learning_rate=1e-3,
            adam_beta2=0.95,
            weight_decay=0.0,
            max_grad_norm=1.0,
            lr_scheduler_type="linear",
            warmup_steps=5,
            optim="adamw_torch",
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=work["device"] == "cpu",
            dataloader_pin_memory=work["device"] != "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            temperature=1.0,
            **own,
        )
        trainer = getattr(module, side)(
            model=student,
            teacher_model=teacher,
            args=args,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.generation_config.eos_token_id = NEVER
        trainer.generation_config.min_new_tokens = None
        if hasattr(trainer, "eos_token_ids"):
            trainer.eos_token_ids = [NEVER]
        shapes: list[int] = []
        _spy(trainer, shapes)
        before = highest(work["device"])
        watch = Watch(work)  # the first step also pays for what the trainer sets up: it belongs to the warm-up

        class Laps(transformers.TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                watch.lap()

        trainer.add_callback(Laps())
        trainer.train()
    if set(shapes) != {work["tokens"]}:
        raise RuntimeError(f"{side} was to generate {work['tokens']} tokens a response, and made {sorted(set(shapes))}")
    return {"watch": watch, "before": before}


def _of_peer(trl: Any, side: str, texts: list[str], work: dict[str, Any]) -> tuple[Any, list[dict[str, Any]], Any]:
    """The module of a peer, its rows of data and the options that are its own."""
    asked = [{"role": "user", "content": text} for text in texts]
    if side == "DistillationTrainer":
        rows = [{"prompt": [message]} for message in asked]
        return trl, rows, {"max_completion_length": work["tokens"], "beta": 1.0, "shuffle_dataset": False}
    answered = [{"messages": [message, {"role": "assistant", "content": "0"}]} for message in asked]
    if side == "GKDTrainer":
        from trl.experimental import gkd

        return gkd, answered, {"max_new_tokens": work["tokens"], "lmbda": 1.0, "beta": 1.0, "max_length": 512}
    from trl.experimental import iw_opd

    return iw_opd, answered, {"max_completion_length": work["tokens"], "lmbda": 1.0, "max_length": 512}


def _spy(trainer: Any, shapes: list[int]) -> None:
    """Notes how many tokens each call of the student's `generate` adds."""
    generate: Callable[..., Any] = trainer.model.generate

    def noted(*words: Any, **named: Any) -> Any:
        out = generate(*words, **named)
        prompts: Any = named.get("input_ids", words[0] if words else None)
        sequences = getattr(out, "sequences", out)
        shapes.append(sequences.shape[1] - prompts.shape[1])
        return out

    trainer.model.generate = noted


def main(side: str, source: Path, target: Path) -> None:
    import torch

    work = json.loads(source.read_text())
    torch.set_num_threads(work["threads"])
    found = ours(side, work) if side in OURS else peer(side, work)
    watch, warm = found["watch"], work["warmup"]
    result = {
        "seconds": watch.wall[warm:],
        "cpu_seconds": watch.processor[warm:],
        "memory_mib": highest(work["device"]),
        "before_mib": found["before"],
        "phases": found.get("phases", [])[warm:],
    }
    target.write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
