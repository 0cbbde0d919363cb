r"""Self-checks: environment, benchmark files, golds against their grader, methods against teachers, toy models.

Each check yields `Finding`s: right, wrong (with the remedy), or not at hand (with how to get it). torch is imported
only by the checks that need it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from harness.check import environment
from harness.check.findings import Finding, Progress, few, right
from harness.errors import UserError

#: Answers that try to hang, crash or fool their reader. The gold is 5 and none of them says so.
HOSTILE: Final = (
    "",
    "\\boxed{25",
    "\\boxed{}",
    "\\boxed{" + "," * 10_000 + "}",
    "\\boxed{" + "7" * 100_000 + "}",
    "\\boxed" + " " * 100_000 + "x",
    "\\boxed{" * 15_000,
    "\\boxed{9^{9^{9^{9}}}}",
    "\\boxed{1e999999999}",
    "\\boxed{10^{-99999999999999999999}}",
    "\\boxed{(10^{100})!}",
    "\\boxed{\\frac{1}{0}}",
    "\\boxed{0^{0}}",
    "\\boxed{" + "\\mathbf{" * 200 + "1" + "}" * 201,
    "\\boxed{\u202e6\u202c}",
    "\\boxed{\ud8006}",
    "\\boxed{6\x00}",
    "\\boxed{<script>alert(1)</script>}",
    "\\boxed{" + "\\" * 999 + "}",
    "\\boxed{" + "$" * 999 + "}",
    "\\boxed{__import__('os').system('true')}",
    "\\boxed{\\infty - \\infty}",
    "\\boxed{\\begin{pmatrix} 1 & 2 \\\\ 3}",
)


# --- benchmarks --------------------------------------------------------------------------------------------------


def data(data_dir: str | Path | None = None, progress: Progress | None = None) -> Iterator[Finding]:
    """Row counts and hashes of the benchmark files in a folder; the toy ones generate."""
    loaded, findings = _load(data_dir)
    yield from findings
    toy = [name for name, bench in loaded.items() if bench.spec.toy]
    yield right(f"{len(toy)} toy benchmarks generate their problems")
    for name, bench in loaded.items():
        if bench.spec.toy:
            continue
        rows = f"{name}: {len(bench.problems)} problems in {bench.source}"
        if bench.released:
            yield right(f"{rows}, as released")
        elif bench.released is None:
            yield right(f"{rows}, SHA-256 {bench.sha256[:16]}; no released file is known to compare with")
        else:
            remedy = "numbers on them compare only with numbers on this copy; the released file has another content"
            yield Finding("absent", f"{rows}, not those released with FiRe-OPD", remedy)


def _load(data_dir: str | Path | None) -> tuple[dict[str, Any], list[Finding]]:
    """The benchmarks at hand, and what is to be said of the others."""
    from harness.benchmarks import BENCHMARKS, has_file, load_benchmark

    folder = data_dir if data_dir is not None else os.environ.get("OPD_DATA") or None
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"the benchmark folder {folder} does not exist: name another with --data-dir or OPD_DATA")
    loaded, findings, missing = {}, [], []
    for name, spec in BENCHMARKS.items():
        if not spec.toy and folder is None:
            continue
        try:
            if not spec.toy and folder is not None and not has_file(spec, Path(folder)):
                missing.append(name)
                continue
            loaded[name] = load_benchmark(name, folder)
        except UserError as problem:
            findings.append(Finding("wrong", str(problem)))
    if folder is None:
        remedy = "name their folder with --data-dir or OPD_DATA"
        findings.append(Finding("absent", "no folder of benchmark files is named", remedy))
    elif missing:
        what = f"no file of {', '.join(missing)} in {folder}"
        findings.append(Finding("absent", what, "`opd benchmarks NAME` says where it comes from"))
    return loaded, findings


# --- golds -------------------------------------------------------------------------------------------------------


def golds(data_dir: str | Path | None = None, progress: Progress | None = None) -> Iterator[Finding]:
    r"""Every gold, boxed, passes its own strict grader; hostile answers get a verdict and are not taken for right."""
    from harness.answers import grade_many

    loaded, findings = _load(data_dir)
    yield from findings
    for name, bench in loaded.items():
        items = [(f"\\boxed{{{p.answer}}}", p.answer, name) for p in bench.problems]
        graded = grade_many(items, progress=progress and partial(progress, name))
        wrong = [p.id for p, both in zip(bench.problems, graded, strict=True) if not both.strict.correct]
        released = sum(not both.paper.correct for both in graded)
        if wrong:
            remedy = "enter how they are to be read into harness/answers/golds.py"
            yield Finding("wrong", f"{name}: {len(wrong)} golds fail their own strict grader: {few(wrong)}", remedy)
        else:
            aside = f"; the released checker rejects {released} of them" if released else ""
            yield right(f"{name}: {len(items)} golds pass their own strict grader{aside}")
    graded = grade_many([(text, "5", "minerva") for text in HOSTILE])
    taken = [str(index) for index, both in enumerate(graded) if both.strict.correct]
    failed = [str(i) for i, both in enumerate(graded) if both.strict.reason.startswith(("timeout", "error"))]
    late = sum(both.paper.reason.startswith("timeout") for both in graded)
    if taken or failed:
        what = f"hostile answers: {few(taken) or 'none'} taken for right, {few(failed) or 'none'} not read in time"
        yield Finding("wrong", what, "the list is harness.check.HOSTILE; a checker or its limits have changed")
    else:
        stopped = f", the released checker had to be stopped at {late}" if late else ""
        yield right(f"{len(HOSTILE)} hostile answers: all got a verdict, none is right{stopped}")


# --- methods -----------------------------------------------------------------------------------------------------


def methods(table: Mapping[str, Any] | None = None, progress: Progress | None = None) -> Iterator[Finding]:
    """Every method plans on made-up scores, and a local teacher provides what it needs; who needs more is named."""
    import torch

    from trainer.methods import METHODS
    from trainer.teachers import LocalTeacher

    table = METHODS if table is None else table
    scores = made_up_scores()
    broken, unserved = [], []
    for name, objective in table.items():
        if objective.needs - LocalTeacher.provides:
            unserved.append(f"{name} ({', '.join(sorted(objective.needs - LocalTeacher.provides))})")
        try:
            plan = objective.plan(scores)
        except Exception as problem:  # whatever a block raises is the finding
            broken.append(f"{name} ({type(problem).__name__})")
            continue
        if not all(torch.isfinite(term.coef).all() for term in plan.terms) or not bool(plan.live.any()):
            broken.append(f"{name} (its plan has no finite coefficient, or none but 0)")
    for names, what in ((broken, "cannot plan"), (unserved, "need what no local teacher provides")):
        if names:
            yield Finding("wrong", f"{len(names)} methods {what}: {few(names)}", "mend the method or its blocks")
    if not broken and not unserved:
        yield right(f"{len(table)} methods plan, and a local teacher provides what they need")
    plain = [name for name, objective in table.items() if objective.needs <= {"logprobs"}]
    yield right(f"{len(plain)} of them need only the log-probabilities of sampled tokens, which a server can give")
    for names, need, how in (
        ([n for n, o in table.items() if "ref_logprobs" in o.reads], "a third model", "the student before training"),
        ([n for n, o in table.items() if "correct" in o.reads], "a verifier", "training data with an answer column"),
        ([n for n, o in table.items() if "group" in o.reads], "several samples per prompt", "--samples 4"),
        ([n for n, o in table.items() if "domain" in o.reads], "domains", "training data with a domain column"),
        ([n for n, o in table.items() if o.sampler == "teacher"], "the teacher's rollouts", "one local teacher"),
    ):
        if names:
            yield right(f"{need} ({how}): {', '.join(names)}")


def made_up_scores() -> Any:
    """Scores of eight rollouts, every field filled: four prompts of two samples, two domains."""
    import torch

    from trainer.scores import Scores

    draw = torch.Generator().manual_seed(0)
    shape = (8, 6)

    def uniform(low: float, high: float) -> Any:
        return low + (high - low) * torch.rand(shape, generator=draw)

    rows = torch.arange(shape[0])
    return Scores(
        mask=torch.arange(shape[1]) < (torch.tensor([6, 5, 4, 6, 3, 6, 2, 6]))[:, None],
        logprobs=uniform(-3, -0.1),
        teacher_logprobs=uniform(-3, -0.1),
        student_entropy=uniform(0.1, 3),
        teacher_entropy=uniform(0.1, 3),
        reverse_kl=uniform(0.01, 1),
        forward_kl=uniform(0.01, 1),
        ref_logprobs=uniform(-3, -0.1),
        rollout_logprobs=uniform(-3, -0.1),
        teacher_rank=torch.randint(1, 9, shape, generator=draw).float(),
        teacher_mass=uniform(0.1, 1),
        correct=rows % 2 == 0,
        completed=rows != 3,
        group=rows // 2,
        domain=rows // 4,
        uid=rows,
        progress=0.5,
    )


# --- toy models --------------------------------------------------------------------------------------------------


def toy(folders: Mapping[str, Path] | None = None, progress: Progress | None = None) -> Iterator[Finding]:
    """The toy models are there, and are the ones that their cards (`build.json`) describe."""
    from harness.runs.assets import TOY_MODELS
    from trainer.policy import fingerprint

    for name, folder in (TOY_MODELS if folders is None else folders).items():
        remedy = "build them with `opd toy build`, or restore the files"
        try:
            card = json.loads((folder / "build.json").read_text(encoding="utf-8"))
            found, parameters = fingerprint(folder), _parameters(folder / "model.safetensors")
        except (OSError, ValueError, UserError) as problem:
            yield Finding("wrong", f"{name} is not whole in {folder} ({type(problem).__name__})", remedy)
            continue
        known = card.get("fingerprint")
        if parameters != card.get("parameters") or known not in (None, found):
            what = f"{name} is not the model of its card: fingerprint {found}, {parameters} parameters"
            yield Finding("wrong", f"{what}, not {known or 'unknown'}, {card.get('parameters')}", remedy)
        elif known is None:
            how = "`opd toy build` writes it; the number of parameters agrees"
            yield Finding("absent", f"{name}: fingerprint {found}; its card has none to compare", how)
        else:
            yield right(f"{name}: {parameters:,} parameters, fingerprint {found}")


def _parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its header alone."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > 10**8:
            raise ValueError("no safetensors header")
        header = json.loads(stream.read(size))
    count = 0
    for name, entry in header.items():
        if name != "__metadata__":
            numbers = 1
            for length in entry["shape"]:
                numbers *= length
            count += numbers
    return count


#: The parts of `opd check`, in its order.
PARTS: Final[dict[str, Callable[..., Iterator[Finding]]]] = {
    "environment": environment.environment,
    "data": data,
    "golds": golds,
    "methods": methods,
    "toy": toy,
}
