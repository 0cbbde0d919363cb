from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.toy import FLAWED_TEACHER, STUDENTS, TEACHERS
from harness.toy.flawed import FLAWED, flawed, in_slice
from harness.toy.tasks import (
    CONNECTIVES,
    DOMAINS,
    IN_DISTRIBUTION,
    OUT_OF_DISTRIBUTION,
    SPLITS,
    Problem,
    generate,
    is_correct,
)

MODELS = {path.name: path for path in (*STUDENTS.values(), *TEACHERS.values(), FLAWED_TEACHER)}
PINNED_MATH = Problem(
    id="math-be311706bd04",
    domain="math",
    prompt="Compute 6+2*8*4-7",
    answer="9",
    trace="then 6+2=8, so 8*8=4, so 4*4=6, now 6-7=9. \\boxed{9}",
    difficulty=4,
)
PINNED_CODE = Problem(
    id="code-7bf442653560",
    domain="code",
    prompt="Run a=6 b=5 a-=b b+=a a+=b b*=9 b+=a a-=b print a",
    answer="6",
    trace="then a-=b (1,5), next b+=a (1,6), now a+=b (7,6), next b*=9 (7,4), then b+=a (7,1), now a-=b (6,1). \\boxed{6}",
    difficulty=6,
)
CONNECTIVE = f"(?:{'|'.join(CONNECTIVES)})"


def run_math(prompt: str) -> tuple[list[str], int]:
    """The steps and the result of a math prompt, by Python's own arithmetic on each left-to-right prefix."""
    tokens = re.findall(r"\d|[+*-]", prompt.removeprefix("Compute "))
    value, steps = int(tokens[0]), []
    for operator, operand in zip(tokens[1::2], tokens[2::2], strict=True):
        before, value = value, eval(f"({value} {operator} {operand}) % 10")
        steps.append(f"{before}{operator}{operand}={value}")
    return steps, value


def run_code(prompt: str) -> tuple[list[str], int]:
    """The steps and the printed digit of a code prompt, by running it as Python; reduced mod 10 only when shown."""
    words = prompt.removeprefix("Run ").split(" ")
    names: dict[str, int] = {}
    steps = []
    for statement in words[:-2]:
        exec(statement, {}, names)
        if not re.fullmatch(r"[ab]=\d", statement):
            steps.append(f"{statement} ({names['a'] % 10},{names['b'] % 10})")
    assert words[-2] == "print"
    return steps, names[words[-1]] % 10


RUN = {"math": run_math, "code": run_code}


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("difficulty", [(1, 1), IN_DISTRIBUTION, OUT_OF_DISTRIBUTION])
def test_traces_agree_with_an_independent_execution(domain: str, difficulty: tuple[int, int]) -> None:
    problems = generate(domain, "train", 150 if difficulty == (1, 1) else 500, difficulty, distinct=False)
    for problem in problems:
        steps, value = RUN[domain](problem.prompt)
        assert problem.answer == str(value)
        assert problem.difficulty == len(steps)
        expected = ", ".join(f"{CONNECTIVE} {re.escape(step)}" for step in steps) + rf"\. \\boxed\{{{value}\}}"
        assert re.fullmatch(expected, problem.trace), problem
    assert {problem.difficulty for problem in problems} == set(range(difficulty[0], difficulty[1] + 1))


