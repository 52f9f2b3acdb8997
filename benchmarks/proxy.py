"""The other side of the gateway: LiteLLM Proxy in an environment and a process of its own.

It runs as its own documentation has it for one worker: its application on uvicorn with uvloop, a master key, a price
for the model, and a budget for the provider, which is what it can count without a database of its own (virtual keys
with budgets need Postgres). Its log says errors only.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from benchmarks.environments import CACHE
from benchmarks.listening import Listener, listening
from benchmarks.worker import ROOT

REQUIREMENTS = Path(__file__).with_name("proxy_requirements.txt")
START_WITHIN_S = 180.0
"""It imports for some ten seconds on a quiet machine."""
KEY = "sk-benchmark"
MODEL = "echo"
BUDGET_USD = 1_000.0


@asynccontextmanager
async def open_proxy(python: Path, *, model_url: str, upstream: str, scratch: Path) -> AsyncIterator[Listener]:
    """The proxy before the model `upstream` of the server at `model_url`. It sees none of our variables and writes
    below `scratch` only.

    Raises:
        NotListening
    """
    await anyio.Path(scratch).mkdir(parents=True, exist_ok=True)
    configuration = scratch / "proxy.yaml"  # JSON is YAML
    await anyio.Path(configuration).write_text(json.dumps(_configuration(model_url, upstream)))
    environment = {
        "PATH": f"{python.parent}:{os.environ.get('PATH', os.defpath)}",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "CONFIG_FILE_PATH": str(configuration),
        "DISABLE_ADMIN_UI": "True",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
    }
    command = [str(python), "-m", "benchmarks.proxy_process"]
    async with listening(
        command, environment, cwd=scratch, log=CACHE / "proxy.log", within_s=START_WITHIN_S
    ) as listener:
        yield listener


def _configuration(model_url: str, upstream: str) -> dict[str, object]:
    deployment = {
        "model": f"openai/{upstream}",
        "api_base": model_url,
        "api_key": "none",
        "input_cost_per_token": 0.000_000_1,
        "output_cost_per_token": 0.000_000_4,
    }
    return {
        "model_list": [{"model_name": MODEL, "litellm_params": deployment}],
        "router_settings": {"provider_budget_config": {"openai": {"budget_limit": BUDGET_USD, "time_period": "1d"}}},
        "general_settings": {"master_key": KEY},
    }
