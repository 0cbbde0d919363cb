"""The token page: a rollout's text, each token coloured by what the objective made of it.

One self-contained page without network access. Rollouts are hostile text: they travel as escaped JSON, and the
script inserts them by `textContent` alone, under a content security policy that lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.errors import UserError

TEMPLATES = Path(__file__).parents[1] / "templates"
MOST_TOKENS = 32_768
SERIES = ("weight", "student_logprob", "teacher_logprob", "student_entropy", "teacher_entropy")
FACTS = ("arm", "seed", "step", "domain", "prompt", "answer", "correct", "kept", "score")

# key, label, kind, centre (where a token has no colour), legend
_CHANNELS: tuple[tuple[str, str, str, float, str], ...] = (
    ("weight", "weight", "diverging", 1.0, "token weight"),
    ("student_entropy", "student entropy", "sequential", 0.0, "entropy of the student, nats"),
    ("teacher_entropy", "teacher entropy", "sequential", 0.0, "entropy of the teacher, nats"),
    ("ratio", "log-ratio", "diverging", 0.0, "log teacher − log student: warm where the teacher likes the token more"),
    ("trained", "kept", "switch", 0.0, "struck through: a token with weight zero, or of a dropped rollout"),
)


def page(views: Sequence[Mapping[str, Any]], title: str = "Tokens") -> str:
    """A whole HTML page for token views (one object per rollout; see `embedded` for the keys).

    Raises:
        UserError: as `embedded`.
    """
    template = environment().get_template("tokenpage.html.j2")
    parts = {"data": embedded(views), "script": script(), "script_hash": script_hash()}
    return template.render(title=title, style=style(), **parts) + "\n"


def embedded(views: Sequence[Mapping[str, Any]]) -> Markup:
    """Token views as JSON that is safe inside a `<script type="application/json">` element.

    A view holds arm, seed, step, domain, prompt, answer, correct, kept, score, tokens [T], ids [T] and, each [T] or
    absent, weight, student_logprob, teacher_logprob, student_entropy, teacher_entropy (nats).

    Raises:
        UserError: a view lacks a key, or one of its lists has another length than its tokens.
    """
    compact = [_compact(view, f"token view {number}") for number, view in enumerate(views, 1)]
    text = json.dumps({"channels": _channels(compact), "views": compact}, separators=(",", ":"), allow_nan=False)
    # ASCII already, so that NUL, U+2028 and lone surrogates are escapes; no tag or entity may be left either
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def environment() -> Environment:
    """Templates of this package, autoescaped."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style() -> Markup:
    """The style sheet of every page."""
    return Markup((TEMPLATES / "base.css").read_text("utf-8") + (TEMPLATES / "tokens.css").read_text("utf-8"))


def script() -> Markup:
    """The only script of every page."""
    return Markup((TEMPLATES / "tokens.js").read_text("utf-8"))


def script_hash() -> str:
    """The content-security-policy source that admits `script()` and nothing else."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()


def _compact(view: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The view with plain, rounded, finite numbers, cut to a length that a browser can bear."""
    for key in (*FACTS, "tokens"):
        if key not in view:
            raise UserError(f"{where} has no '{key}': write it with all the keys of a token view")
    tokens = [str(token) for token in view["tokens"]]
    where = f"{where} (arm '{view['arm']}', seed {view['seed']})"
    out: dict[str, Any] = {key: view[key] for key in FACTS} | {"tokens": tokens[:MOST_TOKENS]}
    out |= {key: str(out[key]) for key in ("arm", "seed", "step", "prompt")} | {"domain": str(out["domain"] or "")}
    out["answer"] = None if out["answer"] is None else str(out["answer"])
    out["correct"] = None if out["correct"] is None else bool(out["correct"])
    out["kept"] = bool(out["kept"])
    out["score"] = _finite(out["score"])
    if len(tokens) > MOST_TOKENS:
        out["cut"] = len(tokens)
    for key in (*SERIES, "ids"):
        values = view.get(key)
        if values is None:
            continue
        if len(values) != len(tokens):
            raise UserError(f"{where}: '{key}' has {len(values)} values for {len(tokens)} tokens")
        kept = list(values)[:MOST_TOKENS]
        out[key] = [int(value) for value in kept] if key == "ids" else [_finite(value) for value in kept]
    if "student_logprob" in out and "teacher_logprob" in out:
        pairs = zip(out["teacher_logprob"], out["student_logprob"], strict=True)
        out["ratio"] = [None if t is None or s is None else _finite(t - s) for t, s in pairs]
    weights = out.get("weight", [1.0] * len(out["tokens"]))
    out["trained"] = [int(out["kept"] and weight != 0) for weight in weights]
    return out


def _finite(value: Any) -> float | None:
    number = math.nan if value is None else float(value)
    return round(number, 4) if math.isfinite(number) else None


def _channels(views: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The recorded channels with one colour scale over all rollouts, cut at the outer percents."""
    channels = []
    for key, label, kind, centre, hint in _CHANNELS:
        values = [value for view in views for value in view.get(key, ()) if value is not None]
        if not values and kind != "switch":
            continue
        low, high = (float(bound) for bound in np.percentile(values or [0, 1], (1, 99)))
        low = min(low, centre) if kind == "diverging" else centre
        channel = {"key": key, "label": label, "kind": kind, "centre": centre, "hint": hint}
        channels.append(channel | {"low": round(low, 4), "high": round(max(high, centre), 4), "below": low < centre})
    return channels
