"""`opd eval`: samples answers of a model to benchmark problems and grades them with both checkers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.commands import console
from harness.errors import UserError

HELP = "sample answers of a model to benchmark problems and grade them with both checkers"
EXAMPLES = """opd eval toy:student --bench toy-aime --k 32
opd eval DIR --bench aime24 minerva --data-dir BENCHMARKS --k 8 --limit 5
opd eval DIR --bench problems.jsonl --k 8 --thinking --max-tokens 8192
opd eval DIR --engine vllm --dtype bfloat16 --bench aime24 --k 32 --max-tokens 16384
opd eval Qwen/Qwen3-4B --engine server --base-url http://127.0.0.1:8000/v1 --bench aime24
opd eval - --engine replay --responses FILE --bench aime24 --data-dir BENCHMARKS --k 1
opd eval DIR --bench aime24 lm-eval:gsm8k
opd eval DIR --bench lm-eval:humaneval_plus --allow-code"""

ENGINES = ("hf", "vllm", "server", "replay")
LM_EVAL = "lm-eval:"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="a transformers folder, a run's folder, toy:student; a server's name for it; - with replay"
    )
    parser.add_argument(
        "--bench", nargs="+", required=True, help="names, JSONL or parquet files, or lm-eval:TASK of lm-eval"
    )
    parser.add_argument("--k", type=int, help="samples per problem (default: the benchmark's own)")
    parser.add_argument("--data-dir", help="folder of the benchmark files (or OPD_DATA)")
    parser.add_argument("--limit", type=int, help="only the first problems")
    parser.add_argument("--prompt", choices=["clean", "paper", "plain"], help="instruction once, twice, not at all")
    parser.add_argument("--thinking", action="store_true", help="switch the chat template's thinking on (default: off)")
    parser.add_argument("--max-tokens", type=int, help="longest response (default: 96 for toy, 2048 otherwise)")
    parser.add_argument("--temperature", type=float, default=1.0, help="(default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for generations and verdicts (default: under results/runs)")
    how = parser.add_argument_group("engine")
    how.add_argument("--engine", choices=ENGINES, default="hf", help="(default: %(default)s)")
    how.add_argument("--device", default="cpu", help="with hf (default: %(default)s)")
    how.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="of the weights (default: %(default)s)"
    )
    how.add_argument("--tensor-parallel", type=int, default=1, help="with vllm: devices (default: %(default)s)")
    how.add_argument("--base-url", help="with server: its address, for example http://127.0.0.1:8000/v1")
    how.add_argument("--concurrency", type=int, default=32, help="with server: requests in flight (default: 32)")
    how.add_argument("--timeout", type=float, default=3600.0, help="with server: seconds for one answer (3600)")
    how.add_argument("--plain-requests", action="store_true", help="with server: no fields beyond OpenAI's own")
    how.add_argument(
        "--responses", type=Path, help="with replay: JSONL of problem, response[, sample], or samples logged by lm-eval"
    )
    other = parser.add_argument_group("lm-eval's tasks")
    other.add_argument("--allow-code", action="store_true", help="let tasks run the code that the model wrote, here")
    other.add_argument("--no-chat-template", action="store_true", help="send prompts as the task writes them")
    other.add_argument("--include-path", type=Path, help="folder of further task files")
    other.add_argument("--metric", metavar="METRIC[,FILTER]", help="the 0/1 metric that makes the verdict")
    other.add_argument("--num-fewshot", type=int, help="(default: the task's own)")
    other.add_argument("--model-args", default="", help="passed on to lm-eval's model")
    other.add_argument("--batch-size", help="of lm-eval (default: its own)")


def run(args: argparse.Namespace) -> int:

    from harness.benchmarks import load_benchmark
    from harness.evaluation import evaluate
    from harness.evaluation.evaluations import load_evaluation
    from harness.evaluation.summary import measured, summary
    from harness.records import write_atomic
    from harness.runs.monitor import single_bar

    _check(args)
    tasks = [bench.removeprefix(LM_EVAL) for bench in args.bench if bench.startswith(LM_EVAL)]
    ours = [bench for bench in args.bench if not bench.startswith(LM_EVAL)]
    loaded = {bench: load_benchmark(bench, args.data_dir) for bench in ours}
    plans = [plan_for(args, bench, loaded[bench]) for bench in ours]
    names = [plan.name for plan in plans]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(f"benchmark '{min(doubled)}' is named twice: give each file a name of its own")
    name = _identity(args, plans)
    out = args.out or _folder(args, name)
    terminal = console()
    respond: Any = _responders(args, loaded, name) if ours else None
    for bench, plan in zip(ours, plans, strict=True):
        with single_bar(bench, terminal) as update:

            def progress(what: str, done: int, total: int, of: str = plan.name, update: Any = update) -> None:
                update(f"{of}: {done}/{total} {what}", done / total if total else 0.0)

            responder = respond(bench, plan)
            evaluate(responder, loaded[bench], plan, out, progress)
            for note, count in getattr(responder, "notes", {}).items():
                terminal.print(f"{bench}: {count} answers {note}", soft_wrap=True, markup=False)
            name = responder.name
    if tasks:
        names += _lm_eval(args, tasks, out, name, terminal)
    if names:
        found = measured(load_evaluation(out), names)
        write_atomic(out / "metrics.csv", found.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
        terminal.print(summary(found))
    terminal.print(f"generations and verdicts: {out}", soft_wrap=True)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Options that belong to an engine are refused with another, never ignored."""
    if (args.engine == "replay") != (args.responses is not None):
        raise UserError("--engine replay and --responses FILE go together")
    if (args.engine == "server") != (args.base_url is not None):
        raise UserError("--engine server and --base-url URL go together")
    if args.engine == "replay" and any(bench.startswith(LM_EVAL) for bench in args.bench):
        raise UserError("lm-eval's tasks need a model: choose another --engine, or leave them out")
    if args.tensor_parallel != 1 and args.engine != "vllm":
        raise UserError("--tensor-parallel is an option of --engine vllm")


