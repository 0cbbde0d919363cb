"""lm-eval's results → the files of an evaluation folder, the entries of its manifest, and all numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.benchmarks import prompt_hash
from harness.evaluation.evaluations import stem
from harness.lmeval.rows import Choice, Facts, Sample, Tables, choose, tables, verdict
from harness.lmeval.runs import Job, Number
from harness.records import write_atomic


def keep(job: Job, results: dict[str, Any], tasks: Mapping[str, Any], lm: Any) -> dict[str, Any]:
    """Writes the files of every task and group; returns the entries for the manifest and the numbers."""
    from lm_eval.utils import handle_non_serializable

    folder = Path(job.folder)
    samples = results.pop("samples")
    for name in results["results"]:
        text = json.dumps(_part(results, name), indent=1, default=handle_non_serializable)
        write_atomic(folder / f"{_stem(name)}.results.json", text + "\n")
    benches: dict[str, dict[str, Any]] = {}
    chosen: dict[str, Choice] = {}
    for name, task in tasks.items():
        for kind in ("problems.jsonl", "jsonl", "graded.jsonl"):  # of an earlier run with another metric
            (folder / f"{_stem(name)}.{kind}").unlink(missing_ok=True)
        choice = choose(name, samples[name], job.metric)
        if choice is None:
            continue
        sampling = _sampling(task, lm)
        made = tables(name, samples[name], choice, _facts(task, choice, lm, int(sampling["max_tokens"])))
        entry = _entry(job, name, task, samples[name], choice, made, sampling, results)
        _write(job, f"lm-eval:{name}", entry, made)
        benches[f"lm-eval:{name}"], chosen[name] = entry, choice
    return {"benches": benches, "numbers": [asdict(number) for number in scores(results, chosen)]}


def scores(results: Mapping[str, Any], chosen: Mapping[str, Choice]) -> list[Number]:
    """Every score in lm-eval's results, groups included. `chosen`: task → what its sample rows hold."""
    found = []
    for task, values in results["results"].items():
        better = results.get("higher_is_better", {}).get(task, {})
        for key, value in values.items():
            metric, comma, pipeline = key.partition(",")
            if not comma or metric.endswith("_stderr") or isinstance(value, (bool, str)):
                continue
            error = values.get(f"{metric}_stderr,{pipeline}")
            found.append(
                Number(
                    task,
                    metric,
                    pipeline,
                    float(value),
                    None if error is None or isinstance(error, str) else float(error),
                    int(values.get("sample_len", 0)),
                    better.get(metric),
                    chosen.get(task) == (metric, pipeline),
                )
            )
    return found


def _stem(task: str) -> str:
    return stem(f"lm-eval:{task}")