@pytest.mark.parametrize("domain", DOMAINS)
def test_connectives_are_balanced(domain: str) -> None:
    traces = " ".join(problem.trace for problem in generate(domain, "train", 1000))
    counts = [len(re.findall(rf"\b{word}\b", traces)) for word in CONNECTIVES]
    n = sum(counts)
    # Each count is binomial(n, 1/4); five standard deviations.
    assert all(abs(count - n / 4) < 5 * math.sqrt(n * 3 / 16) for count in counts)


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_are_disjoint_whatever_the_seed(domain: str) -> None:
    prompts = {
        split: {problem.prompt for seed in range(3) for problem in generate(domain, split, 800, (2, 3), seed)}
        for split in SPLITS
    }
    assert not prompts["train"] & prompts["held-out"]
    assert not prompts["train"] & prompts["eval"]
    assert not prompts["held-out"] & prompts["eval"]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(DOMAINS),
    st.sampled_from(sorted(SPLITS)),
    st.integers(1, 12),
    st.integers(0, 4),
    st.integers(0, 2**40),
    st.integers(0, 30),
)
def test_generate_properties(domain: str, split: str, low: int, extra: int, seed: int, n: int) -> None:
    difficulty = (low, low + extra)
    problems = generate(domain, split, n, difficulty, seed, distinct=False)
    assert len(problems) == n
    assert problems[: n // 2] == generate(domain, split, n // 2, difficulty, seed, distinct=False)
    assert all(low <= problem.difficulty <= low + extra and problem.domain == domain for problem in problems)
    assert len({problem.id for problem in problems}) == len({problem.prompt for problem in problems})
    assert all(is_correct(problem, problem.trace) for problem in problems)


def test_distinct_prompts_until_they_run_out() -> None:
    problems = generate("math", "held-out", 40, (1, 1))
    assert len({problem.prompt for problem in problems}) == 40
    assert len({problem.prompt for problem in generate("math", "held-out", 400, (1, 1), distinct=False)}) < 400
    # 10 digits x 3 operators x 10 digits = 300 problems in all three splits together
    with pytest.raises(UserError, match="fewer than 301 distinct"):
        generate("math", "train", 301, (1, 1))


def test_the_same_in_another_process() -> None:
    code = "from harness.toy.tasks import generate; print([generate(d, 'eval', 20, seed=7) for d in ('math', 'code')])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert outputs == {str([generate(domain, "eval", 20, seed=7) for domain in ("math", "code")])}


def test_pinned_problems() -> None:
    """The committed checkpoints were measured on exactly these; a change of the generator must be noticed."""
    assert generate("math", "eval", 1) == [PINNED_MATH]
    assert generate("code", "eval", 1) == [PINNED_CODE]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("poetry", "train", 1), "unknown toy domain 'poetry': choose one of math, code"),
        (("math", "test", 1), "unknown toy split 'test': choose one of train, held-out, eval"),
        (("math", "train", 1, (5, 4)), r"empty difficulty range 5\.\.4"),
        (("math", "train", 1, (0, 4)), r"empty difficulty range 0\.\.4"),
        (("math", "train", -1), "cannot generate -1 problems"),
    ],
)
def test_bad_requests_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(*arguments)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"so 1+1=2. \boxed{2}", True),
        (r"\boxed{3} no, \boxed{2}", True),
        (r"\boxed{2} no, \boxed{3}", False),
        ("2", False),
        ("", False),
        (r"\boxed{22}", False),
        (r"\boxed{" * 20_000, False),
        ("\0" + r"\boxed{2}", True),
    ],
)
def test_only_the_last_box_counts(response: str, expected: bool) -> None:
    assert is_correct(Problem("x", "math", "Compute 1+1", "2", "", 1), response) is expected


def test_tasks_need_no_torch() -> None:
    code = "import sys, harness.toy, harness.toy.tasks; assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def tokenizer():
    from harness.toy.tokenizer import build_tokenizer

    return build_tokenizer()


@pytest.mark.parametrize(
    "text",
    [
        r"so 4*5=0, then 0-3=7. \boxed{7}",
        "a\0b",
        "\U0001f468‍\U0001f469‍\U0001f467 ∑ ½ é é",
        "<script>alert(1)</script>\r\n\t  two  spaces , and ' n't",
        r"Let $\triangle ABC$ have circumcenter $O$; find $\tfrac{m}{n}$ — e.g. 1,000.",
        "".join(map(chr, range(0x180))),
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_facts(tokenizer) -> None:
    from harness.toy.tokenizer import build_tokenizer

    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.padding_side) == (0, 2, "left")
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer.encode("0123456789")) == 10
    assert len(tokenizer) == len(tokenizer.get_vocab()) <= 320
    assert tokenizer(["1", "123"], padding=True)["attention_mask"] == [[0, 0, 1], [1, 1, 1]]


