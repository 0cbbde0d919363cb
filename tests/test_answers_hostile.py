"""Answers that try to hang, crash or fool their reader, and the worker processes that have to bear them."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import harness.answers
from harness.answers import Graded, grade, grade_many, judge, strict
from harness.answers.extract import last_box, released_box
from harness.answers.workers import MEMORY_MIB, WINDOW_TASKS, Pool, close_shared_pool, shared_pool

TOWER = "9^{9^{9^{9}}}"
LINUX = Path("/proc/self/limits").exists()


def boxed(text: str) -> str:
    return f"\\boxed{{{text}}}"


def is_running(pid: int) -> bool:
    """Whether ``pid`` is a live process; a dead child that nobody has waited for yet counts as gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def are_gone(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_running, pids))


@pytest.fixture
def short_limits(monkeypatch):
    monkeypatch.setattr(harness.answers, "TIME_LIMITS", {"strict": 5.0, "paper": 1.0})


# --- text -------------------------------------------------------------------------------------------------------

HOSTILE = {
    "unclosed": "\\boxed{25",
    "empty": boxed(""),
    "only braces": boxed("{" * 500 + "}" * 500),
    "unbalanced": boxed("\\frac{1}{2"),
    "stray closers": "}}}}\\boxed{5}}}}}",
    "10,000 commas": boxed("," * 10_000),
    "10,000 items": boxed(",".join("1" for _ in range(10_000))),
    "90 items": boxed(",".join(str(n) for n in range(90))),
    "100 kB of digits": boxed("7" * 100_000),
    "100 kB of spaces": "\\boxed" + " " * 100_000 + "x",
    "100 kB of boxes": "\\boxed{" * 15_000,
    "100 kB of closed boxes": "\\boxed{1}" * 11_000,
    "301 characters": boxed("1+" * 150 + "1"),
    "cut inside a command": boxed("x" * 295 + "\\frac{1}{2}"),
    "huge exponent": boxed("1e999999999"),
    "tiny exponent": boxed("10^{-99999999999999999999}"),
    "long literal": boxed("0." + "1" * 1900),
    "huge factorial": boxed("(10^{100})!"),
    "huge binomial": boxed("\\binom{10^{9}}{10^{8}}"),
    "huge angle": boxed("\\sin(10^{10^{10}})"),
    "division by zero": boxed("\\frac{1}{0}"),
    "zero to zero": boxed("0^{0}"),
    "nested roots": boxed("\\sqrt{" * 200 + "2" + "}" * 200),
    "long sum": boxed("+".join(["x"] * 700)),
    "deep fractions": boxed("\\frac{1}{" * 150 + "2" + "}" * 150),
    "styles in styles": boxed("\\mathbf{" * 200 + "1" + "}" * 200),
    "NUL": boxed("5\x00"),
    "RTL marks": boxed("\u202e5\u202c"),
    "zero width": boxed("\u200b5\ufeff"),
    "lone surrogate": boxed("\ud8005"),
    "full width": boxed("５"),
    "Arabic digit": boxed("٥"),
    "full stops": boxed("..."),
    "script": boxed("<script>alert(1)</script>"),
    "unicode minus": boxed("−5"),
    "newlines": boxed("\n\n5\n\n"),
    "backslashes": boxed("\\" * 999),
    "dollar soup": boxed("$" * 999),
    "percent soup": boxed("%" * 300),
    "caret soup": boxed("^" * 300),
    "python": boxed("__import__('os').system('true')"),
    "infinity": boxed("\\infty - \\infty"),
    "imaginary": boxed("i^{i^{i}}"),
    "empty matrix": boxed("\\begin{pmatrix}\\end{pmatrix}"),
    "half a matrix": boxed("\\begin{pmatrix} 1 & 2 \\\\ 3"),
    "endless chain": boxed("=".join("x" for _ in range(400))),
    "bars": boxed("|" * 301),
    "plus minus": boxed("\\pm" * 200 + "5"),
}
RIGHT = {"NUL", "RTL marks", "zero width", "lone surrogate", "full width", "Arabic digit", "newlines", "stray closers"}


