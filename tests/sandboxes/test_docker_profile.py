"""The container profile, word for word."""

import json
from pathlib import Path
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from sandbox_image import start, supervisor
from sandbox_image.host_calls import MAX_PARALLEL_CALLS
from service.sandboxes.docker_profile import ContainerTemplate, container_profile
from service.sandboxes.docker_provider import _ENDS
from service.sandboxes.docker_seccomp import allowed_calls, seccomp_profile

_MASKED = """
    buddyinfo cmdline config.gz crypto diskstats interrupts iomem ioports kallsyms kcore key-users keys kmsg
    kpagecgroup kpagecount kpageflags locks mdstat modules pagetypeinfo partitions sched_debug schedstat slabinfo
    softirqs swaps timer_list vmallocinfo vmstat zoneinfo pressure acpi latency_stats scsi timer_stats
"""


def template(
    runtime: Literal["runc", "runsc"] = "runc", *, memory_bytes: int = 512 << 20, processes: int = 32
) -> ContainerTemplate:
    return ContainerTemplate(
        sandbox_id="sbx_" + "0" * 32,
        image="rlm-sandbox",
        runtime=runtime,
        uid=910_000_007,
        session=Path("/data/sessions/sbx_1"),
        sessions_label="/data/sessions",
        owner_label="f" * 64,
        memory_bytes=memory_bytes,
        tmp_bytes=32 << 20,
        processes=processes,
        open_files=256,
        file_bytes=16 << 20,
        hash_seed=7,
        deadline_s=1_800_000_000,
    )


def test_the_profile_is_pinned() -> None:
    """Everything that Docker is told; a change here is a change of the security profile."""
    profile = container_profile(template())
    seccomp = f"seccomp={seccomp_profile()}"
    assert profile == {
        "Image": "rlm-sandbox",
        "Entrypoint": ["/rlm/python", "-P", "-s", "-S", "-B", "-m", "sandbox_image"],
        "Cmd": ["--session-directory", "/rlm/session", "--open-files", "256", "--host-patience-s", "5", "--own-uid"],
        "Env": ["PYTHONPATH=/rlm/image:/rlm/packages", "PYTHONHASHSEED=7", "HOME=/tmp"],
        "User": "910000007:910000007",
        "WorkingDir": "/tmp",
        "Hostname": "sandbox",
        "Domainname": "",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "OpenStdin": False,
        "Tty": False,
        "NetworkDisabled": True,
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {
            "rlm.sandbox": "sbx_" + "0" * 32,
            "rlm.sessions": "/data/sessions",
            "rlm.owner": "f" * 64,
            "rlm.uid": "910000007",
            "rlm.deadline": "1800000000",
        },
        "HostConfig": {
            "Runtime": "runc",
            "Privileged": False,
            "CapDrop": ["ALL"],
            "CapAdd": [],
            "SecurityOpt": ["no-new-privileges:true", seccomp],
            "NetworkMode": "none",
            "IpcMode": "none",
            "PidMode": "",
            "CgroupnsMode": "private",
            "UTSMode": "",
            "UsernsMode": "",
            "ReadonlyRootfs": True,
            "MaskedPaths": [*(f"/proc/{name}" for name in _MASKED.split()), "/sys"],
            "ReadonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/proc/asound"],
            "Tmpfs": {
                "/tmp": "rw,noexec,nosuid,nodev,mode=1777,size=33554432,nr_inodes=8192",
                "/dev/shm": "rw,noexec,nosuid,nodev,mode=1777,size=16777216,nr_inodes=4096",
            },
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": "/data/sessions/sbx_1",
                    "Target": "/rlm/session",
                    "ReadOnly": True,
                    "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
                }
            ],
            "Binds": [],
            "Devices": [],
            "Memory": (512 + 32 + 16 + 96) << 20,
            "MemorySwap": (512 + 32 + 16 + 96) << 20,
            "NanoCpus": 1_000_000_000,
            "PidsLimit": 208,
            "OomScoreAdj": 500,
            "Ulimits": [
                {"Name": "nofile", "Soft": 256, "Hard": 256},
                {"Name": "fsize", "Soft": 16 << 20, "Hard": 16 << 20},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "AutoRemove": False,
            "Init": False,
            "PublishAllPorts": False,
        },
    }


def test_gvisor_differs_in_runtime_and_threads_only() -> None:
    """The same profile holds under gVisor, but for the threads that gVisor needs itself."""
    ordinary, guest = container_profile(template("runc")), container_profile(template("runsc"))
    assert (guest["HostConfig"].pop("Runtime"), guest["HostConfig"].pop("PidsLimit")) == ("runsc", 1024)
    del ordinary["HostConfig"]["Runtime"], ordinary["HostConfig"]["PidsLimit"]
    assert guest == ordinary


@given(memory_bytes=st.integers(32 << 20, 1 << 44), processes=st.integers(1, 4096))
def test_no_template_loosens_a_limit(memory_bytes: int, processes: int) -> None:
    """Whatever is asked for, there is no swap, and the kernel's own limit of processes leaves the supervisor those that
    its host calls need."""
    host = container_profile(template(memory_bytes=memory_bytes, processes=processes))["HostConfig"]
    assert host["MemorySwap"] == host["Memory"] > memory_bytes
    assert host["PidsLimit"] >= processes + 96 + MAX_PARALLEL_CALLS + 8


def test_the_image_takes_the_command_line() -> None:
    """What the profile starts is what the image understands, and its exit statuses are explained."""
    line = start.read_command_line(container_profile(template())["Cmd"])
    assert (line.session_directory, line.open_files, line.own_uid, line.unconfined) == (
        "/rlm/session",
        256,
        True,
        False,
    )
    exits = {
        number for module in (start, supervisor) for name, number in vars(module).items() if name.startswith("EXIT_")
    }
    assert exits <= set(_ENDS)


def test_seccomp_refuses_by_default_and_lets_no_way_out() -> None:
    """The list is an allow-list without what escapes are made of; sockets are unix ones, clones make no namespace."""
    profile = json.loads(seccomp_profile())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    never = """
        bpf mount umount2 fsopen fsmount move_mount open_tree mount_setattr pivot_root chroot setns unshare clone clone3
        socket socketpair ptrace process_vm_readv process_vm_writev pidfd_open pidfd_getfd kcmp io_uring_setup
        io_uring_enter io_uring_register keyctl add_key request_key perf_event_open userfaultfd memfd_create
        open_by_handle_at name_to_handle_at init_module finit_module delete_module kexec_load kexec_file_load reboot
        swapon acct quotactl syslog personality mknod mknodat bind listen accept accept4 sched_setaffinity setpriority
    """
    assert not set(never.split()) & set(allowed_calls())
    checked = {name: rule for rule in profile["syscalls"][1:] for name in rule["names"]}
    assert checked["socket"]["args"] == [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]
    assert checked["clone"]["args"][0]["op"] == "SCMP_CMP_MASKED_EQ"
    assert (checked["clone3"]["action"], checked["clone3"]["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
