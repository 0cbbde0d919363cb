"""Benchmarks written as a task folder that lm-eval takes with `--include_path`, whatever its backend."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.answers import CHECKER_VERSIONS
from harness.benchmarks import LoadedBenchmark, prompt_hash, render_prompt
from harness.errors import UserError
from harness.evaluation import EvalPlan
from harness.lmeval.hooks import METRICS
from harness.records import write_atomic

MANIFEST: Final = "export.json"
HOOKS: Final = "opd_hooks.py"
GROUP: Final = "opd"
PIPELINE: Final = "all"  # the filter that keeps every sample; part of the names of lm-eval's metrics: `avg_at_k,all`
EVERY_TOKEN: Final = 1_000_000  # as top-k: more than any vocabulary. Backends disagree on which number means "off".


@dataclass(frozen=True)
class Task:
    """One exported benchmark."""

    bench: LoadedBenchmark
    plan: EvalPlan

    @property
    def name(self) -> str:
        return "opd_" + re.sub(r"[^A-Za-z0-9_-]", "_", self.plan.name)


def export_tasks(folder: Path, benches: Sequence[tuple[LoadedBenchmark, EvalPlan]]) -> list[str]:
    """Writes the folder and returns the names of its tasks; a folder that was exported before is replaced.

    Raises:
        UserError: if the folder holds anything else, two benchmarks have one name, or a problem is no Unicode text.
    """
    tasks = [Task(bench, plan) for bench, plan in benches]
    names = [task.name for task in tasks]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two benchmarks would both become the task '{doubled[0]}': give each file a name of its own")
    files = {f"{GROUP}.yaml": _group(names), HOOKS: _HOOKS, "README.md": _readme(folder.resolve(), tasks)}
    files[".gitignore"] = "# problems of benchmarks under licences of their own: not to be published from here\n*\n"
    for task in tasks:
        files[f"{task.name}.yaml"] = _yaml(task)
        files[f"{task.name}.jsonl"] = _problems(task)
    _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"by": "opd export-lm-eval", "tasks": names, "files": {name: _hash(files[name]) for name in files}}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    for name, text in files.items():
        write_atomic(folder / name, text)
    return names


def _clear(folder: Path) -> None:
    """Removes an earlier export, and refuses to touch anything that is not one, file by file."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder to write the tasks to")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} holds something else than exported tasks: name a new or an empty folder") from None
    ours = [path for path in folder.iterdir() if path.name not in (MANIFEST, "__pycache__")]
    for path in ours:
        if path.name not in written:
            raise UserError(f"{path} was not written by the export: move it away, or name another folder")
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != written[path.name]:
            raise UserError(f"{path} was changed since the export: move it away, or name another folder")
    for path in ours:
        path.unlink()
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _problems(task: Task) -> str:
    rows = [
        {"problem": p.id, "text": render_prompt(p, task.plan.style), "gold": p.answer, "bench": task.plan.name}
        for p in task.bench.problems[: task.plan.limit]
    ]
    for row in rows:
        try:
            "".join(row.values()).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"problem '{row['problem']}' of {task.plan.name} holds half a surrogate pair, which lm-eval cannot "
                "store: mend it in the benchmark's file"
            ) from None
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- YAML ------------------------------------------------------------------------------------------------------


def _yaml(task: Task) -> str:
    """The task's configuration."""
    plan, bench = task.plan, task.bench
    texts = [render_prompt(p, plan.style) for p in bench.problems[: plan.limit]]
    metrics = "".join(
        f"  - metric: {name}\n    aggregation: mean\n    higher_is_better: {json.dumps(better)}\n"
        for name, better in METRICS.items()
    )
    return f"""\
# {_line(bench.spec.label)}: avg@{plan.k} under both checkers of opd-harness. Written by `opd export-lm-eval`.
task: {_text(task.name)}
custom_dataset: !function {Path(HOOKS).stem}.documents
dataset_kwargs:
  problems_file: {_text(task.name + ".jsonl")} # beside this file
test_split: test
output_type: generate_until
num_fewshot: 0
description: "" # lm-eval would send it as a system prompt
doc_to_text: text # a column, taken as it is: LaTeX never passes through a template
doc_to_target: gold
repeats: {plan.k}
filter_list:
  # Without this filter lm-eval hands over the first sample only, whatever `repeats` says.
  - name: {PIPELINE}
    filter:
      - function: take_first_k
        k: {plan.k}
generation_kwargs:
{_generation(plan)}process_results: !function {Path(HOOKS).stem}.process_results
metric_list:
{metrics}metadata:
  version: {_text(CHECKER_VERSIONS["strict"])}
  checkers: {json.dumps(dict(CHECKER_VERSIONS))}
  k: {plan.k}
  summary: {_text(f"{bench.spec.label}, {len(texts)} problems, mean of {plan.k} samples each")}
  prompt: {_text(plan.style)}
  prompt_hash: {_text(prompt_hash(texts))}
  source: {_text(bench.source)}
  sha256: {_text(bench.sha256)}
"""


def _generation(plan: EvalPlan) -> str:
    lines = [
        "until: [] # only the end-of-sequence token ends an answer",
        f"max_gen_toks: {plan.max_tokens}",
        f"do_sample: {json.dumps(plan.temperature > 0)}",
        f"temperature: {float(plan.temperature)!r}",
    ]
    if plan.temperature > 0:
        lines += [
            "# A model's own generation_config fills in whatever is left out here.",
            f"top_p: {float(plan.top_p)!r}",
            f"top_k: {EVERY_TOKEN}",
        ]
    lines.append("repetition_penalty: 1.0")
    return "".join(f"  {line}\n" for line in lines)


