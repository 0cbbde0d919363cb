"""lm-eval's own tasks on one of our models: `passthrough` has a process of its own run them and keeps what they gave.

The process prints into a log, not the terminal; what it must be allowed to do, it alone is allowed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from harness.errors import UserError

LOG: Final = "lm-eval.log"
ENGINES: Final = ("hf", "vllm", "server")
_BAR: Final = re.compile(rb"[Rr]equest\w*[^\r\n|]*:\s+\d+%\|[^|\r\n]*\|\s*(\d+)/(\d+)")
_START: Final = "import sys; sys.path[0] = sys.argv.pop(1); from harness.lmeval.worker import main; sys.exit(main())"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Job:
    """What the worker is asked to do; see `passthrough`."""

    model: str
    tasks: tuple[str, ...]
    folder: str
    limit: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    engine: str = "hf"
    base_url: str | None = None
    apply_chat_template: bool = True
    thinking: bool = False
    include_path: str | None = None
    allow_code: bool = False
    seed: int = 0
    batch_size: int | str | None = None
    model_args: str = ""
    num_fewshot: int | None = None
    metric: str | None = None


@dataclass(frozen=True)
class Number:
    """A score as lm-eval gives it, of a task or of a group; `rows` where our sample rows hold the same verdicts."""

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool | None
    rows: bool


@dataclass(frozen=True)
class Passed:
    """The outcome: entries for the manifest by benchmark name `lm-eval:TASK`, and every number lm-eval gave."""

    benches: dict[str, dict[str, Any]]
    numbers: list[Number]


def passthrough(
    model: str,
    tasks: Sequence[str],
    *,
    folder: Path,
    limit: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    engine: str = "hf",
    base_url: str | None = None,
    apply_chat_template: bool = True,
    thinking: bool = False,
    include_path: str | Path | None = None,
    allow_code: bool = False,
    seed: int = 0,
    batch_size: int | str | None = None,
    model_args: str = "",
    num_fewshot: int | None = None,
    metric: str | None = None,
    progress: Progress | None = None,
) -> Passed:
    """Runs tasks or groups of lm-eval and writes the files of an evaluation folder for every task.

    A task whose documents get a 0/1 verdict has sample rows; of any other, lm-eval's results are kept in
    `lm-eval.TASK.results.json` and returned, and no rows are made up.

    Args:
        model: a model folder, a name of the toy world, or with the engine "server" the server's name for it.
        tasks: names of tasks, groups or tags of lm-eval, without the `lm-eval:` before them.
        apply_chat_template, thinking: the prompts go through the model's template, with its thinking switched so.
        include_path: a folder of task files of one's own.
        allow_code: tasks may run the code that the model wrote, on this machine.
        batch_size: with a server, the number of requests at a time.
        model_args: more arguments of lm-eval's model, as `name=value,name=value`.
        metric: `METRIC` or `METRIC,FILTER` that gives the verdict; else the first usable of `rows.MAIN`.

    Raises:
        UserError: for an unknown task, one that runs code, one whose data are out of reach, or a failed run.
    """
    _check(engine, base_url, include_path)
    for option, value in (("limit", limit), ("batch_size", batch_size)):
        if isinstance(value, int) and value < 1:
            raise UserError(f"option '{option}' must be at least 1, got {value}")
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        model=_model(model, engine),
        tasks=tuple(dict.fromkeys(tasks)),
        folder=str(folder.resolve()),
        limit=limit,
        device=device,
        dtype=dtype,
        engine=engine,
        base_url=base_url,
        apply_chat_template=apply_chat_template,
        thinking=thinking,
        include_path=None if include_path is None else str(Path(include_path).resolve()),
        allow_code=allow_code,
        seed=seed,
        batch_size=batch_size,
        model_args=model_args,
        num_fewshot=num_fewshot,
        metric=metric,
    )
    outcome = _run(job, folder / LOG, progress)
    return Passed(outcome["benches"], [Number(**number) for number in outcome["numbers"]])


def _check(engine: str, base_url: str | None, include_path: str | Path | None) -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-eval is not installed: pip install 'opd-harness[lm-eval]'")
    if engine not in ENGINES:
        raise UserError(f"lm-eval's tasks need the engine {', '.join(ENGINES)}, not '{engine}'")
    if (engine == "server") != (base_url is not None):
        raise UserError("--engine server and --base-url URL go together")
    if include_path is not None and not Path(include_path).is_dir():
        raise UserError(f"the task folder {include_path} does not exist: name a folder that holds YAML files")


def _model(model: str, engine: str) -> str:
    from harness.runs.assets import model_folder

    return model if engine == "server" else str(model_folder(model).resolve())


def _run(job: Job, log: Path, progress: Progress | None) -> dict[str, Any]:
    """Runs the worker and returns its outcome."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    if job.allow_code:
        environment["HF_ALLOW_CODE_EVAL"] = "1"  # what the metric of code tasks asks for; in that process only
    with tempfile.TemporaryDirectory() as scratch, log.open("wb") as stream:
        asked, answered = Path(scratch, "job.json"), Path(scratch, "outcome.json")
        asked.write_text(json.dumps(asdict(job)), encoding="utf-8")
        command = [sys.executable, "-c", _START, str(root), str(asked), str(answered)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=environment
        )
        try:
            shown = None
            while process.poll() is None:
                time.sleep(0.2)
                if progress and (bar := bar_at(log)) and bar != shown:
                    progress("requests", *bar)
                    shown = bar
        finally:
            if process.poll() is None:
                _end(process)
        outcome = json.loads(answered.read_text(encoding="utf-8")) if answered.exists() else {}
    if "refused" in outcome:
        raise UserError(outcome["refused"])
    if "benches" not in outcome:
        why = outcome.get("failed") or f"its process ended with code {process.returncode}"
        raise UserError(f"lm-eval failed on {', '.join(job.tasks)} ({why}): the whole story is in {log}")
    return dict(outcome)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def bar_at(log: Path) -> tuple[int, int] | None:
    """(done, total) of the last progress bar over requests that stands at the end of a log."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4096))
        found = _BAR.findall(stream.read())
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def numbers_table(numbers: Sequence[Number]) -> Any:
    """What lm-eval itself reports, for the terminal; its standard errors are over documents."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    caption = "as lm-eval reports them, ± its standard error over documents; verdicts: kept one per document"
    table = Table(caption=Text(caption), caption_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in ("task", "metric", "filter", "better", "n", "value", "verdicts"):
        table.add_column(column, justify="right" if column in ("n", "value") else "left", overflow="fold")
    for one in numbers:
        better = {True: "higher", False: "lower", None: "—"}[one.higher_is_better]
        value = f"{one.value:.4f}" + ("" if one.stderr is None else f" ± {one.stderr:.4f}")
        words = (one.task, one.metric, one.filter, better, str(one.n), value, "yes" if one.rows else "no")
        table.add_row(*map(Text, words))
    return table
