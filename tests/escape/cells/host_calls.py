"""The one door that a cell may knock at: too much, too large, too odd, too late. What came through it is a row of its
own (`column`): every call bears the grant of its session, and none that says `forged` arrives."""

from tests.escape.case import Case, Harm, words

_WRITE = """
import json, stat
from sandbox_image.frames import encode_frame
def write(*calls):
    for cell, body in calls:
        frame = encode_frame({'do': 'call', 'id': 10_000 + cell, 'cell': cell, 'function': 'llm_query'}, body)
        for n in range(3, 64):
            try:
                if stat.S_ISSOCK(os.fstat(n).st_mode): os.set_blocking(n, True); os.write(n, frame)
            except OSError: pass
"""
_OWN_NUMBER = """
def own_number():
    frame = sys._getframe()
    while frame is not None:
        if type(frame.f_locals.get('number')) is int: return frame.f_locals['number']
        frame = frame.f_back
"""


def _call(name: str, code: str, *held: str, then: str = "say('answers')", is_heavy: bool = False) -> Case:
    return Case(
        name=f"host call: {name}",
        code=code,
        held=words("answers", *held),
        then=then,
        harm=Harm.KERNEL,
        is_heavy=is_heavy,
    )


CASES = (
    _call("an ordinary one is answered", "say(llm_query('x'))", "answered"),
    _call(
        "a prompt of 100 MB",
        """
try: say('sent' if llm_query('x' * 100_000_000).ok else 'refused')
except MemoryError: say('refused')
""",
        "refused",
        "killed",
        is_heavy=True,
    ),
    _call(
        "more of a batch than there may be",
        """
say('answered', len(llm_query_batched(['x'] * 10_001)))
""",
        "raised:ValueError",
    ),
    _call(
        "from five hundred threads",
        """
import threading
found = set()
def ask():
    try: found.add('told' if isinstance(llm_query('x'), str) else 'odd')
    except (RuntimeError, MemoryError): found.add('bounded')
threads = [threading.Thread(target=ask, daemon=True) for _ in range(500)]
try: [thread.start() for thread in threads]
except RuntimeError: found.add('bounded')
[thread.join(10) for thread in threads if thread.ident]
say(*found)
""",
        "told",
        "bounded",
        is_heavy=True,
    ),
    _call(
        "prompts that are no text",
        r"""
cycle = []; cycle.append(cycle)
class Odd:
    def __str__(self): raise SystemExit
for prompt in (b'\xff', object(), '\ud800', float('nan'), {'a': {1}}, cycle, [[[[]]]], None, Odd()): say(attempt(llm_query, prompt))
for prompts in (7, 'text', {'a': 1}, iter(()), [Odd()]): say(attempt(llm_query_batched, prompts))
""",
        "done",  # made a text of, or an error in the reply
        "TypeError",
        "SystemExit",
        "RecursionError",
        "UnicodeEncodeError",
    ),
    _call(
        "a model whose name is a header",
        r"""
for model in ('a\r\nauthorization: Bearer forge', '\0', 'x' * 1_000_000, '../../', 'http://127.0.0.1/'): say(attempt(llm_query, 'x', model))
""",
        "done",  # as text in the body, which the gateway looks at
    ),
    _call(
        "a schema without a bottom",
        """
schema = {}
for _ in range(5_000): schema = {'items': schema}
say(attempt(llm_query, 'x', None, schema))
""",
        "RecursionError",
    ),
    _call(
        "of a function that there is not, with arguments that are none",
        _WRITE
        + _OWN_NUMBER
        + r"""
number = own_number()
bodies = (b'', b'[]', b'{}', b'null', b'NaN', b'{"prompts": "forged"}', b'{"prompts": [1, "forged"]}', b'{"prompts": ["forged"], "grant": "mine"}', b'{"prompts": ["forged"], "url": "http://127.0.0.1/"}',
          b'{"prompts": ["forged"], "model": 7}', b'[' * 100_000, b'{"prompts": ["forged\ud800"]', b'\xff\xfe')
write(*[(number, body) for body in bodies])
say('written')
""",
        "written",
        "killed",
        "ended",
    ),
    _call(
        "for a cell that has ended",
        _OWN_NUMBER + "\nstale = own_number()\nsay('known' if type(stale) is int else 'unknown')",
        "known",
        "written",
        "killed",
        "ended",
        then=_WRITE
        + """
write((stale, b'{"prompts": ["forged"], "model": null, "schema": null}'), (stale + 7, b'{"prompts": ["forged"], "model": null, "schema": null}'))
say('written')
""",
    ),
)