# What math-verify needs seconds for is left to the slow test, but for two that it never ends.
ENDLESS_FOR_MATH_VERIFY = {"huge factorial", "tiny exponent"}
SLOW_FOR_MATH_VERIFY = {"only braces", "10,000 items", "huge binomial", "huge angle", "nested roots", "deep fractions"}
SLOW_FOR_MATH_VERIFY |= {"long sum", "endless chain", "bars", "stray closers", "unclosed"}


def test_hostile_texts_under_strict():
    """Each gets a verdict, exactly those that do say 5 are right, and the clock, a second line of defence, is not needed."""
    verdicts = {name: grade(text, "5", "strict", "minerva") for name, text in HOSTILE.items()}
    assert {name for name, verdict in verdicts.items() if verdict.correct} == RIGHT
    assert not any(verdict.reason.startswith(("timeout", "error")) for verdict in verdicts.values())


def test_hostile_texts_under_the_released_checker(short_limits):
    names = [name for name in HOSTILE if name not in SLOW_FOR_MATH_VERIFY]
    graded = grade_many([(HOSTILE[name], "5", "minerva") for name in names])
    timeouts = {name for name, both in zip(names, graded, strict=True) if both.paper.reason == "timeout"}
    assert timeouts >= ENDLESS_FOR_MATH_VERIFY


@pytest.mark.slow
def test_slow_hostile_texts_under_the_released_checker():
    graded = grade_many([(HOSTILE[name], "5", "minerva") for name in sorted(SLOW_FOR_MATH_VERIFY)])
    assert [both.paper.correct for both in graded] == [name == "stray closers" for name in sorted(SLOW_FOR_MATH_VERIFY)]


@pytest.mark.parametrize("bench", ["aime24", "math500", "minerva", "olympiadbench", "toy-aime", "no such set"])
def test_hostile_golds_get_a_verdict(bench):
    """A gold is a user's text, too: none raises, and none but 5 itself is met by the answer 5."""
    golds = [text[len("\\boxed{") : -1] for name, text in HOSTILE.items() if name not in RIGHT]
    verdicts = [grade(boxed("5"), gold, "strict", bench) for gold in golds]
    assert [gold for gold, verdict in zip(golds, verdicts, strict=True) if verdict.correct] == []
    assert not any(verdict.reason == "timeout" for verdict in verdicts)


def test_a_few_hostile_golds_for_the_released_checker(short_limits):
    golds = [
        HOSTILE[name][len("\\boxed{") : -1] for name in ("NUL", "lone surrogate", "100 kB of digits", "nested roots")
    ]
    assert len([grade(boxed("\\frac{10}{2}"), gold, "paper") for gold in golds]) == 4


def test_one_call_on_a_tower_of_powers(short_limits):
    assert not grade(boxed(TOWER), "5", "strict").correct
    assert grade(boxed(TOWER), "5", "paper").reason in ("timeout", "error: out of memory", "different", "unreadable")
    assert grade(boxed("\\frac{10}{2}"), "5", "paper").correct  # and the next answer is judged as ever


def fuzzed(draw: random.Random, towers: bool = False) -> str:
    """A random answer of LaTeX pieces, damaged in one of several ways."""
    pieces = [
        *(
            "5",
            "-",
            "+",
            "=",
            ",",
            ".",
            "x",
            "{",
            "}",
            "(",
            ")",
            "[",
            "]",
            "^",
            "_",
            "|",
            "!",
            "%",
            "$",
            "&",
            " ",
            "\\\\",
        ),
        *(
            "\\frac",
            "\\frac{1}{2}",
            "\\sqrt",
            "\\sqrt{2}",
            "\\pi",
            "\\sin",
            "\\log_2",
            "\\text{ cm}",
            "\\text{or}",
            "\\pm",
        ),
        *(
            "\\cup",
            "\\infty",
            "\\{",
            "\\}",
            "\\left(",
            "\\right]",
            "\\le",
            "\\in",
            "\\begin{pmatrix}",
            "\\end{pmatrix}",
        ),
        *(
            "10^{5}",
            "1e7",
            "3,141",
            "\\times",
            "\\cdot",
            "\\ldots",
            "e^{it}",
            "f(x)",
            "\\dot{x}",
            "x'",
            "\\lfloor",
            "\\rceil",
        ),
        *("\\boxed{", "−", "５", "½", "²", "\x00", "\u202e", "\ud800", "√", "∞", "\\mathbb{R}", "\\binom{5}{2}", "7!"),
    ]
    if towers:
        pieces += ["^{9^{9}}", "!!", "^{x^{x}}", "9" * 50]
    text = "".join(draw.choice(pieces) for _ in range(draw.choice((1, 2, 3, 5, 8, 13, 30, 80))))
    damage = draw.random()
    if damage < 0.1:
        return "\\boxed{" + text
    if damage < 0.2:
        return text * draw.randint(1, 40)
    if damage < 0.3:
        return "\\boxed " + text
    return f"so \\boxed{{{text}}} done"


