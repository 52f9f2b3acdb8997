"""Devices, and the files by which Linux is told what to do. Asked by `stat` or by opening for writing, which writes
nothing; none is read."""

from service.sandboxes.probe import GVISOR_BUILD
from tests.escape.case import ABSENT, LANDLOCK, RUNSC, SHUT, Case, words

_VISIBLE_BUT_SHUT = {LANDLOCK: ABSENT | {"done"}}


def _write(*paths: str) -> str:
    return f"for path in {list(paths)!r}: say(attempt(os.open, path, os.O_WRONLY))"


CASES = (
    Case(
        name="ask whose kernel it runs on",
        code=f"say('gvisor' if os.uname().version == {GVISOR_BUILD!r} else 'linux')",
        # That a runtime bears gVisor's name says nothing: its kernel does.
        held=words("linux"),
        but={RUNSC: words("gvisor")},
    ),
    Case(
        name="make a device",
        code="""
import stat
for kind, major, minor in ((stat.S_IFCHR, 1, 1), (stat.S_IFBLK, 8, 0), (stat.S_IFBLK, 7, 0), (stat.S_IFCHR, 10, 229)):
    say(attempt(os.mknod, tmp + f'/device-{major}-{minor}', kind | 0o666, os.makedev(major, minor)))
""",
        held=SHUT,
    ),
    Case(name="make a fifo by mknod", code="say(attempt(os.mkfifo, tmp + '/fifo'))", held=SHUT),
    Case(
        name="find the machine's memory and disks",
        code="""
for name in ('mem', 'kmem', 'port', 'kmsg', 'sda', 'vda', 'nvme0n1', 'loop0', 'loop-control', 'dm-0', 'mapper/control'):
    say(attempt(os.stat, '/dev/' + name))
""",
        held=ABSENT,
        but=_VISIBLE_BUT_SHUT,
    ),
    Case(
        name="find devices that make kernels, networks and file systems",
        code="""
for name in ('kvm', 'vhost-vsock', 'vsock', 'net/tun', 'fuse', 'userfaultfd', 'uinput', 'dri', 'vfio/vfio', 'hwrng', 'rtc0', 'watchdog'):
    say(attempt(os.stat, '/dev/' + name))
""",
        held=ABSENT,
        # gVisor lists devices of its own, which the next row tries to open.
        but={**_VISIBLE_BUT_SHUT, RUNSC: ABSENT | {"done"}},
    ),
    Case(
        name="find a terminal",
        code="""
for name in ('tty', 'console', 'tty0', 'ttyS0', 'vcs', 'pts/0', 'input/event0'): say(attempt(os.open, '/dev/' + name, os.O_RDWR))
say(attempt(os.ttyname, 0), attempt(os.ttyname, 1))
""",
        # A process without a terminal has none to open; a pair of a container's own leads nowhere.
        held=SHUT | {"ENXIO", "ENOTTY", "ENODEV", "EIO"},
    ),
    Case(
        name="use the devices that are there",
        code="""
import fcntl
for name in ('net/tun', 'fuse', 'kvm', 'vsock'):
    try: device = os.open('/dev/' + name, os.O_RDWR)
    except OSError as error: say(_e.errorcode[error.errno]); continue
    for request in (0x400454CA, 0x4004AE00, 0x8004E500): say(attempt(fcntl.ioctl, device, request, bytes(40)))
""",
        held=SHUT,
        but={RUNSC: SHUT | {"ENOTTY"}},  # gVisor's own; no request but those for terminals and pipes reaches them
    ),
    Case(
        name="name a program that Linux runs at a crash",
        code=_write(
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/kernel/hotplug",
            "/sys/kernel/uevent_helper",
            "/proc/sys/kernel/usermodehelper/bset",
        ),
        held=SHUT,
    ),
    Case(
        name="register a format of programs",
        code=_write("/proc/sys/fs/binfmt_misc/register", "/proc/sys/fs/binfmt_misc/status"),
        held=SHUT,
    ),
    Case(
        name="press the magic key",
        code=_write("/proc/sysrq-trigger", "/proc/sys/kernel/sysrq"),
        held=SHUT,
    ),
    Case(
        name="name a program that Linux runs when a cgroup empties",
        code="""
import glob
found = glob.glob('/sys/fs/cgroup/*/release_agent') + glob.glob('/sys/fs/cgroup/*/*/release_agent')
say(*[attempt(os.open, path, os.O_WRONLY) for path in found + ['/sys/fs/cgroup/release_agent', '/sys/fs/cgroup/memory/release_agent']])
""",
        held=SHUT,
    ),
    Case(
        name="loosen its own cgroup",
        code="""
import glob
found = [p for n in ('memory.limit_in_bytes', 'memory.max', 'pids.max', 'cpu.cfs_quota_us', 'cpu.max', 'cgroup.procs', 'tasks', 'notify_on_release')
         for p in glob.glob('/sys/fs/cgroup/' + n) + glob.glob('/sys/fs/cgroup/*/' + n)]
say('EACCES', *[attempt(os.open, path, os.O_WRONLY) for path in found])
""",
        held=SHUT,
    ),
    Case(
        name="turn the machine's own knobs",
        code=_write(
            "/proc/sys/vm/overcommit_memory",
            "/proc/sys/vm/drop_caches",
            "/proc/sys/kernel/pid_max",
            "/proc/sys/kernel/hostname",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/kernel/ns_last_pid",
            "/proc/sys/kernel/randomize_va_space",
            "/proc/sys/fs/file-max",
        ),
        held=SHUT,
    ),
    Case(
        name="open the image of Linux and its symbols",
        code="""
for path in ('/proc/kcore', '/proc/kallsyms', '/proc/kmsg', '/proc/keys', '/proc/timer_list', '/proc/sched_debug', '/proc/config.gz', '/proc/modules',
             '/proc/kpagecount', '/proc/kpageflags', '/proc/vmallocinfo', '/proc/slabinfo', '/proc/iomem', '/proc/ioports'):
    try: empty = os.fstat(os.open(path, os.O_RDONLY)).st_rdev == os.makedev(1, 3)
    except OSError as error: say(_e.errorcode[error.errno])
    else: say('ENOENT' if empty else 'open:' + path)
""",
        held=SHUT,
    ),
    Case(
        name="see the machine's disks, modules, symbols and load",
        code="""
for path in ('/sys/block', '/sys/module', '/sys/kernel', '/sys/class', '/sys/devices', '/sys/bus', '/sys/fs', '/proc/pressure'):
    try: say('open:' + path if os.listdir(path) else 'ENOENT')
    except OSError as error: say(_e.errorcode[error.errno])
""",
        held=SHUT,
        # gVisor's own, which tell of nothing outside.
        but={RUNSC: SHUT | {"open:/sys/class", "open:/sys/devices", "open:/sys/fs"}},
    ),
    Case(
        name="see the machine's firmware and debugging",
        code="""
for path in ('/sys/firmware/efi', '/sys/kernel/debug/tracing', '/sys/kernel/tracing/trace', '/sys/kernel/security/apparmor', '/proc/acpi/wakeup', '/proc/scsi/scsi'):
    say(attempt(os.open, path, os.O_RDONLY))
""",
        held=SHUT,
    ),
)
