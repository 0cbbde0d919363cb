"""The process in which lm-eval runs: reads a job, runs it, writes the evaluation folder's files and its outcome."""

from __future__ import annotations

import difflib
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.lmeval.results import keep
from harness.lmeval.runs import Job
from harness.records import write_atomic

FEWSHOT_SEED = 1234  # lm-eval's own: the examples of a prompt do not change with the seed of the sampling


def main() -> int:
    """Runs the job in the file named first; leaves its outcome, or the reason of its failure, in the second."""
    asked, answered = map(Path, sys.argv[1:3])
    given = json.loads(asked.read_text(encoding="utf-8"))
    outcome: dict[str, Any]
    try:
        outcome = work(Job(**{**given, "tasks": tuple(given["tasks"])}))
    except UserError as error:
        outcome = {"refused": str(error)}
    except Exception as error:
        traceback.print_exc()
        outcome = {"failed": _first_line(error)}
    write_atomic(answered, json.dumps(outcome))
    return 0 if "benches" in outcome else 1


def work(job: Job, lm: Any = None, manager: Any = None) -> dict[str, Any]:
    """Runs the tasks of a job and writes their files; `lm` and `manager` stand in for those of the job."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    arguments = _model_arguments(job)
    if manager is None:
        manager = TaskManager(include_path=job.include_path, metadata=arguments)
    for name in job.tasks:
        check_name(manager, name)
    if not job.allow_code:
        refuse_code(manager.task_index, job.tasks)
    roots, loaded = _load(manager, job)
    if job.metric is not None:
        check_metric(loaded, job.metric)
    if lm is None:
        lm = _language_model(job, arguments, loaded)
    results = simple_evaluate(
        model=lm,
        tasks=roots,
        num_fewshot=job.num_fewshot,
        limit=job.limit,
        log_samples=True,
        apply_chat_template=job.apply_chat_template or job.engine == "server",
        gen_kwargs=_generation(job, loaded) or None,
        task_manager=manager,
        random_seed=job.seed,
        numpy_random_seed=job.seed,
        torch_random_seed=job.seed,
        fewshot_random_seed=FEWSHOT_SEED,
        confirm_run_unsafe_code=job.allow_code,
    )
    return keep(job, results, loaded, lm)


# --- tasks -----------------------------------------------------------------------------------------------------


def _first_line(error: Exception) -> str:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__


def check_name(manager: Any, name: str) -> None:
    """Refuses a name that lm-eval does not know, with those that are like it."""
    if name not in manager.task_index:
        close = difflib.get_close_matches(name, manager.all_tasks, n=5)
        hint = f"close to it: {', '.join(close)}" if close else "`lm_eval ls tasks` lists them all"
        raise UserError(f"lm-eval has no task '{name}'; {hint}")


def refuse_code(index: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuses tasks that run what the model wrote; looks before loading, because some run code to be loaded."""
    for name in names:
        for task, config in _leaves(index, name, set()):
            if config.get("unsafe_code"):
                raise UserError(
                    f"lm-eval task '{task}' runs code that the model wrote, on this machine: "
                    "add --allow-code where that is safe"
                )


def check_metric(tasks: Mapping[str, Any], wanted: str) -> None:
    """Refuses a metric that a task cannot have; what only a run can tell is seen after it."""
    metric, _, pipeline = wanted.partition(",")
    for name, task in tasks.items():
        filters, metrics = [one.name for one in task._filters], list(task.aggregation())
        listed = getattr(task.config, "metric_list", None) or []
        fixed = task.config.process_results is None and all(isinstance(one["metric"], str) for one in listed)
        if (pipeline and pipeline not in filters) or (fixed and metric not in metrics):
            raise UserError(
                f"lm-eval task '{name}' has no metric '{wanted}': it has {', '.join(metrics)} "
                f"and the filters {', '.join(filters)}"
            )


