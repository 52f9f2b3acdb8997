"""What README and docs/http-api.md tell people to send, sent as they say it."""

import re
import subprocess
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.machine import ROOT
from tests.runs.playing import ROOT as ROOT_MODEL
from tests.runs.playing import SUB
from tests.serve_process import PATIENCE_S
from tests.web.alone import alone, serve_alone
from tests.web.documented import DOCS, reader, try_examples
from tests.web.serving import Served

pytestmark = pytest.mark.anyio

README = Path(ROOT) / "README.md"
PAGE = DOCS / "http-api.md"


@pytest.mark.takes_long
async def test_a_newcomer_comes_from_the_key_to_the_answer(tmp_path: Path) -> None:
    """The README's curl session, typed in a home where `serve` has started for the first time."""
    haystack = re.findall(r"^seq .*$", README.read_text(), re.MULTILINE)
    (session,) = re.findall(r"```sh\n(export API=.*?)```", README.read_text(), re.DOTALL)
    data = {"RLM_DATA_DIR": str(tmp_path / ".local" / "share" / "rlm-service")}
    await anyio.Path(data["RLM_DATA_DIR"]).mkdir(parents=True)
    async with serve_alone(tmp_path, **data) as serve:
        typed = haystack[0] + "\n" + session.replace("http://127.0.0.1:8000", serve.replica.address)
        with anyio.fail_after(PATIENCE_S):
            done = await anyio.run_process(
                ["sh", "-eu", "-c", typed], cwd=tmp_path, env=alone(tmp_path, **data), stderr=subprocess.STDOUT
            )
    assert done.stdout.decode().endswith("4711"), done.stdout.decode()[-2000:]


async def test_the_examples_of_the_page_hold(it: Served) -> None:
    """Every block of docs/http-api.md runs after the one before it, and what it asserts is so."""
    with reader(it, await it.secret()) as client:
        await try_examples(PAGE, least=4, names={"client": client, "ROOT_MODEL": ROOT_MODEL, "SUB_MODEL": SUB})
