"""The reference library at work, in its own environment and process. Run as a module by `reference`.

`environment` is `docker` (its Docker mode) or `process` (its `ipython` environment with `kernel_mode="subprocess"`).
It measures itself, around the library's own public calls.
"""

import os
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from rlm import RLM
from rlm.environments import get_environment

from benchmarks.worker_loop import serve

BASE_URL = os.environ["BENCHMARK_MODEL_URL"]
IMAGE = os.environ.get("BENCHMARK_REFERENCE_IMAGE", "")

_open_sessions: list[Any] = []


def ready(environment: str) -> list[float]:
    """From asking for a sandbox to the result of its first cell."""
    started = time.perf_counter()
    sandbox = _sandbox(environment)
    _check(sandbox.execute_code("print(6 * 7)"), "42")
    seconds = time.perf_counter() - started
    sandbox.cleanup()
    return [seconds]


def open_session(environment: str, context: str) -> None:
    """A sandbox with the file's text as its context, for `cells`."""
    _open_sessions.append(_sandbox(environment, context_payload=Path(context).read_text()))


def cells(count: int) -> list[float]:
    """Trivial cells in the open session."""
    (sandbox,) = _open_sessions
    seconds = []
    for number in range(count):
        started = time.perf_counter()
        result = sandbox.execute_code(f"print({number})")
        seconds.append(time.perf_counter() - started)
        _check(result, str(number))
    return seconds


def close_session() -> None:
    while _open_sessions:
        _open_sessions.pop().cleanup()


def run(environment: str, root_model: str, sub_model: str, context: str, question: str) -> dict[str, Any]:
    """A whole run; its seconds and its answer."""
    started = time.perf_counter()
    completion = _rlm(environment, root_model, sub_model).completion(context, root_prompt=question)
    return {"seconds": time.perf_counter() - started, "answer": completion.response}


def runs_for(
    *,
    environment: str,
    root_model: str,
    sub_model: str,
    context: str,
    question: str,
    answer: str,
    in_flight: int,
    warm_up_s: float,
    window_s: float,
) -> int:
    """How many runs end within the window, with so many in flight all the time, after a warm-up.

    A run that fails is reported in the log and not counted: kernels that start at the same time are now and then given
    the same TCP port. When more fail than succeed there is nothing to compare with.
    """
    begins = time.perf_counter() + warm_up_s
    ends = begins + window_s
    counted: list[int] = []
    failures: list[Exception] = []

    def keep_running() -> None:
        while time.perf_counter() < ends:
            try:
                completion = _rlm(environment, root_model, sub_model).completion(context, root_prompt=question)
                if completion.response != answer:
                    raise RuntimeError(f"expected the answer {answer!r}, found {completion.response!r}")
            except Exception as error:  # noqa: BLE001  # counted below
                traceback.print_exc()
                failures.append(error)
                continue
            if begins <= time.perf_counter() < ends:
                counted.append(1)

    threads = [threading.Thread(target=keep_running) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(failures) > len(counted):
        raise failures[0]
    return len(counted)


def _rlm(environment: str, root_model: str, sub_model: str) -> RLM:
    name, options = _environment(environment)
    backend = {"base_url": BASE_URL, "api_key": "none"}
    return RLM(
        backend="openai",
        backend_kwargs=backend | {"model_name": root_model},
        other_backends=["openai"],
        other_backend_kwargs=[backend | {"model_name": sub_model}],
        environment=name,
        environment_kwargs=options,
        max_iterations=30,
    )


def _sandbox(environment: str, **options: Any) -> Any:
    name, settings = _environment(environment)
    return get_environment(name, {**settings, **options})


def _environment(environment: str) -> tuple[Any, dict[str, Any]]:
    match environment:
        case "docker":
            return "docker", {"image": IMAGE}
        case "process":
            return "ipython", {"kernel_mode": "subprocess"}
    raise ValueError(f"expected docker or process, found {environment!r}")


def _check(result: Any, expected: str) -> None:
    if result.stdout.strip() != expected or result.stderr.strip():
        raise RuntimeError(f"expected a cell to print {expected!r}, found {result.stdout!r} and {result.stderr!r}")


if __name__ == "__main__":
    serve(
        {
            "ready": ready,
            "open_session": open_session,
            "cells": cells,
            "close_session": close_session,
            "run": run,
            "runs_for": runs_for,
        }
    )
    close_session()
