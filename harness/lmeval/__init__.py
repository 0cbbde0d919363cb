"""lm-evaluation-harness both ways: our benchmarks as its tasks, its tasks as our benchmarks.

`export` writes a task folder for every lm-eval backend, `hooks` scores in it, `samples` reads back what it logged;
`runs` has lm-eval run tasks of its own in a `worker` process, `rows` brings their verdicts into our columns.
Nothing here imports lm-eval before it is needed.
"""

from harness.lmeval.samples import is_lm_eval_samples, read_lm_eval_samples

__all__ = ["is_lm_eval_samples", "read_lm_eval_samples"]
