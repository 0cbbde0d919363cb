"""A teacher behind an OpenAI-compatible server that gives log-probs of prompts, as vLLM does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import torch

from trainer.endpoint import ABSENT, Refused
from trainer.errors import UserError
from trainer.policy import Policy
from trainer.prompt_logprobs import RowScores, entries, log_probs, read_row, spread
from trainer.rollout import Rollouts
from trainer.server_client import Request, ServerClient
from trainer.teachers import TeacherScores, token_ids

_COMPLETIONS: Final = "/completions"
_PROBE: Final = (
    r"Compute \frac{12}{345} + 6.78e-9, so \boxed{42}.",
    "Übergröße, naïve café; 你好，世界 Привет мир مرحبا 🙂",
    "def f(x: int) -> str:\n\treturn f'{x**2:>8}'\n\n<b>&amp;</b>",
)
_PIECE: Final = 48  # tokens of a probe at most: they must fit into any context


class RemoteTeacher:
    """Scores rollouts with the model of a server: token ids in, log-probs of these very ids out.

    A rollout is one request to `/v1/completions`: its ids as the prompt, `prompt_logprobs`, which of all servers only
    vLLM has, and one token to generate, which vLLM wants and nobody reads. What comes back is keyed by token id, so
    text is nowhere in between. vLLM skips its prefix cache for such requests, and sends some 70 bytes a token (and as
    many for each of the `top_k`), the prompt's included.

    Provides `logprobs`, and with `top_k` also `topk_logprobs`: the most likely ids of every position, by which losses
    on the teacher's support are exact but for a tail below 1e-6. The entropy of a distribution that is known in part is
    not the teacher's, so there is none, and a method that reads it is refused.

    The log-probs are over the served head, its rows without a token included; those of a local teacher over the ids
    that both models have. Of a trained model that is rounding. vLLM batches requests as they come, so asking twice may
    give other last digits; `CachedTeacher` keeps what was said once.

    At the start are checked: the model's name, that it gives prompt log-probs and `top_k` of them, that the tokenizer
    makes the student's ids of probe texts (signs, scripts, the template, end-of-sequence tokens, a part of the whole
    vocabulary). Whatever is missing, not finite, no log-prob, or of other ids later on is a malformed answer.

    Args:
        url: of the server, with or without the trailing /v1. model: as the server calls it.
        student: whose ids are scored.
        top_k: most likely ids to ask for; 0: none.
        concurrency, timeout, retries, backoff: see `ServerClient`. By default a server has five minutes to come back.

    Attributes:
        fingerprint: names the model by what the server says of it. Other weights under the same name and path have the
            same one.

    Raises:
        UserError: if the server cannot be reached, refuses the key, or fails a check.
    """

    def __init__(
        self,
        url: str,
        model: str,
        student: Policy,
        *,
        top_k: int = 0,
        concurrency: int = 32,
        timeout: float = 600.0,
        retries: int = 10,
        backoff: float = 1.0,
    ) -> None:
        self.client = ServerClient(url, concurrency=concurrency, timeout=timeout, retries=retries, backoff=backoff)
        self.model, self.student, self.top_k = model, student, top_k
        self._most = min(top_k, student.vocab)
        self._few = min(retries, 2)  # at the start nothing is lost yet, and a mistyped address should show soon
        card = self._card()
        context = card.get("max_model_len")
        self.context = context if isinstance(context, int) else None
        root = card.get("root")  # vLLM's word for the checkpoint behind a served name
        self.fingerprint = f"server:{model}" + (f"({root})" if isinstance(root, str) and root != model else "")
        self.name = f"'{model}' at {self.client.where}"
        self._check_vocabulary()
        if top_k:
            self._check_top_k()
        self.provides = frozenset({"logprobs", "topk_logprobs"} if top_k else {"logprobs"})

    def score(self, rollouts: Rollouts) -> TeacherScores:
        """Raises: UserError, naming server and remedy, once all tries for a rollout have failed."""
        rows = token_ids(rollouts)
        found = dict(self.score_rows(rows))
        scores = [found[row] for row in range(len(rows))]
        device = rollouts.mask.device
        logprobs = torch.cat([torch.zeros(0), *(row.logprobs for row in scores)]).to(device)
        if not self.top_k:
            return TeacherScores(logprobs=logprobs)
        none = read_row([], 0, [], self._most)
        ids, top = (
            torch.cat([part for row in (none, *scores) if (part := getattr(row, name)) is not None]).to(device)
            for name in ("ids", "top")
        )
        vocab = self.student.vocab
        return TeacherScores(logprobs=logprobs, topk=lambda positions: spread(ids[positions], top[positions], vocab))

    def score_rows(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, RowScores]]:
        """(row, scores) of (prompt ids, response ids), in the order in which the server is done with them.

        Raises:
            UserError: as `score`.
        """
        asked, requests = [], []
        for row, (prompt, response) in enumerate(rows):
            if not response:
                yield row, read_row([], 0, [], self._most)
                continue
            if self.context is not None and len(prompt) + len(response) >= self.context:
                raise UserError(
                    f"rollout {row} has {len(prompt) + len(response)} tokens, and {self.name} takes "
                    f"{self.context - 1}: start it with a longer --max-model-len, or lower rollout.max_tokens"
                )
            asked.append(row)
            what = f"the log-probs of rollout {row}"
            requests.append(self._request([*prompt, *response], self.top_k, what))

        def read(index: int, data: Any) -> RowScores:
            prompt, response = rows[asked[index]]
            return read_row(response, len(prompt), entries(data, len(prompt) + len(response)), self._most)

        for index, scores in self.client.ask(requests, read):
            yield asked[index], scores

    # --- the start --------------------------------------------------------------------------------------------------

    def _request(self, prompt: Sequence[int] | str, k: int, what: str) -> Request:
        body = {
            "model": self.model,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "prompt_logprobs": k,
            "max_tokens": 1,
            "temperature": 0.0,
            "stream": False,
            "add_special_tokens": False,
        }
        return Request(_COMPLETIONS, body, f"{what} by '{self.model}'")

    def _card(self) -> dict[str, Any]:
        """What the server says of the model; nothing where it keeps no list."""
        try:
            cards = self.client.cards(self._few)
        except Refused as refusal:
            if refusal.status in ABSENT:
                return {}
            raise
        return self.client.card(cards, self.model)

    def _check_vocabulary(self) -> None:
        """Probe texts, tokenized by the server, are the ids that the student's tokenizer makes of them."""
        tokenizer = self.student.tokenizer
        texts = _probe_texts(self.student)
        requests = [self._request(text, 0, "prompt log-probs") for text in texts]
        for index, theirs in self.client.ask(requests, partial(_prompt_ids, self.name), self._few):
            ours = tokenizer(texts[index], add_special_tokens=False)["input_ids"]
            # The first token has nothing before it, hence no log-prob, and its id is not told.
            if len(theirs) + 1 != len(ours) or theirs != ours[1:]:
                place = next((i for i, (a, b) in enumerate(zip(ours[1:], theirs, strict=False)) if a != b), None)
                differ = (
                    f"{len(ours)} tokens in one and {len(theirs) + 1} in the other"
                    if place is None
                    else f"id {ours[place + 1]} ({tokenizer.convert_ids_to_tokens(ours[place + 1])!r}) in one and "
                    f"{theirs[place]} in the other"
                )
                raise UserError(
                    f"student '{self.student.name}' and teacher {self.name} have different vocabularies: of "
                    f"{texts[index][:60]!r} they make {differ}; serve a model of the student's tokenizer"
                )

    def _check_top_k(self) -> None:
        ids = self.student.tokenizer(_PROBE[0], add_special_tokens=False)["input_ids"]
        request = self._request(ids, self.top_k, f"the {self.top_k} most likely ids of a probe")

        def read(index: int, data: Any) -> RowScores:
            return read_row(ids[1:], 1, entries(data, len(ids)), self._most)

        try:
            list(self.client.ask([request], read, self._few))
        except Refused as refusal:
            raise UserError(
                f"{self.name} does not give the {self.top_k} most likely ids that the method asks for: start it with "
                f"--max-logprobs {self.top_k} or more ({refusal.reason})"
            ) from None


