"""Ways out: every family of sockets, names, addresses, the host's sockets, other sandboxes."""

from tests.escape.case import REFUSED, SHUT, Case, words

_SHUT = REFUSED | {"EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT"}
_STREAM, _DATAGRAM, _RAW, _SEQPACKET = 1, 2, 3, 5
_FAMILIES = {
    "IPv4": (2, (_STREAM, _DATAGRAM, _RAW)),
    "IPv6": (10, (_STREAM, _DATAGRAM, _RAW)),
    "packet": (17, (_DATAGRAM, _RAW)),
    "netlink": (16, (_DATAGRAM, _RAW)),
    "vsock": (40, (_STREAM, _DATAGRAM)),
    "alg": (38, (_SEQPACKET,)),
    "xdp": (44, (_RAW,)),
    "bluetooth": (31, (_RAW, _SEQPACKET)),
    "can": (29, (_RAW, _DATAGRAM)),
    "key": (15, (_RAW,)),
    "tipc, rds, smc, kcm, qipcrtr": (30, (_STREAM, _SEQPACKET)),
    "unix": (1, (_STREAM, _DATAGRAM, _SEQPACKET)),
}


def _family(name: str, family: int, kinds: tuple[int, ...]) -> Case:
    families = (30, 21, 43, 41, 42) if family == 30 else (family,)
    code = f"for family in {families}:\n    for kind in {kinds}:\n        for protocol in (0, 1, 6, 15, 58):\n"
    return Case(
        name=f"open a socket: {name}",
        code=f"import socket\n{code}            say(attempt(socket.socket, family, kind, protocol))",
        held=_SHUT | {"EINVAL"},
    )


_ASK_ROUTES = """
import socket
for family, addresses in ((socket.AF_INET, {v4}), (socket.AF_INET6, {v6})):
    for address in addresses:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as question: question.connect((address, 9))
        except OSError as error: say(_e.errorcode[error.errno])
        else: say('reachable:' + address)
"""


def _routes(name: str, v4: tuple[str, ...], v6: tuple[str, ...]) -> Case:
    return Case(name=name, code=_ASK_ROUTES.format(v4=v4, v6=v6), held=_SHUT | {"ENETUNREACH", "EHOSTUNREACH"})


