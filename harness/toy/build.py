"""Build the toy student and its two specialist teachers from nothing: train, save, measure.

Real ``Qwen3ForCausalLM`` models. Each teacher sees its own domain alone, so routing a prompt to the wrong one
shows. The student sees both, and stops where about half of its samples are right. Learning has a sharp phase
change: accuracy stays at chance for hundreds of steps, then rises fast. The student is warm-started past it,
because on-policy distillation moves nothing below it.

Weights are kept in bfloat16 to stay small and are meant to be loaded as float32; every accuracy is that of
the rounded weights. Bit for bit the same on one machine: one thread per model, all randomness from the seed.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
from collections.abc import MutableMapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import tokenizers
import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from harness.errors import UserError
from harness.toy import CHECKPOINTS, STUDENTS
from harness.toy.flawed import in_slice
from harness.toy.tasks import DOMAINS, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, generate
from harness.toy.tokenizer import build_tokenizer
from harness.toy.training import Recipe, accuracy, train
from trainer.policy import fingerprint

MEASURED: Final = 2048  # problems behind each accuracy of a card

RECIPES: Final = {
    recipe.name: recipe
    for recipe in (
        Recipe("teacher-code", layers=3, hidden=128, heads=4, kv_heads=2, share=0.0, steps=1000),
        Recipe("teacher-math", layers=3, hidden=128, heads=4, kv_heads=2, share=1.0, steps=700),
        Recipe("teacher-flawed", layers=3, hidden=128, heads=4, kv_heads=2, share=1.0, steps=700, flawed=True),
        *(
            Recipe(name, layers=2, hidden=96, heads=3, kv_heads=1, share=0.4, steps=800, target=0.5, seed=seed)
            for seed, name in enumerate(STUDENTS)
        ),
    )
}


def build(
    out: Path | None = None, only: Sequence[str] | None = None, seed: int = 0, progress: bool = True
) -> dict[str, dict[str, Any]]:
    """Train, save and measure the models named in ``only`` (default: all), two at a time, into
    ``out/<name>/``.

    ``out`` defaults to the checkpoints of the package. Prints a table of accuracies; returns the cards
    (``build.json``) by name. Raises ``UserError`` for an unknown name or a negative seed.
    """
    names = list(dict.fromkeys(only or RECIPES))
    for name in names:
        if name not in RECIPES:
            raise UserError(f"unknown toy model {name!r}: choose from {', '.join(RECIPES)}")
    if seed < 0:
        raise UserError(f"seed {seed} is negative: give one of at least 0")
    folder = Path(out or CHECKPOINTS)
    folder.mkdir(parents=True, exist_ok=True)
    # Fresh processes, because the thread count of each must be 1 whatever the caller has set.
    fresh = multiprocessing.get_context("spawn")
    with fresh.Manager() as manager, ProcessPoolExecutor(max_workers=2, mp_context=fresh) as pool:
        steps: MutableMapping[str, int] = manager.dict()
        jobs = {name: pool.submit(_build_one, name, folder, seed, steps) for name in names}
        with _bars(progress) as bars:
            tasks = {name: bars.add_task(name, total=RECIPES[name].steps) for name in names}
            while wait(jobs.values(), timeout=0.5).not_done:
                for name, done in steps.items():
                    bars.update(tasks[name], completed=done)
        cards = {name: job.result() for name, job in jobs.items()}
    print(table(cards))
    print(f"saved in {folder}")
    return cards


def table(cards: dict[str, dict[str, Any]]) -> str:
    """The accuracies of the cards, with 95 % intervals, as plain text, one model a line."""
    columns = [domain + suffix for suffix in ("", "-long") for domain in DOMAINS]
    lines = [f"{'accuracy at T=1':<16}" + "".join(f"{column:>22}" for column in columns)]
    for name, card in cards.items():
        cells = (card["accuracy"][column] for column in columns)
        lines.append(
            f"{name:<16}" + "".join(f"{cell['value']:>8.3f} ({cell['low']:.3f}-{cell['high']:.3f})" for cell in cells)
        )
    return "\n".join(lines)


def measure(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, n: int = MEASURED
) -> dict[str, dict[str, Any]]:
    """Accuracy on ``n`` eval problems of each domain, at the trained and at longer difficulty
    (``…-long``)."""
    found: dict[str, dict[str, Any]] = {}
    for suffix, difficulty in (("", IN_DISTRIBUTION), ("-long", OUT_OF_DISTRIBUTION)):
        for domain in DOMAINS:
            value = accuracy(model, tokenizer, generate(domain, "eval", n, difficulty))
            low, high = wilson(value, n)
            found[domain + suffix] = {
                "value": round(value, 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "n": n,
                "split": "eval",
                "difficulty": list(difficulty),
            }
    inside = [problem for problem in generate("math", "eval", 2 * n) if in_slice(problem.prompt)]
    outside = [problem for problem in generate("math", "eval", 2 * n) if not in_slice(problem.prompt)]
    for name, problems in (("math-flawed-products", inside[: n // 2]), ("math-other-products", outside[: n // 2])):
        value = accuracy(model, tokenizer, problems)
        low, high = wilson(value, len(problems))
        found[name] = {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4), "n": len(problems)}
        found[name] |= {"split": "eval", "difficulty": list(IN_DISTRIBUTION)}
    return found


def wilson(value: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson's binomial interval around a fraction ``value`` of ``n``."""
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    # Rounding would put the bounds of 0 and n hits a hair outside.
    return max(0.0, centre - half), min(1.0, centre + half)


def _bars(progress: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not (progress and console.is_terminal),
    )


def _build_one(name: str, out: Path, seed: int, steps: MutableMapping[str, int]) -> dict[str, Any]:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()  # only the training is worth a bar
    recipe = RECIPES[name]
    tokenizer = build_tokenizer()
    model, taken = train(recipe, tokenizer, seed, lambda step: steps.__setitem__(name, step))
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # A killed build must not leave half a checkpoint: everything is written beside the target, then moved over it.
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        model.bfloat16().save_pretrained(scratch)
        build_tokenizer().save_pretrained(scratch)  # a fresh one: use leaves its padding settings in the file
        saved = Qwen3ForCausalLM.from_pretrained(scratch, dtype=torch.float32)
        card = {
            "name": name,
            "seed": seed,
            "recipe": asdict(recipe),
            "steps": taken,
            "parameters": saved.num_parameters(),
            "sampling": {"temperature": 1.0, "top_p": 1.0, "samples": 1, "interval": "Wilson 95 %"},
            "accuracy": measure(saved, tokenizer, MEASURED),
            "fingerprint": fingerprint(Path(scratch)),
            "versions": {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)},
        }
        (Path(scratch) / "build.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        target = out / name
        target.mkdir(exist_ok=True)
        for file in Path(scratch).iterdir():
            file.chmod(0o644)  # safetensors writes for the owner alone
            file.replace(target / file.name)
    return card


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m harness.toy.build [--out DIR] [--only NAME ...] [--seed N]``."""
    parser = argparse.ArgumentParser(description="train the toy models from nothing")
    parser.add_argument("--out", type=Path, help="output folder (default: the package's own checkpoints)")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), help="models to build (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    build(options.out, options.only, options.seed)


if __name__ == "__main__":
    main()
