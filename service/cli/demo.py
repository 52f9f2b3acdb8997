"""`demo`: the example of the reference library, one number hidden in a million lines, through the real path.

It runs in a data directory of its own, which is removed afterwards, so it neither needs nor leaves anything.
"""

import random
import shlex
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import anyio.to_thread

from service.cli import exit_codes
from service.cli.ask_command import ask_service
from service.cli.exit_codes import ExitCode
from service.cli.question import AskOptions, check, limits_of
from service.cli.streams import flush_out, write_out
from service.cli.visible import visible_text
from service.configuration.file import read_configuration
from service.loop.values import BlobRef
from service.settings import Settings, read_settings
from service.wiring.models import open_catalog
from service.wiring.service import Service, open_service

QUESTION = "I'm looking for a magic number hidden in the context. What is it?"
WORDS = ("blah", "random", "text", "data", "content", "information", "sample")
ANSWER_BYTES = 10_000
LINES_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The command line of `demo`."""

    model: str
    sub_model: str
    max_cost: str
    lines: int
    show_code: bool
    colour: bool


async def demo(options: DemoOptions) -> ExitCode:
    """Hide a number, ask for it, check what comes back."""
    settings = read_settings()
    await _check(settings, options)
    chance = random.SystemRandom()
    number = str(chance.randint(1_000_000, 9_999_999))
    with tempfile.TemporaryDirectory(prefix="rlm-demo-") as directory:
        haystack = Path(directory, "haystack.txt")
        line, size_bytes = await anyio.to_thread.run_sync(hide, number, haystack, options.lines, chance)
        _say(f"A random number stands in line {line:,} of {options.lines:,} ({size_bytes:,} bytes of text).")
        _say(f"Question: {QUESTION}")
        _say("")
        # The embedded store and the blobs of the demo, not the user's: nothing of it should stay.
        settings = replace(settings, data_directory=Path(directory, "data"), redis_url=None)
        ask_options = _ask_options(options, haystack)
        question = check(ask_options)
        async with open_service(settings) as service:
            asked = await ask_service(service, question, ask_options)
            if asked.finished is None:
                return ExitCode.CANCELLED
            answer = await _read(service, asked.finished.answer)
    _say("")
    write_out(f"{visible_text(answer)}\n")
    flush_out()
    if number not in answer:
        _say(f"This is not the hidden number, which was {number}.")
        code = exit_codes.of_run(asked.finished.stop_reason, asked.finished.answer_source)
        return code if code is not ExitCode.ANSWERED else ExitCode.STOPPED
    _say("This is the hidden number.")
    _say_what_next(options)
    return ExitCode.ANSWERED


async def _check(settings: Settings, options: DemoOptions) -> None:
    """What can be wrong with options and keys, before a large file is written for them."""
    limits_of(_ask_options(options, Path()))
    async with open_catalog(settings, read_configuration(settings.config_file)) as catalog:
        catalog.resolve(options.model)
        catalog.resolve(options.sub_model)


def hide(number: str, haystack: Path, lines: int, chance: random.Random) -> tuple[int, int]:
    """Write the haystack; return the line (from 1) that the number is in, and the size in bytes."""
    where = chance.randrange(lines)
    with haystack.open("w") as file:
        for start in range(0, lines, LINES_AT_ONCE):
            words = iter(chance.choices(WORDS, k=LINES_AT_ONCE * 5))
            block = [" ".join(five) for five in zip(words, words, words, words, words, strict=True)]
            del block[lines - start :]
            if start <= where < start + LINES_AT_ONCE:
                block[where - start] = f"The magic number is {number}"
            file.write("\n".join(block) + "\n")
    return where + 1, haystack.stat().st_size


async def _read(service: Service, answer: BlobRef | None) -> str:
    if answer is None:
        return ""
    return (await service.blobs.read(answer, ANSWER_BYTES)).decode("utf-8", "replace")


def _ask_options(options: DemoOptions, haystack: Path) -> AskOptions:
    return AskOptions(
        question=QUESTION,
        contexts=(str(haystack),),
        encoding=None,
        documents_as_they_are=False,
        profile=None,
        model=options.model,
        sub_model=options.sub_model,
        max_cost=options.max_cost,
        max_turns=None,
        max_depth=None,
        max_tokens=None,
        max_sub_calls=None,
        timeout_s=300.0,
        cell_timeout_s=None,
        schema=None,
        session=None,
        sandbox=None,
        as_json=False,
        out=None,
        quiet=False,
        show_code=options.show_code,
        colour=options.colour,
    )


def _say_what_next(options: DemoOptions) -> None:
    if not options.model.startswith("scripted/"):
        return
    program = shlex.quote(_program())
    models = "--model openai/gpt-5-mini --sub-model openai/gpt-5-nano --max-cost 0.50"
    _say("")
    _say("The model was scripted: a deterministic stand-in that reads what it is shown. With a real one:")
    _say("  export OPENAI_API_KEY=…      (or OPENAI_BASE_URL for vLLM, SGLang, Ollama, OpenRouter …)")
    _say(f"  {program} demo {models}")
    _say(f"  {program} ask 'What changed last year, and why?' -c YOUR_FILE {models}")


def _program() -> str:
    """As the person can type it from where they are."""
    program = Path(sys.argv[0])
    try:
        return str(program.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(program)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
