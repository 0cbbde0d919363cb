"""A run's records on a dashboard: TensorBoard, Weights & Biases, trackio. Fed by what is kept anyway, and optional.

    trackers = open_trackers(["tensorboard"], folder, cell.run_id, spec)
    for step in train(…):
        append_jsonl(steps_file, [asdict(step.record)])
        for tracker in trackers:
            tracker.log(asdict(step.record))
    for tracker in trackers:
        tracker.finish()

The dashboards are never read: tables and figures come from records. One in trouble warns, once, and the run goes on
without it.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from harness.errors import UserError
from harness.records import iter_jsonl, write_atomic

PROJECT: Final = "opd"  # where neither WANDB_PROJECT nor TRACKIO_PROJECT says otherwise
STEPS: Final = "train"


class Writer(Protocol):
    """One dashboard's way to take numbers."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """Numbers of one run on one dashboard, each step once: how far it got is kept in `<run>/tracking/<name>.json`.

    The note of a step is written before the step: a kill between the two leaves a step out, never one twice.

    Attributes:
        working: whether the dashboard still takes numbers.
    """

    def __init__(self, name: str, run_dir: Path, open_writer: Callable[[], Writer]) -> None:
        self.name = name
        self.working = True
        self._writer: Writer | None = None
        self._note = run_dir / "tracking" / f"{name}.json"
        self._done: dict[str, int] = {}

        def start() -> None:
            if self._note.exists():
                self._done = {str(kind): int(step) for kind, step in json.loads(self._note.read_text()).items()}
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._writer = open_writer()

        self._try(start)

    def log(self, step: Mapping[str, Any], kind: str = STEPS) -> None:
        """Shows the finite numbers of a record under `<kind>/<field>`. A step of its kind that was shown is skipped."""
        number = int(step["step"])
        if not self.working or number <= self._done.get(kind, -1):
            return
        numbers = {f"{kind}/{name}": float(value) for name, value in step.items() if name != "step" and _finite(value)}

        def show() -> None:
            assert self._writer is not None
            self._done[kind] = number
            write_atomic(self._note, json.dumps(self._done))
            self._writer.write(number, numbers)

        self._try(show)

    def finish(self) -> None:
        """Hands over what is left; further steps are ignored. A run that is continued later opens its trackers anew."""
        if self.working and self._writer is not None:
            self._try(self._writer.close)
        self.working = False

    def _try(self, action: Callable[[], None]) -> None:
        if not self.working:
            return
        try:
            action()
        except Exception as problem:  # whatever a dashboard, its server or its disk comes up with
            self.working = False
            said = (str(problem).splitlines() or [""])[0]
            warnings.warn(
                f"{self.name} is off for the rest of this run ({type(problem).__name__}: {said[:200]}); the records in "
                "steps.jsonl are whole",
                RuntimeWarning,
                stacklevel=3,
            )


def open_trackers(names: Sequence[str], run_dir: Path, run_id: str, spec: Any) -> list[Tracker]:
    """The trackers of a run, new or continued; each is shown the steps of `<run_dir>/steps.jsonl` that it has not seen.

    Raises:
        UserError: for an unknown name, one given twice, or a package that is missing.
    """
    trackers = []
    for name, writer in available(names).items():
        tracker = Tracker(name, run_dir, lambda writer=writer: writer(run_dir, run_id, _config(spec)))  # type: ignore[misc]
        trackers.append(tracker)
        for row in iter_jsonl(run_dir / "steps.jsonl"):
            tracker.log(row)
    return trackers


def available(names: Sequence[str]) -> dict[str, Callable[[Path, str, dict[str, Any]], Writer]]:
    """What opens each of the trackers for (run folder, run id, spec as JSON).

    Raises:
        UserError: as `open_trackers`.
    """
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"unknown tracker '{name}': there are {', '.join(TRACKERS)}")
        if list(names).count(name) > 1:
            raise UserError(f"tracker '{name}' is named twice: name it once")
    return {name: _imported(name) for name in names}


def _imported(name: str) -> Callable[[Path, str, dict[str, Any]], Writer]:
    module, package, writer = TRACKERS[name]
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"tracker '{name}' needs the package '{package}' ({error}): pip install {package}") from None
    return lambda run_dir, run_id, config: writer(found, run_dir, run_id, config)


def _config(spec: Any) -> dict[str, Any]:
    from trainer.settings import describe

    found = describe(spec)
    return found if isinstance(found, dict) else {"spec": found}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


# --- dashboards -------------------------------------------------------------------------------------------------


class TensorBoard:
    """Event files in `<run>/tensorboard`; every process that works on the run adds one."""

    def __init__(self, module: Any, run_dir: Path, run_id: str, config: dict[str, Any]) -> None:
        self.writer = module.SummaryWriter(log_dir=str(run_dir / "tensorboard"))
        text = json.dumps(config, indent=1, ensure_ascii=True)
        self.writer.add_text("spec", "    " + text.replace("\n", "\n    "), 0)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # a killed process loses nothing that it has shown

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """One run under the run's own id. WANDB_MODE=offline, WANDB_PROJECT and the rest are wandb's own business."""

    def __init__(self, module: Any, run_dir: Path, run_id: str, config: dict[str, Any]) -> None:
        self.run = module.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            name=run_id,
            dir=str(run_dir),
            config=config,
            resume="allow",
            reinit="finish_previous",  # its own default hands out a run that another cell of this process left open
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """One run under the run's own id, continued where there is one."""

    def __init__(self, module: Any, run_dir: Path, run_id: str, config: dict[str, Any]) -> None:
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self.run = module.init(project=project, name=run_id, config=config, resume="allow", embed=False)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        self.run.finish()


#: name → (module, what to install, writer)
TRACKERS: Final[dict[str, tuple[str, str, Callable[..., Writer]]]] = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboard", TensorBoard),
    "wandb": ("wandb", "wandb", WeightsAndBiases),
    "trackio": ("trackio", "trackio", Trackio),
}
