"""Planning a batch, or a model's step over a few of its tokens, in a process of its own:
``python -m harness.bench.plan_side plan|step IN OUT``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from harness.bench.memory import forget, highest


def plan(work: dict[str, Any]) -> dict[str, Any]:
    """Seconds and MiB of `objective.plan` on made-up scores of `rows` × `tokens`, and of the diagnostics beside it."""
    import torch

    from trainer.diagnostics import diagnose
    from trainer.methods import METHODS
    from trainer.objective import Scores

    device, (rows, tokens) = work["device"], (work["rows"], work["tokens"])
    draw = torch.Generator(device).manual_seed(0)
    lengths = torch.randint(tokens // 4, tokens + 1, (rows, 1), generator=draw, device=device)
    mask = torch.arange(tokens, device=device) < lengths

    def nats(sign: float) -> Any:
        return torch.empty((rows, tokens), device=device).exponential_(2.0, generator=draw).mul_(sign)

    scores = Scores(mask, nats(-1.0), nats(-1.0), student_entropy=nats(1.0), teacher_entropy=nats(1.0))
    objective = METHODS[work["method"]]
    small = scores.select(torch.arange(min(rows, 2), device=device))
    objective.plan(small)  # what is imported and made at first use
    inputs = sum(t.numel() * t.element_size() for t in vars(scores).values() if isinstance(t, torch.Tensor))
    _wait(device)
    before = forget(device)
    start = time.perf_counter(), time.process_time()
    planned = objective.plan(scores)
    _wait(device)
    found = {"seconds": time.perf_counter() - start[0], "cpu_seconds": time.process_time() - start[1]}
    found |= {"memory_mib": highest(device) - before + inputs / 2**20, "inputs_mib": inputs / 2**20}
    if work["diagnostics"]:
        baseline = METHODS["opd"]
        start = time.perf_counter(), time.process_time()
        diagnose(objective, planned, baseline, baseline.plan(scores), scores)
        _wait(device)
        found["diagnostics_seconds"] = time.perf_counter() - start[0]
        found["diagnostics_cpu_seconds"] = time.process_time() - start[1]
        found["memory_with_diagnostics_mib"] = highest(device) - before + inputs / 2**20
    return found


def step(work: dict[str, Any]) -> dict[str, Any]:
    """Seconds a token of a teacher's forward pass and a student's forward and backward pass, heads included."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from harness.runs import assets

    device = work["device"]
    models = []
    for name in (work["teacher"], work["student"]):
        if isinstance(name, dict):  # a shape, with weights drawn at random: they cost what trained ones cost
            config = AutoConfig.for_model(**name)
            models.append(AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(device))
        else:
            models.append(
                AutoModelForCausalLM.from_pretrained(assets.model_folder(name), dtype=torch.float32).to(device)
            )
    teacher, student = models
    shape = (work["rows"], work["tokens"])
    ids = torch.randint(10, 200, shape, device=device, generator=torch.Generator(device).manual_seed(0))
    times, processor = [], []
    for turn in range(1 + work["repeats"]):
        start = time.perf_counter(), time.process_time()
        with torch.no_grad():
            other = teacher(input_ids=ids, use_cache=False).logits.log_softmax(-1)
        ours = student(input_ids=ids, use_cache=False).logits.log_softmax(-1)
        (ours.exp() * (ours - other)).sum(-1).mean().backward()
        student.zero_grad()
        _wait(device)
        if turn:  # the first warms up
            times.append((time.perf_counter() - start[0]) / ids.numel())
            processor.append((time.process_time() - start[1]) / ids.numel())
    parameters = [sum(p.numel() for p in model.parameters()) for model in (student, teacher)]
    return {"seconds": times, "cpu_seconds": processor, "parameters": parameters}


def _wait(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def main(side: str, source: Path, target: Path) -> None:
    import torch

    work = json.loads(source.read_text())
    torch.set_num_threads(work["threads"])
    target.write_text(json.dumps((plan if side == "plan" else step)(work)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
