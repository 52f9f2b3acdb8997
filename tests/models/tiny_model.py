"""A real language model on loopback: SmolLM2 (135 million parameters) behind xllamacpp's OpenAI-compatible server.

`make tiny-model` fetches both under `.cache/tiny-model`; nothing of it is a dependency. It runs in a process of its
own, since its threads never end by themselves.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.machine import TINY_MODEL

WINDOW_TOKENS = 2048
START_S = 60.0

_PROGRAM = """
import sys, threading
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx = int(sys.argv[3])
parameters.n_parallel = 1
parameters.warmup = False
parameters.hostname = "127.0.0.1"
parameters.port = int(sys.argv[2])
server = xllamacpp.Server(parameters)
sys.stdin.read()
"""
"""Ends when its standard input does, so that it cannot outlive the test."""


@contextmanager
def serving_tiny_model() -> Iterator[str]:
    """The base URL of a running tiny model."""
    weights = next(TINY_MODEL.rglob("*.gguf"))
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(weights), str(port), str(WINDOW_TOKENS)],
        env={**os.environ, "PYTHONPATH": str(TINY_MODEL)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_ready(process, port)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the tiny model's server ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1.0) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the tiny model's server did not answer within {START_S:g} s")
