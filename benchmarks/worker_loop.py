"""A measuring process, seen from inside: one JSON object a line in, one out. Standard library only, because it also
runs in the reference library's environment.

A request is `{"do": NAME, …arguments}`; the answer `{"ok": VALUE}` or `{"error": TEXT}`. The end of stdin ends it.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

Operations = dict[str, Callable[..., Any]]


def serve(operations: Operations) -> None:
    """Answer until stdin ends. Whatever an operation prints goes to stderr: stdout belongs to the answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = {"ok": operations[arguments.pop("do")](**arguments)}
        except Exception as error:  # noqa: BLE001  # the boundary of a measuring process: it reports and lives on
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