def bomb(draw: random.Random) -> str:
    """One of the texts that are small to write and large to read."""
    depth = draw.choice((2, 5, 20, 150))
    many = draw.choice((10, 300, 10_000, 100_000))
    power = draw.randint(2, 99)
    bombs = (
        "9^{" * depth + "9" + "}" * depth,
        "x^" * depth + "x",
        "\\frac{1}{" * depth + "x" + "}" * depth,
        "\\frac{" * depth + "1" + "}{2}" * depth,
        "\\sqrt{" * depth + "2" + "}" * draw.randint(0, depth),
        "\\left(" * depth + "1" + "\\right)" * depth,
        "\\begin{pmatrix}" * depth,
        "{" * draw.randint(0, many) + "}" * draw.randint(0, 300),
        "," * many,
        ",".join(str(n) for n in range(min(many, 10_000))),
        "7" * many,
        "\u0664" * many,
        "x+" * min(many, 10_000) + "x",
        "\x00" * many + "5",
        "\u202e" * draw.randint(1, 99) + "5",
        "\ud800" * draw.randint(1, 99) + "\udfff",
        "\u2212" * draw.randint(1, 99) + "５" * draw.randint(1, 99),
        f"1e{power}{power}{power}",
        f"10^{{10^{{{power}}}}}",
        f"{power}^{{-{power}^{{{power}}}}}",
        f"({power}!)!",
        f"\\binom{{{power}^{{9}}}}{{{power}^{{8}}}}",
        f"\\sum_{{k=1}}^{{10^{{{power}}}}} k!",
        f"\\int_0^{{{power}}} e^{{e^{{x^{{{power}}}}}}} dx",
        f"(x+y+z)^{{{power}{power}}}",
        "\\def\\a{\\a\\a}\\a",
        "\\def\\a{99}" + "".join(f"\\def\\{chr(98 + n)}{{\\{chr(97 + n)}\\{chr(97 + n)}}}" for n in range(20)) + "\\u",
        "\\newcommand{\\x}[1]{\\x{#1#1}}\\x{2}",
        "\\let\\frac\\sqrt\\expandafter\\frac\\csname x\\endcsname",
        "\\loop\\iftrue\\repeat",
        "\\input{/etc/passwd}",
    )
    return draw.choice(bombs)


FUZZ_GOLDS = (
    "5",
    "4.5e33",
    "\\frac{1}{2}",
    "(3,4]",
    "1,-2",
    "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
    "f(x)=2x",
    "x+1",
)


def fuzz_items(cases: int, seed: int, bombs: float) -> list[tuple[str, str, str]]:
    draw = random.Random(seed)

    def response() -> str:
        if draw.random() >= bombs:
            return fuzzed(draw, towers=bombs > 0)
        return draw.choice(
            (boxed(bomb(draw)), "<think>" + boxed(bomb(draw)) + "</think>" + boxed(bomb(draw)), bomb(draw))
        )

    return [(response(), draw.choice(FUZZ_GOLDS), draw.choice(("minerva", "math500"))) for _ in range(cases)]


def defects(items: list[tuple[str, str, str]], graded: list[Graded]) -> list[tuple[str, str]]:
    """Answers on which the strict checker failed: an error is a defect of ours, a timeout of such a text is one, too."""
    return [
        (response[:200], both.strict.reason)
        for (response, _, _), both in zip(items, graded, strict=True)
        if both.strict.reason.startswith(("error", "timeout"))
    ]