def _part(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What lm-eval says about one task or group."""
    of = ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "group_subtasks")
    common = ("config", "date", "git_hash", "transformers_version", "lm_eval_version")
    part = {key: results[key][name] for key in of if name in results.get(key, {})}
    return {"task": name, **part, **{key: results[key] for key in common if key in results}}


def _write(job: Job, bench: str, entry: Mapping[str, Any], made: Tables) -> None:
    told = ("prompt_hash", "rendered_hash", "thinking", "sampling", "seed")
    header = {"bench": bench, "responder": job.model, **{name: entry[name] for name in told}}
    files = {
        "problems.jsonl": made.problems,
        "jsonl": [{"header": header}, *made.generations],
        "graded.jsonl": [{"header": {"bench": bench, "checkers": entry["checkers"]}}, *made.graded],
    }
    for kind, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomic(Path(job.folder) / f"{stem(bench)}.{kind}", text)


def _entry(
    job: Job,
    name: str,
    task: Any,
    samples: Sequence[Sample],
    choice: Choice,
    made: Tables,
    sampling: dict[str, float],
    results: Mapping[str, Any],
) -> dict[str, Any]:
    """The task's entry in the manifest of the evaluation folder."""
    config, release = task.config, version("lm_eval")
    kept = sorted((one for one in samples if one["filter"] == choice.filter), key=lambda one: one["doc_id"])
    data = "/".join(str(part) for part in (config.dataset_path, config.dataset_name) if part)
    revision = str(results["versions"].get(name))
    return {
        "label": str(config.task_alias or name),
        "n": len(made.problems),
        "k": len(made.graded) // len(made.problems),
        "source": f"lm-eval {release}: {data or name}",
        "sha256": _sha(one["doc_hash"] + one["target_hash"] for one in kept),
        "revision": revision,
        "licence": "unknown",
        "answer_type": str(task.OUTPUT_TYPE),
        "style": "lm-eval",
        "prompt_hash": prompt_hash(one["prompt_hash"] for one in kept),
        "rendered_hash": None,
        "thinking": job.thinking,
        "sampling": sampling,
        "seed": job.seed,
        "limit": job.limit,
        "checkers": {"strict": f"lm-eval-{release}/{name}-{revision}/{choice.metric}/{choice.filter}", "paper": None},
        "task": {
            # as lm-eval's own tracker makes it: documents, prompts and targets together
            "hash": _sha(one["doc_hash"] + one["prompt_hash"] + one["target_hash"] for one in samples),
            "metric": choice.metric,
            "filter": choice.filter,
            "num_fewshot": results["n-shot"].get(name),
            "chat_template": job.apply_chat_template,
        },
    }


def _sha(parts: Any) -> str:
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _sampling(task: Any, lm: Any) -> dict[str, float]:
    from lm_eval.models.utils import normalize_gen_kwargs

    if task.OUTPUT_TYPE != "generate_until":
        return {"max_tokens": 0, "temperature": 0.0, "top_p": 1.0}
    given = normalize_gen_kwargs(task.config.generation_kwargs or {}, getattr(lm, "max_gen_toks", 256))
    temperature, top_p = float(given.get("temperature") or 0.0), float(given.get("top_p") or 1.0)
    return {"max_tokens": given["max_gen_toks"], "temperature": temperature, "top_p": top_p}


def _facts(task: Any, choice: Choice, lm: Any, longest: int) -> Facts:
    kind = str(task.OUTPUT_TYPE)
    has_choices = kind == "multiple_choice" and task.config.doc_to_choice is not None
    return Facts(
        kind,
        task.doc_to_choice if has_choices else None,
        lambda text: _length(lm, text),
        longest,
        _regrader(task, choice) if kind == "generate_until" and task.config.repeats > 1 else None,
    )


def _length(lm: Any, text: str) -> int:
    """Tokens of an answer, counted anew because lm-eval keeps the text only; 0 where there is no tokenizer."""
    encode = getattr(getattr(lm, "tokenizer", None), "encode", None)
    return len(encode(text, add_special_tokens=False)) if encode and text else 0


def _regrader(task: Any, choice: Choice) -> Callable[[Sample], list[tuple[bool, Any]]] | None:
    """A function that grades the samples of a document one by one; None where the filter looks at them together."""
    pipeline = next(one for one in task._filters if one.name == choice.filter)
    steps = [getattr(step.func, "__name__", "") for step in pipeline.filters]
    if steps[-1:] != ["TakeFirstFilter"] or {"MajorityVoteFilter", "TakeKFilter"} & set(steps):
        return None

    def regrade(one: Sample) -> list[tuple[bool, Any]]:
        from lm_eval.api.instance import Instance

        graded: list[tuple[bool, Any]] = []
        for text in one["resps"][0]:
            alone = Instance("generate_until", one["doc"], tuple(one["arguments"][0]), 0, resps=[text])
            pipeline.apply([alone])
            kept = alone.filtered_resps[choice.filter]
            correct = verdict(task.process_results(one["doc"], [kept])[choice.metric])
            graded.append((bool(correct), kept if isinstance(kept, str) else None))
        return graded

    return regrade