def _leaves(index: Mapping[str, Any], name: str, seen: set[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, configuration) of every task behind a name of a task, group or tag."""
    if name in seen or name not in index:
        return
    seen.add(name)
    entry = index[name]
    config = entry.cfg or {}
    if entry.kind.name == "TAG":
        for task in sorted(entry.tags):
            yield from _leaves(index, task, seen)
    elif entry.kind.name == "GROUP":
        yield from _members(index, config, seen)
    else:
        yield name, config


def _members(
    index: Mapping[str, Any], config: Mapping[str, Any], seen: set[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    members = config.get("task") or []
    for member in [members] if isinstance(members, str) else members:
        if isinstance(member, str):
            yield from _leaves(index, member, seen)
            continue
        name = member.get("group") or member.get("task")
        if isinstance(name, str):
            yield name, member  # what a group writes beside a name overrides the task
            yield from _leaves(index, name, seen)
        if isinstance(member.get("task"), list):
            yield from _members(index, member, seen)


def _load(manager: Any, job: Job) -> tuple[list[Any], dict[str, Any]]:
    """The tasks and groups as asked for, and every task among them by name."""
    roots: list[Any] = []
    tasks: dict[str, Any] = {}
    for name in job.tasks:
        try:
            loaded = manager.load([name])
        except UserError:
            raise
        except Exception as error:
            traceback.print_exc()
            raise UserError(
                f"lm-eval cannot load the task '{name}' ({_first_line(error)}): its data must be on this machine or "
                "within reach, and the packages it needs installed"
            ) from None
        if twice := sorted(loaded["tasks"].keys() & tasks.keys()):
            raise UserError(f"the task '{twice[0]}' is asked for twice: once by its name, once as part of a group")
        groups = loaded.get("groups") or {}
        roots += [groups[name]] if name in groups else list(loaded["tasks"].values())
        tasks |= loaded["tasks"]
    return roots, tasks


# --- model -----------------------------------------------------------------------------------------------------


def _model_arguments(job: Job) -> dict[str, Any]:
    """Arguments of lm-eval's model: ours, and the user's over them."""
    from lm_eval.utils import simple_parse_args_string

    ours: dict[str, Any]
    if job.engine == "server":
        ours = {
            "model": job.model,
            "base_url": _chat_url(str(job.base_url)),
            "num_concurrent": job.batch_size or 1,
            "seed": job.seed,
            "timeout": 3600,
        }
    else:
        ours = {"pretrained": job.model, "dtype": job.dtype, "enable_thinking": job.thinking}
        if job.thinking:
            ours["think_end_token"] = "</think>"  # lm-eval insists on cutting the thought away
        if job.engine == "vllm":
            ours["seed"] = job.seed
    return ours | simple_parse_args_string(job.model_args)


def _chat_url(base: str) -> str:
    base = base.rstrip("/")
    return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


def _language_model(job: Job, arguments: dict[str, Any], tasks: Mapping[str, Any]) -> Any:
    from lm_eval.api.registry import get_model

    if job.engine == "server":
        for name, task in tasks.items():
            if task.OUTPUT_TYPE != "generate_until":
                raise UserError(
                    f"lm-eval task '{name}' asks for log-likelihoods, which a chat server does not give: "
                    "use --engine hf or vllm"
                )
    kind, extra, package = {
        "hf": ("hf", {"batch_size": job.batch_size or 16, "device": job.device}, "hf"),
        "vllm": ("vllm", {"batch_size": job.batch_size or "auto"}, "vllm"),
        "server": ("local-chat-completions", {}, "api"),
    }[job.engine]
    try:
        lm = get_model(kind).create_from_arg_obj(arguments, extra)
    except ImportError as error:
        traceback.print_exc()
        raise UserError(
            f"lm-eval lacks a package for --engine {job.engine} ({_first_line(error)}): "
            f"pip install 'lm-eval[{package}]'"
        ) from None
    if job.engine != "server" and job.apply_chat_template and not getattr(lm.tokenizer, "chat_template", None):
        raise UserError(f"the tokenizer of {job.model} has no chat template: add --no-chat-template")
    return lm


def _generation(job: Job, tasks: Mapping[str, Any]) -> dict[str, Any]:
    """What a server must be told with every request."""
    if job.engine != "server":
        return {}
    told: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": job.thinking}}
    if any(task.config.repeats > 1 for task in tasks.values()):
        told["seed"] = None  # lm-eval sends one seed with every request: repeated ones would get one answer
    return told