def test_fuzz(short_limits):
    items = fuzz_items(600, seed=7, bombs=0.0)
    graded = grade_many(items)
    assert len(graded) == 600 and defects(items, graded) == []
    assert 0 < sum(both.strict.correct for both in graded) < 60  # some pieces are right answers by themselves


def test_bombs_under_the_strict_checker():
    """Every kind several times over; only the strict checker, which needs no clock for any of them."""
    draw = random.Random(17)
    for _ in range(400):
        text = bomb(draw)
        verdict = grade(boxed(text), "5", "strict", draw.choice(("minerva", "math500", "aime24")))
        assert not verdict.reason.startswith(("error", "timeout")), (text[:200], verdict)


def resident(pid: int) -> float:
    """Resident memory of a process in MiB, 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_fuzz_ten_thousand(monkeypatch):
    """Each gets a verdict of both checkers; memory stays under the limit; when the pool is closed, no process is left."""
    monkeypatch.setattr(harness.answers, "TIME_LIMITS", {"strict": 5.0, "paper": 1.0})
    close_shared_pool()
    pool, seen, peaks, over = shared_pool(), set(), [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for pid in pool.pids():
                seen.add(pid)
                peaks.append(resident(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    items = fuzz_items(10_000, seed=11, bombs=0.2)
    try:
        graded = grade_many(items)
    finally:
        over.set()
        watcher.join()
    assert len(graded) == 10_000 and defects(items, graded) == []
    assert all(both.strict.reason and both.paper.reason for both in graded)
    assert max(peaks) <= MEMORY_MIB
    assert any(both.paper.reason == "timeout" for both in graded)  # the limits were needed, and held
    close_shared_pool()
    assert seen and are_gone(sorted(seen), 10)


def test_no_reply_comes_after_its_limit():
    """A task counts from the reply before it, also where several are on their way; five seconds are for a busy machine."""
    pool = Pool(size=1)
    texts = [TOWER, "1+1", "\\binom{10^{9}}{10^{8}}", "(10^{100})!", "2+3", TOWER]
    tasks = [(task(text, checker="paper"), 0.5) for text in texts]
    started, waits = time.monotonic(), []
    for _ in pool.run_all(tasks):
        waits.append(time.monotonic() - started)
        started = time.monotonic()
    pool.close()
    # a process that was killed is replaced before the next task's clock starts
    assert len(waits) == len(texts) and max(waits) < 0.5 + 30


def test_reading_is_linear_in_a_long_response():
    """Characters looked at, not seconds: a tail of boxes is read once, however much text stands before it."""
    filler = "blah {} \\frac{1}{2} " * 50_000
    assert last_box(filler + boxed("5")).text == "5"
    assert released_box(filler + boxed("5")) == "5"
    assert last_box(boxed("5") + filler).text == "5"


def test_strict_bounds_hold_without_a_clock():
    """In this process, without any limit on time: each of these would run for ever if it were computed."""
    for text in (TOWER, "2^{2^{2^{2^{2^{2}}}}}", "((9!)!)!", "10^{10^{100}}", "\\sin(9^{9^{9}})", "e^{e^{e^{e^{e}}}}"):
        assert not strict.compare("5", text, "minerva").equal
        assert strict.compare(text, text, "minerva").equal  # a gold may be one: equal texts need no value


# --- processes ----------------------------------------------------------------------------------------------------


def task(prediction: str, gold: str = "5", checker: str = "strict") -> dict[str, str]:
    return {"checker": checker, "gold": gold, "prediction": prediction, "bench": "math500"}


@pytest.fixture
def pool():
    made = Pool(size=1)
    yield made
    made.close()


def test_a_worker_at_its_limit_is_killed_and_replaced(pool):
    assert pool.run(task("2+3"), 5).outcome == "equal"
    first = pool.pids()
    assert pool.run(task(TOWER, checker="paper"), 0.3).outcome == "timeout"
    assert pool.pids() == []
    assert are_gone(first, 5)
    assert pool.run(task("2+3"), 5).outcome == "equal"
    assert len(pool.pids()) == 1 and pool.pids() != first


def test_a_worker_killed_from_outside_is_replaced(pool):
    assert pool.run(task("2+3"), 5).outcome == "equal"
    first = pool.pids()
    os.kill(first[0], signal.SIGKILL)
    assert are_gone(first, 5)
    assert pool.run(task("1+3"), 5).outcome == "different"
    assert len(pool.pids()) == 1 and pool.pids() != first


def test_tasks_in_a_row_are_answered_in_order_whatever_happens_to_one(pool):
    """One times out in the middle, one process is killed from outside: every task gets the reply that is its own."""
    texts = [f"{n}-7+5" for n in range(WINDOW_TASKS + 20)]
    texts[9] = TOWER
    tasks = [(task(text, gold=str(n - 2), checker="paper"), 2.0) for n, text in enumerate(texts)]
    outcomes = []
    for n, reply in enumerate(pool.run_all(tasks)):
        outcomes.append(reply.outcome)
        if n == 20:
            os.kill(pool.pids()[0], signal.SIGKILL)
    expected = ["equal"] * len(texts)
    assert outcomes[:9] + outcomes[10:] == expected[:9] + expected[10:]
    assert outcomes[9] in (
        "timeout",
        "error",
        "different",
    )  # by the machine's speed, but never equal, and never another's


def test_a_task_that_kills_its_process_twice_is_to_blame_and_the_others_are_not(pool, monkeypatch):
    receive, deaths = harness.answers.workers._Worker.receive, []

    def dying(self, limit):
        if len(deaths) < 2 and len(outcomes) == 3:
            deaths.append(self.process.pid)
            self.process.kill()
            self.process.wait()
            self.fit = False
            return None
        return receive(self, limit)

    monkeypatch.setattr(harness.answers.workers._Worker, "receive", dying)
    outcomes: list[str] = []
    for reply in pool.run_all([(task("2+3"), 5.0)] * 8):
        outcomes.append(reply.outcome)
    assert len(set(deaths)) == 2
    assert outcomes == ["equal"] * 3 + ["error"] + ["equal"] * 4


def test_a_pool_is_left_clean_by_who_stops_listening(pool):
    replies = pool.run_all([(task(f"{n}+1", gold="5"), 5.0) for n in range(40)])
    assert next(replies).outcome == "different"
    replies.close()
    assert pool.pids() == []  # its process still had tasks on the way, whose replies nobody may mistake for theirs
    assert pool.run(task("2+3"), 5).outcome == "equal"


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_a_process_has_grown_at_half_its_limit():
    """A process that holds h MiB holds more than half of a limit just under 2h, and less than half of one over it."""
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    assert judge._has_grown(int(2 * held) - 20)
    assert not judge._has_grown(int(2 * held) + 200)
    assert not judge._has_grown(0)  # no limit, no half of it


BIG_PARENT = """
from harness.answers.workers import Pool

