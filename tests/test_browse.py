"""The page of samples: what it holds, what it calls suspicious, and how it behaves in a real browser."""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.answers import grade_many
from harness.answers.extract import last_box
from harness.commands import browse as command
from harness.errors import UserError
from harness.samples import LIMIT, write_page
from harness.samples import style as style_of_page
from harness.samples.excerpts import parts_of
from harness.samples.needles import Span
from harness.samples.suspicions import KINDS, Reading, read, suspicions
from tests.conftest import ROOT
from tests.test_report import browser  # noqa: F401  # the fixture

HOSTILE = (
    "<script>window.pwned=1</script>\n</textarea></script><!-- ]]> {{ 7*7 }}\n"
    "<img src=x onerror=window.pwned=1> &lt;b&gt; \x00\x00\x00 \u2028 \u202egnp.exe\u202c \ud800 \ufeff \ufffd \t \\boxed{</script>}"
)
LONG = "<b>" + "0123456789" * 10_000 + " the end \\boxed{7}"

Sample = tuple[str, str]  # response, finish


def write_folder(folder: Path, benches: dict[str, dict[str, tuple[str, str, list[Sample]]]], **entry: Any) -> Path:
    """An evaluation folder as `opd eval` leaves it: bench → problem id → (text, gold, samples)."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {
        "name": folder.name,
        "model": "student </title><b>@1f00",
        "engine": "replay",
        "benches": {},
    }
    for name, asked in benches.items():
        stem = name.replace(":", ".")
        generated = [
            {"problem": id, "sample": number, "response": text, "tokens": len(text) // 4, "finish": finish}
            for id, (_, _, samples) in asked.items()
            for number, (text, finish) in enumerate(samples)
        ]
        generated.sort(key=lambda row: (row["sample"], row["problem"]))  # samples of a problem lie apart
        verdicts = grade_many([(row["response"], asked[row["problem"]][1], name) for row in generated])
        graded = [
            {
                "problem": row["problem"],
                "sample": row["sample"],
                "correct": both.strict.correct,
                "answer": both.strict.extracted,
                "parsed": both.strict.parsed,
                "reason": both.strict.reason,
                "correct_paper": both.paper.correct,
                "answer_paper": both.paper.extracted,
                "reason_paper": both.paper.reason,
                "finish": row["finish"],
                "tokens": row["tokens"],
            }
            for row, both in zip(generated, verdicts, strict=True)
        ]
        problems = [
            {"problem": id, "text": text, "gold": gold, "family": id, "slice": None}
            for id, (text, gold, _) in asked.items()
        ]
        rows_of = {"problems": problems, "": [{"header": {}}, *generated], "graded": [{"header": {}}, *graded]}
        for kind, rows in rows_of.items():
            path = folder / ".".join(filter(None, (stem, kind, "jsonl")))
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        manifest["benches"][name] = {
            "label": f"The {name}",
            "n": len(asked),
            "k": max((len(samples) for _, _, samples in asked.values()), default=0),
            "style": "clean",
            "prompt_hash": "f570ef0055987979",
            "thinking": True,
            "sampling": {"max_tokens": 512, "temperature": 1.0, "top_p": 0.95},
            "checkers": {"strict": "strict-1", "paper": "paper-1"},
            **entry,
        }
    (folder / "evaluation.json").write_text(json.dumps(manifest))
    return folder


def said(answer: str, finish: str = "stop") -> Sample:
    return f"So the value is\n\\boxed{{{answer}}}", finish


FIRST = "hmmt25_nov"
BENCHES: dict[str, dict[str, tuple[str, str, list[Sample]]]] = {
    FIRST: {
        "one": ("What is 3 + 4?\nThink.", "7", [said("7"), said("8"), said("7"), said(r"7\%")]),
        "a/b <i>": (
            "Angles & <b>sides</b>",
            r"\frac{sqrt{7} + 1}{2}",
            [(HOSTILE, "stop"), ("", "stop"), said("1"), said("2")],
        ),
        "three": (
            "How many?",
            "216",
            [
                ("<think>Is it 5? \\boxed{5}\nNo.</think>It is \\boxed{216}", "stop"),
                ("I think of 216, hence \\boxed{21", "length"),
                (LONG, "stop"),
                said(r"\frac{432}{2}"),
            ],
        ),
        "four": ("All right", "12", [said("12")] * 4),
    },
    "lm-eval:other": {"one": ("Another one", "1", [said("1"), said("2")])},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("browse") / "evaluation", BENCHES)


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    return write_page(folder).path


def rows(folder: Path, bench: str, kind: str = "graded") -> list[dict[str, Any]]:
    lines = (folder / f"{bench.replace(':', '.')}.{kind}.jsonl").read_text("utf-8").split("\n")
    return [row for row in map(json.loads, filter(None, lines)) if "header" not in row]


def meta(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="meta">(.*?)</script>', page.read_text("utf-8"), re.S)
    assert found
    return json.loads(found[1])


def block(page: Path, bench: int, problem: int) -> dict[str, Any]:
    found = re.search(rf'id="block-{bench}-{problem}">([^<]*)<', page.read_text("utf-8"))
    assert found
    data = base64.b64decode(found[1], validate=True)
    assert data[4:8] == bytes(4)  # no time in the header
    return json.loads(gzip.decompress(data))


def text_of(parts: list[Any]) -> str:
    """The text that pieces draw; what was cut stands as so many NULs."""
    out = []
    for kind, value, *_ in parts:
        out.append(text_of(value) if kind == "think" else "\0" * value if kind == "cut" else value)
    return "".join(out)


# -- the file


def test_the_same_folder_gives_the_same_bytes(folder: Path, page: Path, tmp_path: Path) -> None:
    again = write_page(folder, out=tmp_path / "deep" / "page.html")
    assert again.path.read_bytes() == page.read_bytes()
    assert again.size == page.stat().st_size
    assert page == folder / "samples.html"
    assert not list(folder.glob(".*")), "no partial file is left"


def test_the_page_stands_alone_and_hostile_text_is_never_markup(page: Path) -> None:
    html = page.read_text("utf-8")
    outside = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S)
    assert not re.findall(r"\b(?:src|href|action)\s*=", outside)
    assert "@import" not in html
    assert "url(" not in html
    assert html.count("<script") == html.count("</script>") == 5 + 2  # a block a problem, the array, the program
    assert "default-src 'none'" in html
    data = "".join(re.findall(r'<script type="[^"]*" id="[^"]*">(.*?)</script>', html, re.S))
    assert data.isascii()
    assert not set("<>&") & set(data)
    assert "<b>@1f00" not in html
    assert "student &lt;/title&gt;&lt;b&gt;@1f00" in html


def test_every_text_comes_back_from_its_block(folder: Path, page: Path) -> None:
    found = meta(page)
    for number, bench in enumerate(found["benches"]):
        asked = BENCHES[bench["name"]]
        assert [problem["id"] for problem in bench["problems"]] == list(asked)
        for index, (text, gold, samples) in enumerate(asked.values()):
            data = block(page, number, index)
            assert text_of(data["text"]) == bench["problems"][index]["text"] == text
            assert bench["problems"][index]["gold"] == gold
            for place, (response, finish) in enumerate(samples):
                shown = data["samples"][place]
                assert (shown["n"], shown["finish"], shown["chars"]) == (place, finish, len(response))
                if len(response) <= LIMIT:
                    assert text_of(shown["parts"]) == response


def naive_bits(row: dict[str, Any]) -> dict[str, bool]:
    return {
        "all": True,
        "right": row["correct"],
        "wrong": not row["correct"],
        "checkers disagree": row["correct_paper"] is not None and row["correct"] != row["correct_paper"],
        "truncated": row["finish"] == "length",
        "no answer": row["answer"] is None,
    }


def test_the_array_holds_what_the_rows_say(folder: Path, page: Path) -> None:
    for bench in meta(page)["benches"]:
        by_key = {(row["problem"], row["sample"]): row for row in rows(folder, bench["name"])}
        for problem in bench["problems"]:
            for sample, bits in enumerate(problem["bits"]):
                row = by_key[problem["id"], sample]
                facts = naive_bits(row)
                assert bool(bits & 1) == facts["right"]
                assert bool(bits & 2) == row["correct_paper"]
                assert not bits & 4
                assert bool(bits & 8) == facts["truncated"]
                assert bool(bits & 16) == facts["no answer"]
                text, gold, samples = BENCHES[bench["name"]][problem["id"]]
                named = [name for i, name in enumerate(KINDS) if bits >> (5 + i) & 1]
                assert named == suspicions(row, samples[sample][0], gold, bench["name"], text)


def test_the_head_says_what_was_measured(page: Path) -> None:
    first, other = meta(page)["benches"]
    # right: 2 of 4 (7 twice; the strict checker takes no percentage), 0, 2 (216 and 432/2), 4 of 4: (0.5 + 0 + 0.5 + 1) / 4
    assert first["scores"][0][:2] == ["strict", "50.0 %"]
    assert re.fullmatch(r"\[\d+\.\d, \d+\.\d\]", first["scores"][0][2])
    assert first["size"] == "avg@4 · n = 4"
    assert other["scores"][0][1] == "50.0 %"
    facts = dict(first["facts"])
    assert [bench["judge"] for bench in (first, other)] == ["strict", "lm-eval"]
    assert facts["sampling"] == "max tokens 512, temperature 1.0, top p 0.95"
    assert facts["prompt"] == "clean f570ef0055987979"
    assert (facts["strict checker"], facts["paper checker"]) == ("strict-1", "paper-1")
    assert facts["model"] == "student </title><b>@1f00"
    assert first["remarks"] == []
    assert first["problems"][1]["note"] == "backslash lost"
    assert first["problems"][1]["accepted"] == [r"\frac{\sqrt{7} + 1}{2}"]
    assert "note" not in first["problems"][0]


def test_one_bench_can_be_chosen(folder: Path, tmp_path: Path) -> None:
    made = write_page(folder, ["lm-eval:other"], tmp_path / "one.html")
    assert [bench["name"] for bench in meta(made.path)["benches"]] == ["lm-eval:other"]
    assert list(made.benches) == ["lm-eval:other"]


def test_a_run_s_last_evaluation_is_shown(tmp_path: Path) -> None:
    for step in ("step-00010", "step-00002"):
        write_folder(tmp_path / "run" / "eval" / step, {"b": {"p": ("?", "1", [said("1")])}})
    assert write_page(tmp_path / "run").path == tmp_path / "run" / "eval" / "step-00010" / "samples.html"


def test_samples_without_text_or_verdict_are_told(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"b": {"p": ("?", "1", [said("1")] * 3), "q": ("?", "2", [said("2")] * 3)}})
    graded, generated = folder / "b.graded.jsonl", folder / "b.jsonl"
    kept = [line for line in graded.read_text().splitlines() if '"q", "sample": 2' not in line]
    graded.write_text("\n".join(kept) + "\n")
    lines = [line for line in generated.read_text().splitlines() if '"p", "sample": 1' not in line]
    generated.write_text("\n".join(lines) + '\n{"problem": "p", "sam')  # a killed process
    made = write_page(folder)
    assert made.benches["b"].remarks == [
        "5 of 6 samples are graded: there is no interval for a part of them.",
        "The text of 1 of 5 samples is not in b.jsonl.",
        "1 answers in b.jsonl are not graded and not shown.",
    ]
    assert meta(made.path)["benches"][0]["scores"] == [["strict", "—", ""], ["paper", "—", ""]]
    shown = block(made.path, 0, 0)["samples"]
    assert [sample["parts"] is None for sample in shown] == [False, True, False]


def without_paper(folder: Path, bench: str) -> None:
    bare = [row | {f"{name}_paper": None for name in ("correct", "answer", "reason")} for row in rows(folder, bench)]
    text = "".join(json.dumps(row) + "\n" for row in bare)
    (folder / f"{bench.replace(':', '.')}.graded.jsonl").write_text(text)


def test_rows_without_a_paper_verdict(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"b": {"p": ("?", "1", [said("1"), said("2")])}})
    without_paper(folder, "b")
    made = write_page(folder)
    bench = meta(made.path)["benches"][0]
    assert [bits & 7 for bits in bench["problems"][0]["bits"]] == [1 + 4, 4]
    assert [score[1] for score in bench["scores"]] == ["50.0 %", "—"]
    assert made.benches["b"].kinds["disagree"] == 0
    assert block(made.path, 0, 0)["samples"][0]["paper"] is None


@pytest.mark.parametrize(
    ("kind", "expected"), [("generate_until", {"gold-in-text": 1, "loop": 1}), ("multiple_choice", {})]
)
def test_lm_eval_s_scored_options_are_no_answer(tmp_path: Path, kind: str, expected: dict[str, int]) -> None:
    text = "-1.0\tan apple a day\n-2.0\ta pear a day\n" + "-3.0\tno\n" * 30
    asked = {"lm-eval:choice": {"p": ("?", "a pear a day", [(text, "stop")])}}
    folder = write_folder(tmp_path, asked, answer_type=kind)
    without_paper(folder, "lm-eval:choice")
    made = write_page(folder)
    assert made.benches["lm-eval:choice"].kinds == expected
    bench = meta(made.path)["benches"][0]
    assert (bench["judge"], [score[0] for score in bench["scores"]]) == ("lm-eval", ["lm-eval"])
    assert text_of(block(made.path, 0, 0)["samples"][0]["parts"]) == text


def test_texts_never_lie_in_memory_together(tmp_path: Path) -> None:
    text = "".join(chr(33 + (i * i) % 90) for i in range(200_000))
    folder = write_folder(tmp_path, {"b": {f"p{i}": ("?", "1", [(text, "stop")] * 2) for i in range(60)}})
    tracemalloc.start()
    try:
        write_page(folder, limit=200_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (folder / "b.jsonl").stat().st_size > 24_000_000
    assert peak < 8_000_000


def broken(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (lambda f: (f / "evaluation.json").unlink(), {}, "no evaluation in '.*': name a folder that `opd eval` wrote"),
        (lambda f: None, {"names": ["a"]}, "has no benchmark 'a': it has b"),
        (lambda f: None, {"limit": 99}, "'limit-chars' must be at least 100, got 99"),
        (lambda f: None, {"out": Path("/")}, "/ is a folder: name the file"),
        (lambda f: (f / "b.graded.jsonl").unlink(), {}, r"b\.graded\.jsonl is missing or empty: grade with `opd grade"),
        (lambda f: (f / "b.problems.jsonl").unlink(), {}, r"b\.problems\.jsonl is missing or empty"),
        (lambda f: broken(f, "b.jsonl", '{"header": {}}\n{"problem": 3}\n'), {}, r"b\.jsonl, line 2: not an answer"),
        (lambda f: broken(f, "b.jsonl", "[]\n"), {}, r"b\.jsonl, line 1: not an answer"),
        (
            lambda f: broken(f, "b.problems.jsonl", '{"problem": "q", "text": "", "gold": "1"}\n'),
            {},
            "has problem 'p', which is not in",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, spoil: Callable[[Path], None], options: dict[str, Any], words: str
) -> None:
    folder = write_folder(tmp_path, {"b": {"p": ("?", "1", [said("1")])}})
    spoil(folder)
    with pytest.raises(UserError, match=words):
        write_page(folder, **options)
    assert not (folder / "samples.html").exists()
    assert not list(folder.glob(".*"))


# -- the command


def ask(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return command.run(parser.parse_args(words))


def test_the_command_writes_the_page_and_says_where(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert ask(str(folder), "--bench", FIRST, "--out", str(out), "--limit-chars", "500") == 0
    printed = capsys.readouterr().out
    last = printed.strip().split("\n")[-1]
    assert re.fullmatch(rf"page: {re.escape(str(out))} \(\d\.\d MB\)", last)
    assert re.search(r"samples\W+16\b", printed)
    assert re.search(r"hit the token limit\W+1\b", printed)
    assert len(meta(out)["benches"]) == 1


def test_pages_are_written_without_torch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import argparse, sys\nfrom harness.commands import browse\n"
        f"p = argparse.ArgumentParser(); browse.arguments(p)\nbrowse.run(p.parse_args([{str(folder)!r}, '--out', {str(tmp_path / 'x.html')!r}]))\n"
        "print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("[]")


# -- long texts


def kept_and_cut(parts: list[Any]) -> tuple[int, int]:
    text = text_of(parts)
    return len(text) - text.count("\0"), text.count("\0")


def test_a_long_answer_keeps_head_and_tail() -> None:
    text = "a" * 500 + "b" * 500
    assert parts_of(text, 100) == [["", "a" * 50], ["cut", 900], ["", "b" * 50]]
    assert parts_of(text, 1000) == [["", text]]
    assert parts_of("", 100) == []


def test_a_box_in_the_middle_of_a_long_answer_stays() -> None:
    # a third each: 0 … 100, around the box, 900 … 1000; the box at 500 … 512: window from 500 - 50
    box = "\\boxed{1234}"
    text = "a" * 500 + box + "b" * 488
    found = parts_of(text, 300, read(row(), text, "9"))
    assert found == [
        ["", "a" * 100],
        ["cut", 350],
        ["", "a" * 50],
        ["answer", box],
        ["", "b" * 38],
        ["cut", 350],
        ["", "b" * 100],
    ]


FRAGMENTS = [
    "\\boxed{",
    "\\boxed {",
    "\\fbox{",
    "\\boxed 7",
    "{",
    "}",
    "}",
    "\\}",
    "\\{",
    "5",
    "x y",
    " ",
    "<think>",
    "</think>",
    "\\boxedx",
    "$",
    "ab " * 40,
]
pieces_of_text = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)


@given(pieces_of_text, st.integers(3, 60).map(lambda n: n * 10))
@settings(max_examples=400, deadline=None)
def test_pieces_lose_nothing_but_what_they_say(text: str, limit: int) -> None:
    reading = read(row(), text, "5")
    drawn = text_of(parts_of(text, limit, reading, None))
    assert len(drawn) == len(text)
    assert all(a in (b, "\0") for a, b in zip(drawn, text, strict=True))
    assert len(drawn) - drawn.count("\0") <= limit
    if len(text) <= limit:
        assert drawn == text
    elif reading.answer and reading.answer.end - reading.answer.start <= limit // 3:
        start, end = reading.answer
        assert drawn[start:end] == text[start:end]


@given(pieces_of_text)
@settings(max_examples=600, deadline=None)
@example("\\boxed{\\boxed{5}}")
@example("\\boxed{ 5 \\boxed{6}")
@example("\\boxed{5} {{{ \\fbox{")
@example("\\boxed{}")
def test_the_marked_box_is_the_one_the_checker_reads(text: str) -> None:
    answer = read(row(), text, "5").answer
    found = last_box(text)
    assert (answer is None) == (found.text is None)
    if answer is not None:
        assert last_box(text[answer.start : answer.end]).text == found.text
        assert text[answer.start] == "\\"


def test_an_answer_read_without_a_box_is_marked_where_it_last_stands() -> None:
    text = "42 is wrong. The answer is 43, yes 43."
    found = parts_of(text, 1000, read(row(correct=True, answer="43"), text, "43"), "43")
    assert found == [["", "42 is wrong. The answer is 43, yes "], ["answer", "43"], ["", "."]]


def test_thinking_is_a_piece_of_its_own() -> None:
    text = "<think>a \\boxed{1}</think>b \\boxed{2}"
    assert parts_of(text, 1000, read(row(), text, "2")) == [
        ["think", [["", "<think>a "], ["box", "\\boxed{1}"], ["", "</think>"]], 26, True],
        ["", "b "],
        ["answer", "\\boxed{2}"],
    ]
    # the template may have put the opening tag into the prompt
    assert parts_of("a</think>b", 1000, read(row(), "a</think>b", "2"))[0] == ["think", [["", "a</think>"]], 9, True]
    assert parts_of("a<think>b", 1000, read(row(), "a<think>b", "2")) == [
        ["", "a"],
        ["think", [["", "<think>b"]], 8, False],
    ]


# -- suspicions


def row(
    correct: bool = False, paper: bool | None = False, answer: str | None = None, finish: str = "stop"
) -> dict[str, Any]:
    return {"correct": correct, "correct_paper": paper, "answer": answer, "finish": finish}


FAR = "and so on, we go on with other things for a while " * 20  # 1,000 characters without a digit

GOLD_IN_TEXT = [
    # (gold, response, expected)
    ("204", r"The answer is 204. \boxed{205}", True),
    ("204", r"Hence $m+n=204$, thus \boxed{5}", True),
    ("204", rf"First 204. {FAR} \boxed{{205}}", False),  # a short gold far from the end is chance
    ("204", r"It is 2041. \boxed{5}", False),
    ("204", r"It is 1204. \boxed{5}", False),
    ("204", r"It is 2.204. \boxed{5}", False),
    ("204", r"It is 204.5. \boxed{5}", False),
    ("204", r"It is -204. \boxed{5}", False),
    ("204", r"It is 204/5. \boxed{5}", False),
    ("204", r"It is $\frac{204}{5}$. \boxed{5}", False),
    ("204", r"It is $2^{204}$. \boxed{5}", False),
    ("204", r"It is 204^2. \boxed{5}", False),
    ("204", r"It is 204,000. \boxed{5}", False),
    ("204", r"\boxed{204 or so}", False),  # in the extracted box: another kind
    ("204", r"\boxed{204} and \boxed{5}", True),
    ("73", r"It is 073. \boxed{5}", True),
    ("3159", rf"We get 3159. {FAR} \boxed{{5}}", True),  # long enough to be no chance
    ("3159", rf"We get 3,159. {FAR} \boxed{{5}}", True),
    ("58,500", r"We get 58500. \boxed{5}", True),
    ("58,500", r"We get $58{,}500$. \boxed{5}", True),
    ("1625", rf"<think>We get 1625. {FAR}</think>It is \boxed{{5}}", False),  # a number tried in a trace is no answer
    ("1625", rf"<think>We get 1625. {FAR} \boxed{{5}}", True),  # without an answer behind it, the trace is all there is
    (r"\frac{13}{4}", rf"It is $\dfrac {{13}}{{4}}$. {FAR}", True),  # four characters in print
    (r"\frac{13}{4}", rf"It is $\frac{{13}}{{40}}$. {FAR}", False),
    (r"\frac{3}{4}", rf"It is $\frac{{3}}{{4}}$. {FAR}", False),  # three
    (r"\left( 3, \frac{\pi}{2} \right)", rf"So $(3,\frac\pi 2)$ or $(3, \frac{{\pi}}{{2}})$. {FAR}", True),
    ("-1", r"The result is −1. \boxed{1}", True),
    ("8.5", r"We have 8.5 \boxed{8}", True),
    (".0000672", rf"We have 0.0000672. {FAR} \boxed{{8}}", True),
    ("3", r"The answer is **3**. \boxed{4}", True),
    ("3", r"Answer: $3$ \boxed{4}", True),
    ("3", r"There are 3 cases, and 3 more. \boxed{4}", False),  # one digit: chance
    ("3", r"The answer is 30. \boxed{4}", False),
    ("even", rf"The function is even. {FAR}", False),  # a plain word: chance
    ("even", r"The answer is even. \boxed{odd}", True),
    (r"\text{east}", r"The answer is east. \boxed{west}", True),
    (r"864 \mbox{ inches}^2", r"It is 864 square inches.", True),
    ("$221,$8$", r"These are 221, 8 \boxed{8}", True),  # dollars do not show
    ("$221,$8$", r"These are 221 and 8 \boxed{8}", False),
]


@pytest.mark.parametrize(("gold", "response", "expected"), GOLD_IN_TEXT)
def test_gold_in_the_text(gold: str, response: str, expected: bool) -> None:
    assert ("gold-in-text" in suspicions(row(), response, gold)) == expected
    assert "gold-in-text" not in suspicions(row(correct=True), response, gold)


def test_a_gold_that_the_problem_mentions_is_no_surprise() -> None:
    far = f"In 2025 there were none. {FAR} \\boxed{{5}}"
    assert "gold-in-text" in suspicions(row(), far, "2025")
    assert "gold-in-text" not in suspicions(row(), far, "2025", problem="How many before 2025?")
    near = "So the answer is 2025. \\boxed{5}"
    assert "gold-in-text" in suspicions(row(), near, "2025", problem="How many before 2025?")


def test_repaired_golds_are_looked_for_as_they_are_read() -> None:
    response = rf"We find $\frac{{\sqrt{{7}} + 1}}{{2}}$. {FAR}"
    assert "gold-in-text" in suspicions(row(), response, r"\frac{sqrt{7} + 1}{2}", "hmmt25_nov")
    assert "gold-in-text" not in suspicions(row(), response, r"\frac{sqrt{7} + 1}{2}", "other")
    assert "gold-in-text" in suspicions(row(), "it is 221, 8 then", "$221,$8$", "olympiadbench")


def test_where_the_gold_stands() -> None:
    text = "It is 204 or 204. \\boxed{205}"
    assert read(row(), text, "204").gold == (Span(6, 9), Span(13, 16))


@pytest.mark.parametrize(
    ("gold", "response", "expected"),
    [
        ("45", r"\boxed{45\%}", True),
        ("204", r"\boxed{204 \text{ or } 205}", True),
        ("204", r"\boxed{2040}", False),
        ("204", r"204 \boxed{205}", False),
        ("5", r"\boxed{x = 5\text{ cm}}", True),
        ("5", r"\boxed{5^\circ}", True),
        ("5", r"\boxed{x + 5}", False),  # one character within more
        ("5", r"\boxed{4, 5}", False),
        ("5", r"\boxed{5, 4}", False),
        ("even", r"\boxed{\text{even}}", True),
        ("even", r"\boxed{\text{not even}}", False),
        ("even", r"\boxed{evenly}", False),
        ("5", r"\boxed{50}", False),
        ("5", r"\boxed{5^2}", False),
        ("12", "12", False),  # no box, and nothing was extracted
    ],
)
def test_gold_in_the_box(gold: str, response: str, expected: bool) -> None:
    assert ("gold-in-box" in suspicions(row(), response, gold)) == expected
    assert "gold-in-box" not in suspicions(row(correct=True), response, gold)


OTHER_KINDS = [
    ("boxes", r"\boxed{1} or \boxed{2}", True),
    ("boxes", r"\boxed{\frac12} is \boxed{ \dfrac 12 }", False),
    ("boxes", r"\boxed{1}", False),
    ("boxes", r"\boxed{\boxed{1}}", False),
    ("boxes", r"<think>\boxed{1}</think> \boxed{2}", False),
    ("boxes", r"<think>\boxed{1}</think> \boxed{2} or \boxed{3}", True),
    ("boxes", r"<think>\boxed{1} or \boxed{2}</think> ", True),  # nothing behind the trace: it is all there is
    ("open-box", r"\boxed{1", True),
    ("open-box", r"\boxed{1 \boxed{2}", True),
    ("open-box", r"\boxed{\frac{1}{2}", True),
    ("open-box", r"\boxed{\frac{1}{2}}", False),
    ("open-box", r"\boxed{1\}}", False),
    ("open-box", r"{ \boxed 1", False),
    ("thinking", r"<think>so \boxed{1}", True),
    ("thinking", r"<think>so \boxed{1}</think> that is it", True),
    ("thinking", r"so \boxed{1}</think> that is it", True),
    ("thinking", r"<think>so \boxed{1}</think> \boxed{1}", False),
    ("thinking", r"so \boxed{1}", False),
    ("thinking", r"\boxed{1} <think>", False),
    ("loop", "No. " + "Wait, let me check. " * 10, True),  # ten times 20 characters
    ("loop", "No. " + "Wait, let me check. " * 9 + "W", False),  # 181 characters
    ("loop", "No. " + "Wait, let me check. " * 20 + "Wait, le", True),  # cut within the block
    ("loop", "x" * 150 + "\n" * 250, True),
    ("loop", "Wait, let me check. " * 11 + "\n\n", True),
    ("loop", "x" * 199, False),
    ("loop", "x" * 200, True),
    ("loop", ("abcdefghij" * 20 + "!") * 3, False),  # a block of 201 characters, three times over
    ("loop", ("abcdefghij" * 20 + "!") * 4, True),
    ("loop", "Wait, let me check. " * 30 + "So the answer is \\boxed{5}.", False),  # it got out of it
    ("empty", "", True),
    ("empty", " \n\u200b\x00", True),
    ("empty", "<think>hm</think>\n", True),
    ("empty", "<think>hm", False),
    ("empty", "0", False),
]


@pytest.mark.parametrize(("kind", "response", "expected"), OTHER_KINDS)
def test_kinds_that_the_text_tells(kind: str, response: str, expected: bool) -> None:
    assert (kind in suspicions(row(correct=True, paper=True), response, "77")) == expected


@pytest.mark.parametrize(
    ("given_row", "kinds"),
    [
        (row(correct=True, paper=True), []),
        (row(correct=True, paper=False), ["disagree"]),
        (row(correct=False, paper=True, answer="5"), ["disagree"]),
        (row(correct=True, paper=None), []),
        (row(correct=False, paper=None, finish="length"), ["limit"]),
    ],
)
def test_kinds_that_the_row_tells(given_row: dict[str, Any], kinds: list[str]) -> None:
    assert suspicions(given_row, r"\boxed{5}", "77") == kinds
    assert suspicions(given_row, None, "77") == kinds  # the text was not kept


@given(
    st.text("abc .\n", max_size=300),
    st.text("abcde \n0", min_size=1, max_size=300),
    st.integers(0, 299),
)
@settings(max_examples=200, deadline=None)
def test_whatever_ends_in_equal_blocks_is_a_loop(before: str, unit: str, extra: int) -> None:
    text = before + unit * max(5, -(-400 // len(unit))) + unit[: extra % len(unit)]
    assert "loop" in suspicions(row(correct=True, paper=True), text, "77")


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_ordinary_endings_are_no_loop(text: str) -> None:
    """Numbers that count up: no block comes again."""
    text += " ".join(f"step {i}," for i in range(100, 140))
    assert "loop" not in suspicions(row(correct=True, paper=True), text, "77")


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 15_000,
        "\\boxed{}" * 12_000,
        "<think></think>" * 7_000,
        "5 " * 50_000 + "\\boxed{6}",
        "\\boxed{5" + "a" * 100_000 + "}",
        "\\boxed{" + "=" * 100_000 + "}",
        "answer" * 16_000,
        "answer is " + " " * 100_000,
        HOSTILE * 400,
        "ab" * 50_000 + "c",
    ],
)
def test_hostile_texts_are_read_in_no_time(text: str) -> None:
    for gold in ("5", "204", "5 5 5 5", r"\frac{5}{6}", "\x00\ud800", "", "{" * 5_000, "a" * 9_000):
        reading: Reading = read(row(answer="5"), text, gold)
        assert text_of(parts_of(text, 1_000, reading, "5")).count("\0") >= len(text) - 1_000


def test_every_kind_is_explained() -> None:
    assert list(KINDS) == [
        "gold-in-text",
        "gold-in-box",
        "disagree",
        "limit",
        "boxes",
        "open-box",
        "thinking",
        "loop",
        "empty",
    ]
    assert all(kind.label and kind.rule.endswith(".") for kind in KINDS.values())


# -- colours


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(scheme: str) -> None:
    style = str(style_of_page())
    colours: dict[str, str] = {}
    for part in re.findall(r"(?:^|\n)(?::root|\.browse) \{(.*?)\}", style, re.S):
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
    if scheme == "dark":
        for part in re.findall(r"dark\) \{\s*(?::root|\.browse) \{(.*?)\}", style, re.S):
            colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
    pairs = "text/page text/raised muted/page muted/raised good/page good/good-page bad/page bad/bad-page loud/loud-page loud/page text/mark text/gold text/other loud/gold"
    for pair in pairs.split():
        first, second = sorted((luminance(colours[name]) for name in pair.split("/")), reverse=True)
        assert (first + 0.05) / (second + 0.05) >= 4.5, f"{pair} in the {scheme} scheme"  # WCAG 2, level AA


# -- in the browser

Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:  # noqa: F811
    """Opens a page; when the test is over, checks that it raised no error and asked the network for nothing."""
    opened: list[str] = []

    def open_(path: Path, fragment: str = "") -> Any:
        browser.get("about:blank")
        browser.get_log("performance")
        browser.get_log("browser")
        browser.set_window_size(1300, 900)
        opened.append(path.as_uri())
        browser.get(path.as_uri() + fragment)
        ready(browser)
        return browser

    yield open_
    asked = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        own = not message["params"].get("documentURL", "").startswith("chrome://")
        if message["method"] == "Network.requestWillBeSent" and own:
            asked.append(message["params"]["request"]["url"].partition("#")[0])
    assert opened[0] in asked  # the log does see requests
    assert [url for url in asked if url not in opened] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.execute_script("return window.pwned") is None


def ready(chrome: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    script = "return document.querySelector('.response').dataset.ready || document.querySelector('.problem').hidden"
    WebDriverWait(chrome, 60).until(lambda b: b.execute_script(script))


def one(chrome: Any, selector: str) -> Any:
    return chrome.find_element("css selector", selector)


def texts(chrome: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    return chrome.execute_script(script, selector)


def press(chrome: Any, keys: str) -> None:
    one(chrome, "body").send_keys(keys)
    ready(chrome)


def place(chrome: Any) -> tuple[str, str]:
    """Problem and sample that are shown."""
    return texts(chrome, "#asked")[0], texts(chrome, "#which")[0].split()[1]


def drawn(text: str) -> str:
    """How a text is written on the page."""

    def glyph(run: re.Match[str]) -> str:
        times = f" ×{len(run[0])}" if len(run[0]) > 1 else ""
        return f"⟨U+{ord(run[1]):04X}{times}⟩"

    return re.sub("([\x00-\x08\x0b-\x1f\u2028\u202e\u202c\ufeff\ud800])\\1*", glyph, text)


def test_hostile_text_is_shown_as_text(page: Path, open_page: Open) -> None:
    chrome = open_page(page, "#hmmt25_nov/a%2Fb%20%3Ci%3E/0")
    assert place(chrome) == ("a/b <i>", "0")
    assert texts(chrome, ".response") == [drawn(HOSTILE)]
    assert "⟨U+0000 ×3⟩" in drawn(HOSTILE)
    assert texts(chrome, ".question .text") == ["Angles & <b>sides</b>"]
    assert texts(chrome, "mark.answer") == ["\\boxed{</script>}"]
    assert texts(chrome, "h1") == ["Samples of student </title><b>@1f00"]
    assert chrome.execute_script("return document.images.length") == 0
    assert chrome.execute_script("return document.scripts.length") == 7
    note = texts(chrome, ".truth .note")[0]
    assert note == r"gold read as \frac{\sqrt{7} + 1}{2}: backslash lost"


def test_filters_count_and_choose(folder: Path, page: Path, open_page: Open) -> None:
    chrome = open_page(page)
    graded = {(row["problem"], row["sample"]): row for row in rows(folder, FIRST)}
    for state in ("all", "right", "wrong", "checkers disagree", "truncated", "no answer", "suspicious"):

        def fits(key: tuple[str, int], state: str = state) -> bool:
            problem, sample = key
            text, gold, samples = BENCHES[FIRST][problem]
            if state == "suspicious":
                return bool(suspicions(graded[key], samples[sample][0], gold, FIRST, text))
            return naive_bits(graded[key])[state]

        expected = {key for key in graded if fits(key)}
        assert expected, state
        button = one(chrome, f"[data-state='{state}']")
        assert button.text == f"{state} {len(expected)}"
        button.click()
        ready(chrome)
        assert button.get_attribute("aria-pressed") == "true"
        with_such = [problem for problem in BENCHES[FIRST] if any(p == problem for p, _ in expected)]
        assert texts(chrome, ".entry .name") == with_such
        problem, sample = place(chrome)
        assert (problem, int(sample)) in expected  # what is shown fits the filter
        off = [e.get_attribute("aria-label").split(":")[0] for e in chrome.find_elements("css selector", ".chip.off")]
        assert off == [f"sample {s}" for s in range(4) if (problem, s) not in expected]
    assert one(chrome, ".reason").is_displayed()


def test_suspicions_can_be_told_apart(page: Path, open_page: Open) -> None:
    chrome = open_page(page)
    one(chrome, "[data-state='suspicious']").click()
    options = texts(chrome, ".kind option")
    assert options[0].startswith("of any reason (")
    counts = [int(re.findall(r"\((\d+)\)$", option)[0]) for option in options]
    assert dict(zip(KINDS, counts[1:], strict=True)) == {name: 0 for name in KINDS} | dict(
        write_page(page.parent, out=page).benches[FIRST].kinds
    )
    one(chrome, ".kind option:nth-child(10)").click()  # the ninth kind
    ready(chrome)
    assert texts(chrome, ".entry .name") == ["a/b <i>"]
    assert place(chrome) == ("a/b <i>", "1")
    assert texts(chrome, ".why li") == ["⚑ empty response"]
    assert texts(chrome, ".response") == ["The response is empty."]


def test_the_keyboard_goes_through_samples_and_problems(page: Path, open_page: Open) -> None:
    chrome = open_page(page)
    assert place(chrome) == ("one", "0")
    press(chrome, "j")
    press(chrome, "\ue014")  # right arrow
    assert place(chrome) == ("one", "2")
    press(chrome, "k")
    press(chrome, "\ue012")  # left arrow
    assert place(chrome) == ("one", "0")
    press(chrome, "k")  # nothing before the first
    assert place(chrome) == ("one", "0")
    press(chrome, "n")
    assert place(chrome) == ("a/b <i>", "0")
    press(chrome, "k")  # back over the edge: the last sample of the problem before
    assert place(chrome) == ("one", "3")
    press(chrome, "p")
    assert place(chrome) == ("one", "3")
    one(chrome, "[data-state='wrong']").click()
    one(chrome, ".entry").click()
    ready(chrome)
    seen = []
    for _ in range(4):
        seen.append(place(chrome))
        press(chrome, "j")
    # the wrong ones alone, over the edge to the next problem
    assert seen == [("one", "1"), ("one", "3"), ("a/b <i>", "0"), ("a/b <i>", "1")]
    press(chrome, "/")
    assert chrome.execute_script("return document.activeElement.className") == "query"
    chrome.switch_to.active_element.send_keys("jn")  # typed, not obeyed
    assert place(chrome) == ("a/b <i>", "2")
    assert texts(chrome, ".found") == ["0 of 4 problems"]


def test_an_address_names_a_sample(page: Path, open_page: Open) -> None:
    chrome = open_page(page, "#lm-eval%3Aother/one/1")
    assert place(chrome) == ("one", "1")
    assert texts(chrome, ".benches [aria-pressed=true]") == ["The lm-eval:other"]
    assert texts(chrome, ".chip[aria-current]") == ["✗1"]
    chrome.execute_script("location.hash = '#hmmt25_nov/three/3'")
    chrome.execute_async_script("setTimeout(arguments[0], 200)")
    ready(chrome)
    assert place(chrome) == ("three", "3")
    assert texts(chrome, ".entry[aria-current] .name") == ["three"]
    press(chrome, "p")
    assert chrome.execute_script("return location.hash") == "#hmmt25_nov/a%2Fb%20%3Ci%3E/0"
    open_page(page, "#no/such%thing")
    assert place(chrome) == ("one", "0")


def test_benches_are_switched(page: Path, open_page: Open) -> None:
    chrome = open_page(page)
    assert len(texts(chrome, ".entry")) == 4
    one(chrome, ".benches button:nth-child(2)").click()
    ready(chrome)
    assert texts(chrome, ".entry .preview") == ["Another one"]
    assert one(chrome, "[data-state='all'] b").text == "2"
    assert "avg@2 · n = 1" in one(chrome, ".score").text


def test_problems_are_searched_and_sorted(page: Path, open_page: Open) -> None:
    chrome = open_page(page)
    box = one(chrome, ".query")
    for words, found in (
        ("THINK", ["one"]),
        ("<b> angles", ["a/b <i>"]),
        ("216", ["three"]),
        ("zebra", []),
        ("", None),
    ):
        box.clear()
        box.send_keys(words + " ")
        assert texts(chrome, ".entry .name") == (list(BENCHES[FIRST]) if found is None else found)
    # rates 2/4, 0/4, 2/4, 4/4: hardest first with equals as in the file
    one(chrome, ".order option:nth-child(2)").click()
    assert texts(chrome, ".entry .name") == ["a/b <i>", "one", "three", "four"]
    assert texts(chrome, ".entry .rate") == ["0 of 4", "2 of 4", "2 of 4", "4 of 4"]
    one(chrome, ".order option:nth-child(4)").click()  # most divided
    assert texts(chrome, ".entry .name") == ["one", "three", "a/b <i>", "four"]


def test_thinking_is_folded_until_asked(page: Path, open_page: Open) -> None:
    chrome = open_page(page, "#hmmt25_nov/three/0")
    fold = one(chrome, ".response details")
    assert fold.get_attribute("open") is None
    assert texts(chrome, ".response summary") == ["thinking, 37 characters"]
    assert not one(chrome, ".trace").is_displayed()
    assert one(chrome, "mark.answer").is_displayed()
    press(chrome, "t")
    assert one(chrome, ".trace").is_displayed()
    press(chrome, "j")
    press(chrome, "k")
    assert one(chrome, ".trace").is_displayed()  # remembered


def test_a_hundred_thousand_characters(page: Path, open_page: Open) -> None:
    chrome = open_page(page, "#hmmt25_nov/three/2")
    left_out = len(LONG) - LIMIT
    assert texts(chrome, ".cut") == [f"… {left_out:,} characters left out …"]
    text = texts(chrome, ".response")[0]
    assert text.startswith("<b>0123")
    assert text.endswith("the end \\boxed{7}")
    assert f"{len(LONG):,} characters" in one(chrome, "#which").text
    press(chrome, "a")
    answer = one(chrome, "mark.answer")
    visible = "const r = arguments[0].getBoundingClientRect(); return r.top > 0 && r.bottom < innerHeight"
    assert chrome.execute_script(visible, answer)


def test_both_verdicts_are_shown(folder: Path, page: Path, open_page: Open) -> None:
    chrome = open_page(page, "#hmmt25_nov/three/1")
    row = next(r for r in rows(folder, FIRST) if (r["problem"], r["sample"]) == ("three", 1))
    cells = texts(chrome, ".verdicts tbody th, .verdicts tbody td")
    assert cells == [
        "strict",
        "✗ wrong",
        "none",
        "—",
        row["reason"],
        "paper",
        "✗ wrong",
        "none",
        "—",
        row["reason_paper"],
    ]
    assert texts(chrome, ".why li") == [f"⚑ {KINDS[kind].label}" for kind in ("gold-in-text", "limit", "open-box")]
    assert texts(chrome, "mark.gold") == ["216"]
    assert "cut at the token limit" in one(chrome, "#which").text


def test_everything_to_press_has_a_name(page: Path, open_page: Open) -> None:
    chrome = open_page(page)
    for element in chrome.find_elements("css selector", "button, select, input, summary, section, nav, [tabindex='0']"):
        if element.is_displayed():
            assert element.accessible_name, element.get_attribute("outerHTML")[:200]
    reached = "return [...document.querySelectorAll('.entry, .chip')].filter(e => e.tabIndex === 0).length"
    assert chrome.execute_script(reached) == 2  # one entry, one chip: arrow keys do the rest
    chrome.execute_script("document.querySelector('.entry').focus()")
    chrome.switch_to.active_element.send_keys("\ue015")  # down arrow
    ready(chrome)
    assert chrome.execute_script("return document.activeElement.querySelector('.name').textContent") == "a/b <i>"


def test_a_narrow_window_scrolls_down_only(page: Path, open_page: Open) -> None:
    chrome = open_page(page, "#hmmt25_nov/three/2")
    chrome.set_window_size(500, 800)
    assert chrome.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert one(chrome, ".response").is_displayed()


def test_a_damaged_block_is_told(folder: Path, tmp_path: Path, open_page: Open) -> None:
    path = tmp_path / "page.html"
    html = write_page(folder).path.read_text("utf-8")
    path.write_text(re.sub(r'(id="block-0-1">)[^<]*', r"\1AAAA", html), "utf-8")
    chrome = open_page(path)
    chrome.find_elements("css selector", ".entry")[1].click()
    ready(chrome)
    assert "cannot be unpacked" in one(chrome, ".wait").text
    press(chrome, "p")
    assert place(chrome) == ("one", "0")


def test_the_policy_stops_what_the_escaping_would_miss(page: Path, browser: Any) -> None:  # noqa: F811
    browser.get(page.as_uri())
    ready(browser)
    inject = "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:x\" onerror=\"window.pwned=1\">')"
    browser.execute_script(inject)
    blocked = "const done = arguments[0]; setTimeout(() => done(window.pwned === undefined), 500)"
    assert browser.execute_async_script(blocked)
    browser.get_log("browser")
