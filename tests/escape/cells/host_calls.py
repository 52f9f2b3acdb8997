"""The one door that a cell may knock at: too much, too large, too odd, too late. What came through it is a row of its
own (`column`): every call bears the grant of its session, and none that says `forged` arrives."""

from tests.escape.case import Case, Harm, words

# A kernel's own socket for calls, and no other: on `cells` any such frame ends it before the call is looked at.
FORGE = """
from concurrent.futures import Future
from sandbox_image.frames import encode_frame
channel = llm_query.__closure__[0].cell_contents._channel
llm_query('x')
def forge(body=b'{"prompts": ["forged"], "model": null, "schema": null}', **header):
    number = 10_000 + len(_said); reply = channel._waiting[number] = Future()
    head = {'do': 'call', 'id': number, 'cell': channel.open_cell, 'function': 'llm_query', **header}
    channel._connection.sendall(encode_frame(head, body))
    item, = reply.result(20)
    say('answered' if item['ok'] else item['kind'])
"""


def _call(
    name: str, code: str, *held: str, then: str = "say('answers')", then_held: str = "answers", is_heavy: bool = False
) -> Case:
    return Case(
        name=f"host call: {name}",
        code=code,
        held=words(*held),
        then=then,
        then_held=words(then_held),
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
        "a schema of a million values",
        "say('sent' if llm_query('x', None, {'enum': list(range(1_000_000))}).ok else 'refused')",
        "refused",
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
        "forged as an honest one",
        FORGE + """forge(b'{"prompts": ["own"], "model": null, "schema": null}')""",
        "answered",  # a kernel may ask whatever its cell may: the forger at work, without which `refused` means nothing
    ),
    _call(
        "of functions that there are not",
        FORGE + "for function in ('shutdown', 'eval', '', 7, None, ['llm_query']): forge(function=function)",
        "refused",
    ),
    _call(
        "with arguments that are none",
        FORGE
        + r"""
for body in (b'', b'[]', b'{}', b'null', b'NaN', b'{"prompts": "forged"}', b'{"prompts": [1, "forged"]}', b'{"prompts": ["forged"]}',
             b'{"prompts": ["forged"], "model": null, "schema": null, "grant": "mine"}', b'{"prompts": ["forged"], "model": 7, "schema": null}',
             b'{"prompts": ["forged"], "model": null, "schema": null, "url": "http://127.0.0.1/"}', b'{"prompts": ["forged\\ud800"]',
             b'{"prompts": ["forged"], "model": null, "schema": {"x": NaN}}', b'[' * 90_000, b'\xff\xfe'): forge(body)
""",
        "refused",
        "too_long",  # the brackets
    ),
    _call(
        "of more values than there may be",
        FORGE + "forge(b'{\"prompts\": [\"forged\"' + b',1' * 20_000_000 + b']}')",
        "too_long",
    ),
    _call(
        "of another cell",
        FORGE
        + "for cell in (channel.open_cell + 1, channel.open_cell + 7, 0, -1, None, str(channel.open_cell)): forge(cell=cell)",
        "refused",
    ),
    _call(
        "for a cell that has ended",
        FORGE + "stale = channel.open_cell\nsay('known' if type(stale) is int else 'unknown')",
        "known",
        then=FORGE + "forge(cell=stale); forge(cell=stale + 7)",
        then_held="refused",
    ),
    _call(
        "under another grant",
        FORGE
        + """forge(b'{"prompts": ["own"], "model": null, "schema": null}', grant='grant-' + '0' * 32, authorization='x')""",
        "answered",  # under its own: what came through is a row of its own
    ),
)