def _group(names: Sequence[str]) -> str:
    """All tasks under one name, with the unweighted mean over benchmarks that papers print as "Avg."."""
    tasks = "".join(f"  - {_text(name)}\n" for name in names)
    metrics = "".join(
        f"  - metric: {name}\n    aggregation: mean\n    filter_list: [{PIPELINE}]\n    weight_by_size: false\n"
        for name in ("avg_at_k", "avg_at_k_paper")
    )
    return f"""\
group: {GROUP}
task:
{tasks}aggregate_metric_list:
{metrics}metadata:
  version: {_text(CHECKER_VERSIONS["strict"])}
"""


def _text(text: str) -> str:
    """A YAML string: JSON's, which YAML reads alike except for its surrogate pairs."""
    return json.dumps(_line(text), ensure_ascii=False)


def _line(text: str) -> str:
    return " ".join(text.encode("utf-8", "replace").decode().split())


_HOOKS: Final = '''\
"""What lm-eval calls for the tasks in this folder; needs opd-harness where lm-eval runs. The work is done by
`harness.answers.grade_many`, which grades every sample with the strict and with the released checker."""

from pathlib import Path

from harness.lmeval import hooks


def documents(problems_file, k, checkers, **_):
    return hooks.documents(Path(__file__).parent / problems_file, k, checkers)


def process_results(doc, results):
    return hooks.score(doc, results)
'''


# --- README ----------------------------------------------------------------------------------------------------


def _readme(folder: Path, tasks: Sequence[Task]) -> str:
    first, plan = tasks[0], tasks[0].plan
    rows = "\n".join(
        f"| `{t.name}` | {_cell(t.bench.spec.label)} | {len(t.bench.problems[: t.plan.limit])} | {t.plan.k} | "
        f"{t.plan.style} | {_cell(t.bench.spec.licence)} | {_cell(t.bench.source)} |"
        for t in tasks
    )
    limit = "" if plan.limit is None else f" --limit {plan.limit}"
    thinking = "enable_thinking=True,think_end_token=</think>" if plan.thinking else "enable_thinking=False"
    common = f"""--include_path {folder} --tasks {first.name} \\
    --apply_chat_template --seed 0 --log_samples --output_path OUT"""
    trace = (
        "\n`think_end_token` cuts the thought away before grading; `opd eval` grades the last box of the whole answer, "
        "so an answer\nwith no box after its thought can differ. "
        "For a server, let it send the thought apart (its reasoning parser).\n"
        if plan.thinking
        else ""
    )
    return f"""\
# Tasks for lm-evaluation-harness

Written by `opd export-lm-eval`. The folder can be moved or copied; it needs `opd-harness` and lm-eval 0.4.13 or newer
in the environment where it is used. It holds copies of benchmark problems under licences of their own.

| task | benchmark | problems | k | prompt | licence | source |
|---|---|---|---|---|---|---|
{rows}

`{GROUP}` runs them all and adds the unweighted mean over benchmarks.

## Run

transformers:

    lm_eval run --model hf --model_args "pretrained=MODEL,dtype=bfloat16,{thinking}" \\
    --batch_size 32 {common}

vLLM:

    lm_eval run --model vllm --model_args "pretrained=MODEL,dtype=bfloat16,seed=0,{thinking}" \\
    --batch_size auto {common}

An OpenAI-compatible server:

    lm_eval run --model local-chat-completions \\
    --model_args "model=NAME,base_url=http://127.0.0.1:8000/v1/chat/completions,num_concurrent=32,timeout=3600" \\
    --gen_kwargs seed=None "chat_template_kwargs={{'enable_thinking': {plan.thinking}}}" \\
    {common}
{trace}
- `seed=None` matters: lm-eval sends one and the same seed with every request, and a server that honours it would give
  the same answer k times. The metric `distinct` shows it: the share of different texts among the k samples, 1/k where
  all are alike.
- `--apply_chat_template` matters: without it the model sees the bare problem.
- `top_k` and `repetition_penalty` are written out because a model's `generation_config` would change the sampling
  unseen. A server that knows only OpenAI's own parameters refuses them: take the two lines out of the YAML files.
- The longest answer has {plan.max_tokens} tokens; `--gen_kwargs max_gen_toks=N` changes it. lm-eval cuts prompts that
  leave no room for it, from the left.

## Read

- `avg_at_k`, `avg_at_k_paper`: mean over problems of the mean over the k samples, strict and released checker.
  The value of a document is the mean of its k samples, so lm-eval's `Stderr` is the standard error over problems, the
  one that `opd eval` prints (where problems come in families, `opd eval` clusters them, and its error is larger).
- `no_answer`: share of samples without a boxed answer. `distinct`: see above.

The same answers, read into the harness for pass@k, maj@k, intervals and comparisons:

    opd eval - --engine replay --responses OUT/MODEL/samples_{first.name}_DATE.jsonl \\
    --bench {_line(plan.bench)} --k {plan.k}{limit} --prompt {plan.style} \\
    --max-tokens {plan.max_tokens} --temperature {plan.temperature} --top-p {plan.top_p}
"""


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
