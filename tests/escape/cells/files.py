"""Files of the host, of the image, of the session."""

from tests.escape.case import ABSENT, LANDLOCK, PROCESS, RUNC, RUNSC, SHUT, Case, Harm, words

_VISIBLE_BUT_SHUT = {LANDLOCK: ABSENT | {"done"}}
"""Landlock hides no path from `stat`; what stands there cannot be opened (docs/limitations.md)."""

CASES = (
    Case(name="read a file of the host", code="say(attempt(open, bait))", held=SHUT),
    Case(name="write a file of the host", code="say(attempt(open, bait, 'w'), attempt(open, bait, 'r+'))", held=SHUT),
    Case(
        name="remove a file of the host",
        code="say(attempt(os.unlink, bait), attempt(os.rename, bait, tmp + '/x'))",
        held=SHUT,
    ),
    Case(name="list a directory of the host", code="say(attempt(os.listdir, os.path.dirname(bait)))", held=SHUT),
    Case(name="stat a file of the host", code="say(attempt(os.stat, bait))", held=ABSENT, but=_VISIBLE_BUT_SHUT),
    Case(name="link to a file of the host", code="say(attempt(os.link, bait, 'stolen'))", held=SHUT),
    Case(
        name="follow a link to a file of the host",
        code="""
os.symlink(bait, 'way')
try: say(attempt(open, 'way'), attempt(open, 'way', 'w'))
finally: os.unlink('way')
""",
        held=SHUT,
    ),
    Case(
        name="climb out of the root with ..",
        code="""
say(attempt(os.open, '/' + '../' * 40 + bait.lstrip('/'), os.O_RDONLY))
here = os.open(tmp, os.O_PATH)
say(attempt(lambda: os.open('../' * 40 + bait.lstrip('/'), 0, dir_fd=here)))
""",
        held=SHUT,
    ),
    Case(
        name="climb out by the root of another process",
        code="""
for pid in ('1', 'self', str(os.getppid())):
    for way in ('root', 'cwd'): say(attempt(os.open, f'/proc/{pid}/{way}' + '/..' * 30 + bait, os.O_RDONLY))
""",
        held=SHUT,
    ),
    Case(
        name="find a file of the host anywhere",
        code="""
sought = {os.path.basename(bait), 'bait.sock'}
say('nowhere')
for root, below, names in os.walk('/'):
    below[:] = [name for name in below if os.path.join(root, name) not in ('/proc', '/sys')]
    if sought & {*names, *below}: say('found:' + root)
""",
        held=words("nowhere"),
        absent=frozenset({LANDLOCK}),
    ),
    Case(
        name="see the accounts of the system",
        code="say(attempt(os.stat, '/etc/passwd'))",
        held=ABSENT,
        but=_VISIBLE_BUT_SHUT,
    ),
    Case(
        name="see the socket of a container engine",
        code="""
for path in ('/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock', engine_socket,
             '/run/podman/podman.sock', '/var/run/crio/crio.sock', launcher_socket): say(attempt(os.stat, path))
""",
        held=ABSENT,
        but=_VISIBLE_BUT_SHUT,
    ),
    Case(
        name="see the store's socket and files",
        code="say(attempt(os.stat, store_directory), attempt(os.listdir, store_directory))",
        held=ABSENT,
        but=_VISIBLE_BUT_SHUT,
    ),
    Case(
        name="see the service's own code",
        code="say(attempt(os.stat, checkout), attempt(__import__, 'service'), attempt(__import__, 'pytest'))",
        held=ABSENT | {"ModuleNotFoundError"},
        but={LANDLOCK: ABSENT | {"ModuleNotFoundError", "done"}},
    ),
    Case(
        name="write anywhere but in its own places",
        code="""
places = ['/', '/etc', '/usr', '/usr/lib', '/rlm', '/rlm/image', '/rlm/session', '/proc', '/sys', '/dev', '/var', '/run',
          os.path.dirname(os.__file__), os.path.dirname(sys.executable or '/x/y'), session]
for place in places: say(attempt(open, place + '/planted', 'w'), attempt(os.mkdir, place + '/planted.d'))
""",
        held=SHUT,
    ),
    Case(
        name="overwrite the image or the standard library",
        code="""
import json, sandbox_image.kernel as k
for module in (json, k, os): say(attempt(open, module.__file__, 'r+'), attempt(os.unlink, module.__file__))
""",
        held=SHUT,
    ),
    Case(
        name="write to its session directory",
        code="""
for top in ('/rlm/session', '/rlm/session/contexts', session, session + '/contexts'):
    say(attempt(os.mkdir, top + '/planted'), attempt(os.open, top + '/planted', os.O_CREAT | os.O_WRONLY))
""",
        # Refused for being read-only, before anybody asks whose it is.
        held=words("EROFS", "ENOENT"),
        but={LANDLOCK: SHUT, RUNSC: words("EROFS", "ENOENT", "EACCES")},  # gVisor asks that first
    ),
    Case(
        name="plant a module that the next interpreter imports",
        code="""
import site, sysconfig
for place in [p for p in sys.path if p] + [sysconfig.get_path('purelib')]:
    for name in ('sitecustomize.py', 'usercustomize.py', 'evil.pth', 'json.py'):
        say(attempt(open, os.path.join(place, name), 'w'))
""",
        held=SHUT,
    ),
    Case(
        name="leave a module to the next interpreter in its own place",
        code="""
for name in ('json', 'sitecustomize', 'usercustomize', 'planted', 'struct'):
    for path in (f'{tmp}/{name}.py', f'{name}.py'):
        with open(path, 'w') as file: file.write("import builtins; builtins.planted = 7\\n")
os.makedirs(tmp + '/.local/lib', exist_ok=True)
sys.path.insert(0, tmp); sys.modules['json'] = sys.modules['struct'] = None; os.environ['PYTHONPATH'] = tmp
os._exit(0)
""",
        held=words("killed"),
        then_held=words("clean", "ModuleNotFoundError"),
        then="import json, struct, builtins; say(attempt(__import__, 'planted'), 'planted' if hasattr(builtins, 'planted') or tmp in sys.path or '' in sys.path else 'clean')",
        harm=Harm.SANDBOX,
    ),
    Case(
        name="find a foreign .pth beside the interpreter",
        code="""
import sysconfig
places = {sysconfig.get_path(n) for n in ('purelib', 'platlib', 'stdlib')} | set(sys.path)
say('none')
for place in places:
    try: say(*[n for n in os.listdir(place) if n.endswith('.pth')])
    except OSError: pass
""",
        held=words("none"),
        absent=frozenset(
            {LANDLOCK}
        ),  # the machine's own directory of packages is readable there, and never on the path
    ),
    Case(
        name="find a program with more rights than its caller",
        code="""
import stat
say('none')
for top in ('/bin', '/sbin', '/usr/bin', '/usr/sbin', '/usr/lib', '/lib', '/rlm', '/opt', '/usr/local'):
    for root, _, names in os.walk(top):
        for name in names:
            try: mode = os.lstat(os.path.join(root, name)).st_mode
            except OSError: continue
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID): say(name)
""",
        held=words("none"),
        absent=frozenset({LANDLOCK}),  # the machine's programs stand there and cannot be executed
    ),
    Case(
        name="find a compiler, a shell or a downloader",
        code="""
say('none')
for name in ('gcc', 'cc', 'ld', 'as', 'tcc', 'clang', 'make', 'sh', 'bash', 'busybox', 'curl', 'wget', 'nc', 'perl', 'pip', 'apt'):
    for place in ('/bin', '/sbin', '/usr/bin', '/usr/sbin', '/usr/local/bin', '/rlm'):
        if os.path.lexists(place + '/' + name): say(name)
""",
        held=words("none"),
        absent=frozenset({LANDLOCK}),
    ),
    Case(
        name="change what is in the session directory",
        code="""
for name in ('sandbox.sock', 'gateway.sock', 'contexts', 'contexts/bound.0'):
    for top in ('/rlm/session', session):
        path = f'{top}/{name}'
        say(attempt(os.unlink, path), attempt(os.rename, path, path + 'x'), attempt(os.chmod, path, 0o777),
            attempt(os.utime, path), attempt(os.chown, path, os.getuid(), os.getgid()), attempt(os.truncate, path, 0))
""",
        held=SHUT | {"EINVAL", "EISDIR", "EXDEV", "ENXIO"},
    ),
    Case(
        name="plant a link in the session directory",
        code="""
for top in ('/rlm/session', session, '/rlm/session/contexts'):
    say(attempt(os.symlink, '/etc', top + '/way'), attempt(os.link, '/rlm/session/contexts/bound.0', top + '/again'))
""",
        held=SHUT,
    ),
    Case(
        name="link a context into its own directory",
        code="for top in ('/rlm/session', session): say(attempt(os.link, top + '/contexts/bound.0', tmp + '/mine'))",
        held=SHUT,
    ),
    Case(
        name="open a context for writing",
        code="""
for top in ('/rlm/session', session):
    path = top + '/contexts/bound.0'
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND): say(attempt(os.open, path, flags))
say(attempt(os.open, '/proc/self/map_files', os.O_RDONLY | os.O_DIRECTORY))
""",
        held=SHUT,
        # A directory whose entries only CAP_CHECKPOINT_RESTORE follows; opening it shows nothing.
        but={RUNC: SHUT | {"done"}, PROCESS: SHUT | {"done"}},
    ),
    Case(
        name="write through the mapping of a context",
        code="""
at = _c.c_ssize_t.from_address(id(bound) + str.__basicsize__ - 8).value
assert _c.string_at(at, 5) == b'begin'
_c.memset(at, 120, 5)
say('written')
""",
        held=words("killed"),
        then_held=words("intact"),
        harm=Harm.KERNEL,
        then="say('intact' if open(CONTEXT, 'rb').read(5) == b'begin' else 'changed')",
    ),
    Case(
        name="make the mapping of a context writable",
        code="""
at = _c.c_ssize_t.from_address(id(bound) + str.__basicsize__ - 8).value
assert _c.string_at(at, 5) == b'begin'
_libc.mprotect(_c.c_void_p(at), _c.c_size_t(4096), 3)
_c.memset(at, 120, 5)
say('private')
""",
        held=words("killed", "private"),
        then_held=words("intact"),
        harm=Harm.KERNEL,
        then="say('intact' if open(CONTEXT, 'rb').read(5) == b'begin' else 'changed')",
    ),
    Case(
        name="map a context shared and writable",
        code="""
import mmap
file = os.open(CONTEXT, os.O_RDONLY)
say(attempt(mmap.mmap, file, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
    attempt(mmap.mmap, file, 4096, mmap.MAP_SHARED, mmap.PROT_READ))
""",
        held=SHUT,
    ),
    Case(
        name="open a context once more by a descriptor of it",
        code="""
file = os.open(CONTEXT, os.O_RDONLY)
for way in (f'/proc/self/fd/{file}', f'/dev/fd/{file}'): say(attempt(os.open, way, os.O_RDWR), attempt(os.truncate, way, 0))
""",
        held=SHUT,
    ),
    Case(
        name="write to the mapping of a context by the memory file of itself",
        code="""
at = _c.c_ssize_t.from_address(id(bound) + str.__basicsize__ - 8).value
assert _c.string_at(at, 5) == b'begin'
try: memory = os.open('/proc/self/mem', os.O_RDWR)
except OSError as error: say(_e.errorcode[error.errno])
else: os.pwrite(memory, b'xxxxx', at); say('private')
""",
        held=SHUT | {"private"},
        then_held=words("intact"),
        harm=Harm.KERNEL,
        then="say('intact' if open(CONTEXT, 'rb').read(5) == b'begin' else 'changed')",
    ),
    Case(
        name="have Linux throw away the pages of a context",
        code="""
at = _c.c_ssize_t.from_address(id(bound) + str.__basicsize__ - 8).value
for advice in (4, 8, 9, 18, 21, 22, 24):
    _c.set_errno(0); _libc.madvise(_c.c_void_p(at & ~4095), _c.c_size_t(4096), advice)
file = os.open(CONTEXT, os.O_RDONLY)
for advice in range(6): attempt(os.posix_fadvise, file, 0, 0, advice)
say('advised')
""",
        held=words("advised"),
        then_held=words("intact"),
        harm=Harm.KERNEL,
        then="say('intact' if open(CONTEXT, 'rb').read(5) == b'begin' else 'changed')",
    ),
    Case(
        name="copy into a context by calls that take two files",
        code="""
source = os.open(tmp + '/source', os.O_RDWR | os.O_CREAT); os.write(source, b'x' * 100)
file = os.open(CONTEXT, os.O_RDONLY); read, write = os.pipe(); os.write(write, b'x')
say(attempt(os.copy_file_range, source, file, 10, 0, 0), attempt(os.sendfile, file, source, 0, 10), attempt(os.splice, read, file, 1))
""",
        held=SHUT | {"EBADF", "EINVAL"},
    ),
    Case(
        name="punch a hole into a context",
        code="""
file = os.open(CONTEXT, os.O_RDONLY)
say(attempt(os.ftruncate, file, 0), attempt(os.posix_fallocate, file, 0, 10), attempt(os.write, file, b'x'))
""",
        held=SHUT | {"EBADF", "EINVAL"},
    ),
    Case(
        name="lock a context for everybody else",
        code="""
import fcntl
locked = os.open(CONTEXT, os.O_RDONLY)
say('locked' if attempt(fcntl.flock, locked, fcntl.LOCK_EX | fcntl.LOCK_NB) == 'done' else 'free')
say(attempt(fcntl.lockf, locked, fcntl.LOCK_EX | fcntl.LOCK_NB))
""",
        # Of no use: nobody of ours asks for a lock on a context. While this one is held the sandbox next door is
        # given the same file, and reads it.
        held=words("locked", "EBADF"),
    ),
    Case(
        name="see another sandbox's session directory",
        code="""
top = os.path.dirname(session)
say(attempt(os.listdir, top), attempt(os.stat, neighbour), attempt(os.listdir, neighbour))
""",
        held=ABSENT,
        but=_VISIBLE_BUT_SHUT,
    ),
    Case(
        name="read what an earlier sandbox left in /tmp or /dev/shm",
        code="""
say('clean')
for place in (tmp, '/dev/shm'):
    try: say(*[n for n in os.listdir(place) if 'left-by' in n])
    except OSError: pass
open('left-by-a-sandbox', 'w').close()
""",
        held=words("clean"),
        harm=Harm.SANDBOX,
    ),
    Case(
        name="be given a mount of the host",
        code="""
seen = open('/proc/self/mountinfo').read() if os.path.exists('/proc/self/mountinfo') else ''
writable = [line.split()[4] for line in seen.splitlines() if ' ext4 ' in line or ' overlay ' in line or ' btrfs ' in line or ' xfs ' in line]
rw = [line.split()[4] for line in seen.splitlines() if line.split()[4] in writable and line.split()[5].startswith('rw')]
say('none', *rw)
""",
        held=words("none"),
        absent=frozenset({LANDLOCK}),
        but={RUNSC: words("none", "raised:PermissionError")},
    ),
)
