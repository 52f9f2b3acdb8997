"""The grant, the dial secret, and posing as somebody else. The kernel holds no credential: there is none to find."""

from tests.escape.case import LANDLOCK, SHUT, Case, Harm, words

# A decoy is planted where each search looks, and told from a grant by its repetition: one that does not find it is blind.
_SEARCH = """
import re
found = set()
def search(text): found.update(re.findall(GRANT_PATTERN, text))
def decoy(pair): return 'grant-' + pair * 16
def is_decoy(text): return text == decoy(text[-2:])
def tell(*planted):
    if not all(map(is_decoy, found)): say('found')
    else: say('nothing' if found >= set(planted) else 'blind')
"""

CASES = (
    Case(
        name="find the grant among all objects",
        code=_SEARCH
        + """
import gc
planted = {'here': [decoy('ab')]}
seen = set(); waiting = gc.get_objects()
while waiting:
    value = waiting.pop()
    if id(value) in seen: continue
    seen.add(id(value))
    if isinstance(value, str): search(value)
    elif isinstance(value, (bytes, bytearray)): search(value.decode('latin-1'))
    elif len(seen) < 400_000: waiting.extend(gc.get_referents(value))
tell(planted['here'][0])
""",
        held=words("nothing"),
        is_heavy=True,
    ),
    Case(
        name="find the grant in frames and closures",
        code=_SEARCH
        + """
def hold(planted): return lambda: planted
def climb(planted):
    frame = sys._getframe()
    while frame is not None:
        for name, value in [*frame.f_locals.items()]: search(repr(value)[:100_000])
        frame = frame.f_back
climb(decoy('cd'))
for f in (hold(decoy('ef')), llm_query, rlm_query, llm_query_batched, budget, FINAL, SUBMIT):
    for cell in f.__closure__ or ():
        held = getattr(cell.cell_contents, '__dict__', {})
        for value in (cell.cell_contents, held, *(getattr(value, '__dict__', '') for value in held.values())): search(repr(value))
tell(decoy('cd'), decoy('ef'))
""",
        held=words("nothing"),
    ),
    Case(
        name="find the grant in all of its own memory",
        code=_SEARCH
        + """
planted = decoy('0a').encode()
for line in open('/proc/self/maps').read().splitlines():
    words_ = line.split(); start, end = (int(x, 16) for x in words_[0].split('-'))
    if not words_[1].startswith('r') or '[v' in line or '/contexts/' in line or end - start > 64 << 20: continue
    for match in re.findall(GRANT_PATTERN.encode(), _c.string_at(start, end - start)): search(match.decode())
tell(planted.decode())
""",
        held=words("nothing"),
        absent=frozenset({LANDLOCK}),  # nothing in there may look at /proc
        is_heavy=True,
    ),
    Case(
        name="find the grant in the environment and arguments",
        code="""
import re
text = repr(os.environ) + repr(sys.argv) + repr(sys.orig_argv)
for name in ('environ', 'cmdline'):
    for pid in ('self', '1', str(os.getppid())):
        try: text += open(f'/proc/{pid}/{name}').read()
        except OSError: pass
say('found' if re.search(GRANT_PATTERN, text) else 'nothing')
""",
        held=words("nothing"),
    ),
    Case(
        name="find a way to the gateway among its descriptors",
        code="""
import stat
kinds = []
for n in range(0, 256):
    try: mode = os.fstat(n).st_mode
    except OSError: continue
    kinds.append('socket' if stat.S_ISSOCK(mode) else 'pipe' if stat.S_ISFIFO(mode) else 'null' if stat.S_ISCHR(mode) else 'file')
say('own' if kinds.count('socket') <= 2 and 'file' not in kinds else '+'.join(kinds))
""",
        held=words("own"),
        harm=Harm.SANDBOX,
    ),
    Case(
        name="find names of the host in its environment",
        code="say(*sorted(os.environ))",
        held=words("HOME", "LANG", "PYTHONUTF8", "TMPDIR"),
        harm=Harm.KERNEL,
    ),
    Case(
        name="replace what the kernel is made of",
        code="""
import sandbox_image, hmac, builtins
say('done')
for name, module in list(sys.modules.items()):
    if name.startswith('sandbox_image') and module:
        for key, value in list(vars(module).items()):
            if callable(value) and not key.startswith('__'):
                try: setattr(module, key, lambda *a, **k: 'forged')
                except Exception: pass
""",
        held=words("done", "killed"),
        then="say('answers')",
        takes_next=True,  # what it is made of is what would have answered
        harm=Harm.SANDBOX,
    ),
    Case(
        name="replace builtins for the service's words",
        code="""
import builtins, json
say('done')
builtins.print_ = print
json.loads = json.dumps = lambda *a, **k: {'status': 'ok', 'answer': 'forged'}
for name in ('len', 'isinstance', 'type', 'repr', 'sorted'): setattr(builtins, name, lambda *a, **k: 0)
""",
        held=words("done", "killed", "raised:TypeError", "raised:unknown"),
        harm=Harm.SANDBOX,
    ),
    Case(
        name="keep a replaced llm_query for the next cell",
        code="""
globals()['llm_query'] = lambda *a: 'forged'
globals()['FINAL'] = print
say('done')
""",
        held=words("done"),
        then_held=words("restored"),
        then="say('restored' if llm_query.__class__.__name__ != 'function' or llm_query.__name__ != '<lambda>' else 'forged')",
        harm=Harm.KERNEL,
    ),
    Case(
        name="ask for the attributes of the gateway's socket",
        code="for top in ('/rlm/session', session): say(attempt(os.getxattr, top + '/gateway.sock', 'user.x'), attempt(os.setxattr, top + '/gateway.sock', 'user.x', b'1'))",
        held=SHUT | {"ENODATA", "EOPNOTSUPP"},
    ),
)
