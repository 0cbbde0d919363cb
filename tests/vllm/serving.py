"""A real vLLM server on a free port of the loopback device."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


class VLLMServer:
    """Started at once, ready after `wait`; `kill` and `start` again at the same address."""

    def __init__(self, model: Path, log: Path, name: str, *options: str, dev: bool = False) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.log = log
        self.command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        self.command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(self.port)]
        self.command += [
            "--dtype",
            "float32",
            "--max-model-len",
            "192",
            "--enforce-eager",
            "--no-enable-chunked-prefill",
        ]
        self.command += options
        self.environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_SERVER_DEV_MODE": str(int(dev)),
        }
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(
                self.command, stdout=out, stderr=out, start_new_session=True, env=self.environment
            )

    def wait(self) -> None:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if self.child.poll() is not None:
                    pytest.fail(f"vLLM's server ended: {self.log.read_text()[-3000:]}")
                time.sleep(1)
        pytest.fail("vLLM's server was not ready in 4 minutes")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """The whole process group: the engine's own process outlives its parent otherwise."""
        for number in dict.fromkeys((how, signal.SIGKILL)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(20)


@contextlib.contextmanager
def vllm_server(model: Path, log: Path, name: str, *options: str, dev: bool = False) -> Iterator[VLLMServer]:
    server = VLLMServer(model, log, name, *options, dev=dev)
    try:
        server.wait()
        yield server
    finally:
        server.kill(signal.SIGTERM)
