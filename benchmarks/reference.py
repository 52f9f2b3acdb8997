"""The other side of the duels: the reference library `rlms` in an environment and a process of its own."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from benchmarks.environments import CACHE
from benchmarks.worker import ROOT, Worker, started

REQUIREMENTS = Path(__file__).with_name("reference_requirements.txt")


@asynccontextmanager
async def open_reference(python: Path, *, model_url: str, image: str, scratch: Path) -> AsyncIterator[Worker]:
    """The reference library, ready to be measured. It sees none of our variables and writes below `scratch` only."""
    await anyio.Path(scratch).mkdir(parents=True, exist_ok=True)
    environment = {
        "PATH": f"{python.parent}:{os.environ.get('PATH', os.defpath)}",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "RLM_DOCKER_WORKSPACE_DIR": str(scratch / "workspaces"),
        "BENCHMARK_MODEL_URL": model_url,
        "BENCHMARK_REFERENCE_IMAGE": image,
    }
    environment |= {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
    command = [str(python), "-m", "benchmarks.reference_worker"]
    async with started(
        "the reference library", command, environment, cwd=scratch, log=CACHE / "reference.log"
    ) as worker:
        yield worker