ballast = b"x" * (600 << 20)  # more than half of a worker's limit; a child's ru_maxrss starts from it
pool = Pool(size=1)
task = {"checker": "strict", "gold": "5", "prediction": "2+3", "bench": "math500"}
assert pool.run(task, 60).outcome == "equal"
(first,) = pool.pids()
assert pool.run(task, 60).outcome == "equal"
assert pool.pids() == [first]
"""


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_a_worker_does_not_inherit_its_parents_size():
    subprocess.run([sys.executable, "-c", BIG_PARENT], check=True, timeout=120)


def test_a_process_that_leaves_is_replaced_and_no_task_is_lost(pool, monkeypatch):
    read = harness.answers.workers._Worker._read

    def leaving(self, limit):
        found = read(self, limit)
        return found if found is None or "ready" in found else {**found, "leaving": True}

    pool.run(task("2+3"), 5)
    before = pool.pids()
    monkeypatch.setattr(harness.answers.workers._Worker, "_read", leaving)
    assert pool.run(task("2+3"), 5).outcome == "equal"
    assert pool.pids() == [] and are_gone(before, 5)
    assert [reply.outcome for reply in pool.run_all([(task("2+3"), 5.0), (task("2+4"), 5.0)])] == ["equal", "different"]


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_workers_run_under_a_memory_limit():
    pool = Pool(size=1, memory_mib=700)
    assert pool.run(task("2+3"), 5).outcome == "equal"
    limits = Path(f"/proc/{pool.pids()[0]}/limits").read_text()
    assert [str(700 << 20)] * 2 == next(line for line in limits.splitlines() if "address space" in line).split()[3:5]
    pool.close()


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_workers_have_a_limit_on_processor_time_from_the_kernel(pool):
    """Even one endless instruction ends: the kernel counts, whoever holds the interpreter's lock."""
    pool.run(task("2+3"), 5)
    limits = Path(f"/proc/{pool.pids()[0]}/limits").read_text()
    seconds = int(next(line for line in limits.splitlines() if "cpu time" in line).split()[3])
    assert 6 <= seconds <= 60