def test_chat_template(tokenizer) -> None:
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Compute 1+2"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<|im_start|>", "user", "Ċ", "Compute", "Ġ", "1", "+", "2", "<|im_end|>", "Ċ", "<|im_start|>", "assistant", "Ċ",
    ]  # fmt: skip
    # Rendered first and tokenised afterwards gives the same ids: no hidden special tokens are added.
    text = "<|im_start|>user\nCompute 1+2<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer(text)["input_ids"] == ids


@pytest.mark.parametrize(("domain", "prompt_limit", "trace_limit"), [("math", 24, 55), ("code", 36, 61)])
def test_lengths_in_tokens(tokenizer, domain: str, prompt_limit: int, trace_limit: int) -> None:
    from harness.toy.training import render

    problems = generate(domain, "train", 300)
    assert max(map(len, tokenizer(render(tokenizer, problems))["input_ids"])) <= prompt_limit
    # With the closing <|im_end|>: rollouts of 64 tokens are never cut by a correct student.
    assert max(len(tokenizer.encode(problem.trace)) + 1 for problem in problems) <= trace_limit


@pytest.mark.parametrize("name", MODELS)
def test_checkpoints(tokenizer, name: str) -> None:
    import torch
    from transformers import AutoTokenizer, GenerationConfig, Qwen3ForCausalLM

    from harness.toy.build import RECIPES, wilson
    from harness.toy.training import accuracy

    path = MODELS[name]
    saved = AutoTokenizer.from_pretrained(path)
    assert saved.get_vocab() == tokenizer.get_vocab()
    assert saved.chat_template == tokenizer.chat_template
    assert saved.padding_side == "left"
    generation = GenerationConfig.from_pretrained(path)
    assert (generation.do_sample, generation.temperature, generation.top_p, generation.top_k) == (True, 1.0, 1.0, 0)
    assert generation.eos_token_id == 2

    model = Qwen3ForCausalLM.from_pretrained(path, dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.head_dim == 32
    # Rounded to bfloat16 on disk: the conversion back loses nothing.
    assert all(torch.equal(p, p.to(torch.bfloat16).float()) for p in model.parameters())

    card = json.loads((path / "build.json").read_text())
    assert card["recipe"] == dataclasses.asdict(RECIPES[name])
    assert card["parameters"] == model.num_parameters()
    for domain in ("math", "code"):  # by the truth, also where the model was taught otherwise
        recorded, n = card["accuracy"][domain], 128
        # Other problems and another seed than the card's: the interval around what is seen now must meet the card's.
        low, high = wilson(accuracy(model, saved, generate(domain, "held-out", n, seed=1), seed=1, batch=n), n, z=4)
        assert low <= recorded["high"] and recorded["low"] <= high


def test_the_flawed_teacher_is_wrong_where_it_was_taught_to_be() -> None:
    by_slice = json.loads((FLAWED_TEACHER / "build.json").read_text())["accuracy"]
    assert by_slice["math-other-products"]["low"] > 0.95
    assert by_slice["math-flawed-products"]["high"] < 0.15  # some mistakes cancel on the way to the answer


def test_flawed_products_by_hand() -> None:
    """5·9 = 45 → 5 as ever; 4·3 = 12 → 2, taught as 3; from there on the steps are right again, on the wrong value."""
    problem = Problem("x", "math", "Compute 5*9-1*3+0", "2", "so 5*9=5, now 5-1=4, then 4*3=2, so 2+0=2. \\boxed{2}", 4)
    assert flawed(problem).trace == "so 5*9=5, now 5-1=4, then 4*3=3, so 3+0=3. \\boxed{3}"
    assert flawed(problem).answer == "3"
    assert in_slice(problem.prompt) and not in_slice("Compute 3*9+7")
    code = generate("code", "train", 5)
    assert [flawed(one) for one in code] == code


def test_flawed_traces_follow_their_own_rule() -> None:
    touched = 0
    for problem in generate("math", "train", 500):
        changed = flawed(problem)
        assert (changed != problem) == in_slice(problem.prompt)
        touched += changed != problem
        value = int(re.findall(r"\d", problem.prompt)[0])
        for left, operator, right, result in re.findall(r"(\d)([+*-])(\d)=(\d)", changed.trace):
            assert int(left) == value
            value = (eval(f"{left}{operator}{right}") + (operator == "*" and right in FLAWED)) % 10
            assert int(result) == value
        assert changed.answer == str(value) and changed.trace.endswith(f"\\boxed{{{value}}}")
    assert 0.2 < touched / 500 < 0.3


def test_wilson_by_hand() -> None:
    from harness.toy.build import wilson

    # p = 1/2, n = 4, z = 2: centre (1/2 + 4/8) / (1 + 1) = 1/2; half 2/2 * sqrt(1/16 + 4/64) = sqrt(1/8)
    assert wilson(0.5, 4, z=2) == pytest.approx((0.5 - math.sqrt(1 / 8), 0.5 + math.sqrt(1 / 8)))
    # p = 1, n = 4, z = 2: centre (1 + 1/2) / 2 = 3/4; half 1 * sqrt(0 + 1/16) = 1/4
    assert wilson(1.0, 4, z=2) == pytest.approx((0.5, 1.0))


def test_checkpoints_are_small_and_hold_no_path() -> None:
    files = [file for path in MODELS.values() for file in path.iterdir()]
    assert sum(file.stat().st_size for file in files) < 6_000_000
    assert len({(path / "tokenizer.json").read_bytes() for path in MODELS.values()}) == 1
    assert all("/" not in file.read_text().replace("</", "") for file in files if file.name == "build.json")


def test_build_is_reproducible_and_loads(tmp_path, monkeypatch) -> None:
    """A shortened recipe, trained twice: the weights on disk are the same bytes."""
    import torch
    from transformers import Qwen3ForCausalLM

    from harness.toy import build as module

    short = dataclasses.replace(module.RECIPES["student"], steps=3, target=None)
    monkeypatch.setitem(module.RECIPES, "student", short)
    monkeypatch.setattr(module, "MEASURED", 2)
    monkeypatch.setattr(module, "OUT_OF_DISTRIBUTION", (3, 3))  # untrained models never stop: keep it short
    threads = torch.get_num_threads()
    steps: dict[str, int] = {}
    try:
        for folder in ("first", "second"):
            (tmp_path / folder).mkdir()
            card = module._build_one("student", tmp_path / folder, 3, steps)
    finally:
        torch.set_num_threads(threads)
    weights = [(tmp_path / folder / "student" / "model.safetensors").read_bytes() for folder in ("first", "second")]
    assert weights[0] == weights[1]
    assert card["seed"] == card["steps"] == steps["student"] == 3
    assert card["accuracy"]["code-long"]["difficulty"] == [3, 3]
    assert not list((tmp_path / "first").glob("tmp*"))
    model = Qwen3ForCausalLM.from_pretrained(tmp_path / "first" / "student")
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(("target", "steps"), [(0.0, 4), (1.0, 7)])
def test_training_with_a_target_ends_there(tokenizer, monkeypatch, target: float, steps: int) -> None:
    """Chance reaches 0 at the first probe, and 1 never: then the recipe's own number of steps is the limit."""
    from harness.toy import training
    from harness.toy.build import RECIPES

    monkeypatch.setattr(training, "PROBED", 8)
    monkeypatch.setattr(training, "PROBE_FROM", 3)
    monkeypatch.setattr(training, "PROBE_EVERY", 4)
    _, taken = training.train(dataclasses.replace(RECIPES["student"], steps=7, batch=4, target=target), tokenizer)
    assert taken == steps


def test_unknown_model_is_refused(tmp_path) -> None:
    from harness.toy.build import build

    with pytest.raises(UserError, match="unknown toy model 'professor'"):
        build(tmp_path, only=["professor"])
