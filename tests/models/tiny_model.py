"""A real language model on loopback: SmolLM2 (135 million parameters) behind xllamacpp's OpenAI-compatible server.

`make tiny-model` fetches both under `.cache/tiny-model`; nothing of it is a dependency. It runs in a process of its
own, since its threads never end by themselves.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

from tests.machine import TINY_MODEL

WINDOW_TOKENS = 2048
START_S = 60.0

_PROGRAM = """
import sys
import xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx = int(sys.argv[2])
parameters.n_parallel = 1
parameters.warmup = False
parameters.port = 0
server = xllamacpp.Server(parameters)
print("listening:", server.listening_address, flush=True)
sys.stdin.read()
"""
"""Ends when its standard input does, so that it cannot outlive the test."""


@contextmanager
def serving_tiny_model() -> Iterator[str]:
    """The base URL of a running tiny model."""
    weights = next(TINY_MODEL.rglob("*.gguf"))
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(weights), str(WINDOW_TOKENS)],
        env={**os.environ, "PYTHONPATH": str(TINY_MODEL)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield f"{_address(process)}/v1"
    finally:
        process.kill()
        process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    """What the server says it listens on; the process is killed when it takes too long to say."""
    assert process.stdout is not None
    too_late = Timer(START_S, process.kill)
    too_late.start()
    try:
        for line in process.stdout:
            if line.startswith("listening: "):
                return line.removeprefix("listening: ").strip()
    finally:
        too_late.cancel()
    raise RuntimeError(f"the tiny model's server did not start within {START_S:g} s, status {process.wait()}")