def plan_for(args: argparse.Namespace, bench: str, loaded: Any) -> Any:
    """What to sample of a benchmark, from the options and the benchmark's own defaults."""
    from harness.evaluation import EvalPlan

    return EvalPlan(
        bench,
        k=loaded.spec.k if args.k is None else args.k,
        max_tokens=(96 if loaded.spec.toy else 2048) if args.max_tokens is None else args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        style=args.prompt or loaded.spec.style,
        seed=args.seed,
        limit=args.limit,
        thinking=args.thinking,
    )


def _identity(args: argparse.Namespace, plans: list[Any]) -> str:
    """What answers: a model with the fingerprint of its files, a server's model, a file of responses."""
    from harness.runs import assets

    if args.engine == "replay":
        import hashlib

        if not args.responses.is_file():
            raise UserError(f"{args.responses} does not exist: name a JSONL file of responses")
        return f"replay@{hashlib.sha256(args.responses.read_bytes()).hexdigest()[:16]}"
    if args.engine == "server":
        return f"server:{args.model}@{args.base_url}"  # of the folder; the responder knows more once it has asked

    from trainer.policy import fingerprint

    return f"{args.model}@{fingerprint(assets.model_folder(args.model))}, {args.dtype}"


def _responders(args: argparse.Namespace, loaded: dict[str, Any], name: str) -> Any:
    """A function of (bench, plan) that gives what answers it; a model is loaded once for all benchmarks."""
    from harness.evaluation import responders
    from harness.runs import assets

    if args.engine == "replay":
        return lambda bench, plan: responders.ReplayResponder(args.responses, loaded[bench], name)
    if args.engine == "server":
        from harness.evaluation.server import ServerResponder

        extras = not args.plain_requests
        return lambda bench, plan: ServerResponder(
            args.base_url, args.model, plan, extras=extras, concurrency=args.concurrency, timeout=args.timeout
        )
    folder = assets.model_folder(args.model)
    if args.engine == "vllm":
        from trainer.vllm_engine import VLLMEngine

        engine = VLLMEngine(folder, dtype=args.dtype, tensor_parallel=args.tensor_parallel)
        return lambda bench, plan: responders.of_vllm(engine, plan, name)

    import torch

    from trainer.policy import Policy

    policy = Policy.load(folder, args.device, getattr(torch, args.dtype))
    return lambda bench, plan: responders.of_policy(policy, plan, name)


def _folder(args: argparse.Namespace, name: str) -> Path:
    """Where an evaluation is kept: what draws other samples has another folder; more of the same has the same."""
    from harness.records import RESULTS
    from trainer.config import digest

    drawing = ("engine", "dtype", "prompt", "thinking", "max_tokens", "temperature", "top_p", "seed", "limit")
    identity = digest({"name": name} | {option: str(getattr(args, option)) for option in drawing})
    return RESULTS / "runs" / f"eval-{Path(args.model).name.replace(':', '-')}-{identity}"


def _lm_eval(args: argparse.Namespace, tasks: list[str], out: Path, name: str, terminal: Any) -> list[str]:
    """lm-eval's own tasks, entered beside the others; returns the benchmarks that have verdicts."""
    from harness.evaluation import check_model, enter
    from harness.lmeval.runs import numbers_table, passthrough
    from harness.runs.monitor import single_bar

    check_model(out, name)
    with single_bar("lm-eval", terminal) as update:

        def progress(what: str, done: int, total: int) -> None:
            update(f"lm-eval: {done}/{total} {what}", done / total if total else 0.0)

        passed = passthrough(
            args.model,
            tasks,
            folder=out,
            limit=args.limit,
            device=args.device,
            dtype=args.dtype,
            engine=args.engine,
            base_url=args.base_url,
            apply_chat_template=not args.no_chat_template,
            thinking=args.thinking,
            include_path=args.include_path,
            allow_code=args.allow_code,
            seed=args.seed,
            batch_size=args.batch_size,
            model_args=args.model_args,
            num_fewshot=args.num_fewshot,
            metric=args.metric,
            progress=progress,
        )
    enter(out, name, args.engine, passed.benches)
    terminal.print(numbers_table(passed.numbers))
    terminal.print(f"what lm-eval said: {out / 'lm-eval.log'}", soft_wrap=True)
    return list(passed.benches)
