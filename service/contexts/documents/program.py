"""The process that reads one document: `python -I -m … FORMAT MEMORY_BYTES CPU_S ENCODING`.

The document is stdin, its text leaves by stdout as it is read. At the end one line of JSON goes to stderr: either
`{"notes": […]}` or `{"problem": "…"}`, the latter with `unconfined` where no document at all can be
read. Everything else that a library would say is discarded, so that the line always fits into the pipe and nobody has
to drain it.
"""

import json
import logging
import os
import sys
import warnings
from importlib import import_module
from typing import BinaryIO, Protocol, cast

from service.contexts.documents.confinement import Unconfined, confine
from service.contexts.documents.formats import FORMATS, DocumentFormat
from service.contexts.documents.text_writer import TextWriter, Unreadable

MOST_NOTES = 20
LONGEST_NOTE = 300


class Reader(Protocol):
    def read(self, document: BinaryIO, text: TextWriter, encoding: str) -> None:
        """Lead the document into the text; `encoding` is what a person said, or empty. Raises `Unreadable`."""
        ...


def main() -> int:
    arguments = sys.argv[1:]
    document_format = cast("DocumentFormat", arguments[0])
    report = _keep_stderr_for_the_report()
    # The libraries are read from disk before the document is looked at, because afterwards they could not be.
    reader = cast("Reader", import_module(f"service.contexts.documents.{FORMATS[document_format].reader}"))
    try:
        confine(memory_bytes=int(arguments[1]), cpu_s=int(arguments[2]))
    except Unconfined as error:
        refusal = f"is not read, because its reader cannot be confined here: it {error}"
        _report(report, {"problem": refusal, "unconfined": str(error)})
        return 0
    text = TextWriter(sys.stdout.buffer)
    problem = _read(reader, text, arguments[3])
    said: dict[str, object] = {"notes": [note[:LONGEST_NOTE] for note in text.notes[:MOST_NOTES]]}
    if problem is not None:
        said = {"problem": problem}
    _report(report, said)
    return 0


def _report(descriptor: int, said: dict[str, object]) -> None:
    os.write(descriptor, json.dumps(said).encode())


def _read(reader: Reader, text: TextWriter, encoding: str) -> str | None:
    """What went wrong, if anything did."""
    try:
        reader.read(sys.stdin.buffer, text, encoding)
        text.flush()
    except Unreadable as error:
        return str(error)
    except MemoryError:
        return "needs too much memory to be read"
    except RecursionError:
        return "is nested too deeply to be read"
    except BrokenPipeError:
        return "was not read to its end"
    except Exception as error:  # noqa: BLE001  # the named boundary: readers' libraries raise whatever they like
        return f"is damaged, or not what its name says ({type(error).__name__})"
    return None if text.has_text else "holds no text"


def _keep_stderr_for_the_report() -> int:
    report = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    logging.disable()
    warnings.simplefilter("ignore")
    return report


if __name__ == "__main__":
    sys.exit(main())