CASES = (
    *(_family(name, family, kinds) for name, (family, kinds) in _FAMILIES.items()),
    _routes(
        "have a route to metadata services", ("169.254.169.254", "169.254.170.2", "100.100.100.200"), ("fd00:ec2::254",)
    ),
    _routes("have a route to the public network", ("1.1.1.1", "8.8.8.8"), ("2606:4700:4700::1111",)),
    _routes(
        "have a route to private networks",
        ("10.0.0.1", "172.17.0.1", "192.168.0.1", "169.254.213.1"),
        ("fc00::1", "fe80::1"),
    ),
    _routes("have a route to this machine", ("127.0.0.1", "127.0.0.53"), ("::1",)),
    Case(
        name="reach a listener on the host's loopback",
        code="""
import socket, http.client, urllib.request
say(attempt(socket.create_connection, ('127.0.0.1', port), 2),
    attempt(socket.create_connection, ('::1', port), 2))
http_ = http.client.HTTPConnection('127.0.0.1', port, timeout=2)
say(attempt(http_.request, 'GET', '/'), attempt(urllib.request.urlopen, f'http://127.0.0.1:{port}/', None, 2))
""",
        held=_SHUT | {"URLError"},
    ),
    Case(
        name="reach a listener at any address of this machine",
        code="""
import socket
for address in addresses:
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    say(attempt(lambda: socket.socket(family).connect((address, port))), attempt(socket.create_connection, (address, port), 2))
""",
        held=_SHUT,
    ),
    Case(
        name="reach a listener by asyncio",
        code="""
import asyncio
async def go():
    await asyncio.open_connection('127.0.0.1', port)
say(attempt(asyncio.run, go()))
""",
        held=_SHUT,
    ),
    Case(
        name="ask for a name",
        code="""
import socket
say(attempt(socket.getaddrinfo, 'localhost', port), attempt(socket.gethostbyname, 'gateway.internal'))
""",
        held=_SHUT | {"gaierror", "EBUSY", "unknown"},
        but={},
    ),
    Case(
        name="dial the host's sockets itself",
        code="""
import socket
for path in ('/rlm/session/sandbox.sock', '/rlm/session/gateway.sock', session + '/sandbox.sock', session + '/gateway.sock', unix_listener, neighbour + "/sandbox.sock", neighbour + "/gateway.sock"):
    say(attempt(lambda: socket.socket(socket.AF_UNIX).connect(path)))
""",
        held=_SHUT,
    ),
    Case(
        name="dial an abstract socket",
        code=r"""
import socket
say(attempt(lambda: socket.socket(socket.AF_UNIX).connect('\0' + abstract_listener)))
pair, _ = socket.socketpair()
say(attempt(pair.connect, '\0' + abstract_listener))
""",
        held=_SHUT,
    ),
    Case(
        name="turn a pair of sockets into a way out",
        code=r"""
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    for path in ('/rlm/session/sandbox.sock', unix_listener, '\0' + abstract_listener):
        say(attempt(near.connect, path), attempt(near.bind, tmp + '/mine'), attempt(near.listen), attempt(near.accept))
        say(attempt(near.sendto, b'x', path), attempt(near.sendmsg, [b'x'], [], 0, path))
    near.close(); far.close()
""",
        held=_SHUT | {"EISCONN", "EINVAL", "EOPNOTSUPP"},
    ),
    Case(
        name="send from a datagram pair to any path",
        code="""
import socket
say(attempt(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM))
""",
        held=_SHUT,
    ),
    Case(
        name="connect over an inherited descriptor",
        code=r"""
import socket, stat
say('EPERM')
for n in range(3, 256):
    try:
        if not stat.S_ISSOCK(os.fstat(n).st_mode): continue
    except OSError: continue
    held = socket.socket(fileno=os.dup(n))
    say(attempt(held.connect, '/rlm/session/sandbox.sock'), attempt(held.listen, 1), attempt(held.accept))
    say(attempt(held.sendmsg, [b''], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b'\0\0\0\0')]))
    held.close()
""",
        held=_SHUT | {"EISCONN", "EINVAL"},
    ),
    Case(
        name="listen for somebody",
        code="""
import socket, socketserver, asyncio
say(attempt(socket.create_server, ('0.0.0.0', 0)), attempt(socketserver.UnixStreamServer, tmp + '/here', None))
async def serve(): await asyncio.start_unix_server(print, tmp + '/there')
say(attempt(asyncio.run, serve()))
""",
        held=_SHUT,
    ),
    Case(
        name="see a network device",
        code="""
import socket
seen = open('/proc/net/dev').read().splitlines()[2:] if os.path.exists('/proc/net/dev') else []
say('lo', *[line.split(':')[0].strip() for line in seen])
""",
        held=words("lo"),
        but={"process-landlock": words("lo", "raised:PermissionError")},
    ),
    Case(
        name="see what else talks on this machine",
        code="""
for name in ('tcp', 'tcp6', 'udp', 'unix', 'arp', 'route', 'fib_trie', 'if_inet6'):
    try: lines = open('/proc/net/' + name).read()
    except OSError as error: say(_e.errorcode[error.errno]); continue
    say('told:' + name if format(port, '04X') in lines or abstract_listener in lines or unix_listener in lines else 'nothing')
""",
        held=SHUT | {"nothing"},
        but={"process-landlock": SHUT},
    ),
    Case(
        name="pass a descriptor to another process",
        code="""
import socket
near, far = socket.socketpair()
say(attempt(socket.send_fds, near, [b'x'], [0]))
""",
        held=_SHUT,
    ),
    Case(
        name="use the other numbers of socket calls",
        code="""
import platform
numbers = {'x86_64': (41, 42, 49, 50, 43, 288, 299, 307), 'aarch64': (198, 203, 200, 201, 202, 242, 243, 269)}[platform.machine()]
say(*[call(number, 2, 1, 0, 0, 0, 0) for number in numbers])
""",
        held=_SHUT,
    ),
)