def _probe_texts(student: Policy) -> list[str]:
    """Short texts that reach much of a vocabulary and all that a rollout's frame is made of."""
    tokenizer = student.tokenizer
    frame = tokenizer.decode(student.render(_PROBE[0]), skip_special_tokens=False)
    ends = "".join(str(tokenizer.convert_ids_to_tokens(id)) for id in sorted(student.eos_ids))
    words = [tokenizer.decode([id]) for id in range(0, student.vocab, max(1, student.vocab // 256))]
    pieces: list[str] = [*_PROBE, f"a {ends} b"]
    for text in (frame, " ".join(words)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        cut = [tokenizer.decode(ids[at : at + _PIECE]) for at in range(0, len(ids), _PIECE)]
        pieces += [piece for piece in cut if len(tokenizer(piece, add_special_tokens=False)["input_ids"]) > 1]
    return pieces


def _prompt_ids(name: str, index: int, data: Any) -> list[int]:
    """Ids of a prompt from its second token on, from an answer with one log-prob a token."""
    try:
        given = entries(data)
    except ValueError:
        if isinstance(data, dict) and data.get("choices"):  # a whole answer, of a server that knows no such field
            raise UserError(f"{name} gives no prompt log-probs: serve the teacher with vLLM") from None
        raise
    return [next(iter(log_probs(entry, place))) for place, entry in enumerate(given[1:], 1)]