def test_a_call_with_a_bound_does_not_wait_for_a_busy_worker(pool):
    pool.run(task("2+3"), 5)
    busy = threading.Thread(target=pool.run, args=(task(TOWER, checker="paper"), 1.5))
    busy.start()
    while not pool.pids() or pool._idle:
        time.sleep(0.01)
    reply = pool.run(task("2+3"), 5, within=0.2)
    assert (reply.outcome, reply.reason) == ("error", "error: no judging process was free in time")
    busy.join()
    assert pool.run(task("2+3"), 5, within=60).outcome == "equal"


def test_many_threads_share_few_workers():
    pool = Pool(size=2)
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: pool.run(task(f"{n}-7+5", gold=str(n - 2)), 10).outcome}))
        for n in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: "equal" for n in range(30)}
    assert 1 <= len(pool.pids()) <= 2
    pids = pool.pids()
    pool.close()
    assert are_gone(pids, 5)


def test_the_shared_pool_can_be_closed_and_used_again():
    assert grade(boxed("u+u"), "2u").correct
    pids = shared_pool().pids()
    close_shared_pool()
    assert pids and are_gone(pids, 5)
    assert grade(boxed("u+u+u"), "3u").correct


CHILD = """
import os, sys, threading
from harness.answers import grade
from harness.answers.workers import shared_pool
assert grade(r"\\boxed{2x+x}", "3x").correct
print(*shared_pool().pids(), flush=True)
if sys.argv[1] == "many":
    from harness.answers import grade_many
    items = [(f"\\\\boxed{{x^{n}=y+1}}", "x^2=y", "math500") for n in range(500)]
    threading.Thread(target=grade_many, args=(items,), daemon=True).start()
if sys.argv[1] == "busy":
    threading.Thread(target=grade, args=(r"\\boxed{9^{9^{9^{9}}}}", "5", "paper"), daemon=True).start()
if sys.argv[1] != "exit":
    sys.stdin.read()
"""


@pytest.mark.skipif(not LINUX, reason="reads /proc")
@pytest.mark.parametrize("how", ["exit", "killed", "busy", "many"])
def test_no_worker_outlives_its_parent(how):
    """After a normal exit, after SIGKILL while the worker waits, while it computes, while hundreds of tasks wait."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    pids = [int(pid) for pid in child.stdout.readline().split()]
    assert pids
    if how != "exit":
        assert all(map(is_running, pids))
        if how in ("busy", "many"):
            time.sleep(0.5)
        child.kill()
    child.wait(60)
    assert are_gone(pids, 30)
    assert child.stdin is not None
    child.stdin.close()
    child.stdout.close()


def graded_elsewhere(queue):
    queue.put((grade(boxed("j+j+j"), "3j").correct, grade(boxed("j+j"), "3j", "paper").correct, shared_pool().pids()))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_spawned_child_grades(method):
    """A child of multiprocessing grades with workers of its own, and leaves none behind when it is done."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no start method '{method}' here")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=graded_elsewhere, args=(queue,))
    child.start()
    strict_verdict, paper_verdict, pids = queue.get(timeout=120)
    child.join(60)
    assert (strict_verdict, paper_verdict, child.exitcode) == (True, False, 0)
    assert pids and (not LINUX or are_gone(pids, 10))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_workers_of_its_own():
    assert grade(boxed("k+k"), "2k").correct
    before = shared_pool().pids()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            right = grade(boxed("k+k+k"), "3k").correct
            code = 0 if right and not set(shared_pool().pids()) & set(before) else 2
            close_shared_pool()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert shared_pool().pids() == before and all(map(is_running, before))
    assert grade(boxed("k+k+k+k"), "4k").correct
