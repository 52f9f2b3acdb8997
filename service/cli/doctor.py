"""`doctor`: what works on this machine, what does not, and what to do about it.

Each check opens only what it looks at, so one broken part hides no other. No model is called and no money is spent.
"""

import errno
import os
import platform
import shutil
from collections.abc import Awaitable, Callable

from service.cli.doctor_models import models_findings
from service.cli.exit_codes import ExitCode
from service.cli.findings import Finding, State, broken
from service.cli.streams import write_out
from service.cli.views import print_json
from service.cli.visible import visible_line
from service.contexts.documents.conversion import missing_confinement
from service.contexts.documents.formats import INSTALL, missing_libraries
from service.errors import RlmServiceError
from service.sandboxes.capabilities import capabilities
from service.sandboxes.docker_image import complaint, image_age
from service.settings import Settings, read_settings
from service.store.connection import open_store
from service.store.disk_room import LEAST_BYTES
from service.store.errors import disk_failed
from service.store.pairing import Pairing
from service.wiring.blobs import blobs_directory
from service.wiring.data_directory import make_data_directory
from service.wiring.sandboxes import open_docker_launcher, open_provider

LEAST_FREE_BYTES = 1 << 30


async def doctor(*, as_json: bool) -> ExitCode:
    """Check everything; 0 when runs can be answered here."""
    findings = [_program()]
    settings = _settings(findings)
    if settings is not None:
        for subject, check in _CHECKS.items():
            findings.append(await _checked(subject, check, settings))
        findings += await models_findings(settings)
    if as_json:
        print_json([_described(finding) for finding in findings])
    else:
        for finding in findings:
            write_out(f"{finding.state:<8} {finding.subject}: {visible_line(finding.text)}\n")
            write_out("".join(f"         {visible_line(detail)}\n" for detail in finding.details))
    codes = {finding.exit_code for finding in findings}
    # What is wrong with the settings breaks other parts as well, and every other command says it first.
    return ExitCode.BAD_USAGE if ExitCode.BAD_USAGE in codes else max(codes)


def _program() -> Finding:
    python = f"CPython {platform.python_version()} on {platform.system()} {platform.release()} {platform.machine()}"
    return Finding(subject="python", state=State.OK, text=python)


def _settings(findings: list[Finding]) -> Settings | None:
    try:
        settings = read_settings()
    except RlmServiceError as error:
        findings.append(broken("settings", error))
        return None
    if settings.without_effect:
        text = f"{len(settings.without_effect)} of what is set does nothing"
        findings.append(Finding(subject="settings", state=State.WARNING, text=text, details=settings.without_effect))
    return settings


async def _checked(subject: str, check: Callable[[Settings], Awaitable[Finding]], settings: Settings) -> Finding:
    try:
        return await check(settings)
    except RlmServiceError as error:
        return broken(subject, error)
    except OSError as error:
        return broken(subject, disk_failed(error, f"check the {subject}"))


async def _data_directory(settings: Settings) -> Finding:
    make_data_directory(settings)
    free = shutil.disk_usage(settings.data_directory).free
    if free < LEAST_BYTES:
        raise disk_failed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), f"use {settings.data_directory}")
    text = f"{settings.data_directory}, {free / (1 << 30):.1f} GiB free"
    state = State.OK if free >= LEAST_FREE_BYTES else State.WARNING
    return Finding(subject="data directory", state=state, text=text)


async def store_finding(settings: Settings) -> Finding:
    """Whether the store keeps what it is given. Raises `RlmServiceError`: it cannot be used."""
    async with open_store(data_directory=settings.data_directory, redis_url=settings.redis_url) as store:
        await store.require_writes()
        await Pairing(store, blobs_directory(settings)).require()
        where = "embedded in the data directory" if settings.redis_url is None else "at RLM_REDIS_URL"
        state = State.WARNING if store.remarks else State.OK
        return Finding(subject="store", state=state, text=f"{store.server}, {where}", details=store.remarks)


async def _sandbox(settings: Settings) -> Finding:
    async with open_provider(settings) as provider:
        isolation = await provider.isolation()
    serves = "several tenants" if isolation.multi_tenant else "one person's own models and data"
    return Finding(
        subject="sandbox",
        state=State.WARNING if isolation.level == "none" else State.OK,
        text=f"{isolation.provider}, isolation level {isolation.level}: good for {serves}",
        details=(*isolation.details, *(f"not promised, {line}" for line in capabilities(isolation).shortcomings)),
    )


async def _documents(_settings: Settings) -> Finding:
    if lacking := await missing_confinement():
        text = f"none can be read, because their reader cannot be confined here: it {lacking}"
        return Finding(subject="documents", state=State.MISSING, text=text)
    missing = missing_libraries()
    if not missing:
        return Finding(subject="documents", state=State.OK, text="PDF, Office, HTML, notebooks and e-mail can be read")
    text = f"cannot be read: {', '.join(missing)}; install the documents extra with {INSTALL}"
    return Finding(subject="documents", state=State.MISSING, text=text)


async def _docker(settings: Settings) -> Finding:
    """Whether sandboxes could be containers, also where they are not."""
    try:
        async with open_docker_launcher(settings) as launcher:
            found = await launcher.capabilities()
    except RlmServiceError as error:
        return Finding(subject="docker", state=State.MISSING, text=f"{error}; needed for --sandbox docker only")
    runtimes = [name for name in ("runc", "runsc") if name in found.runtimes]
    missing: list[str] = []
    if not found.seccomp:
        missing.append("the engine has no seccomp, and without it no sandbox is started: use one that has")
    if "runsc" not in runtimes:
        missing.append(
            "gVisor (the runtime runsc) is missing, which several tenants need: install it as docs/docker.md shows"
        )
    missing += [
        f"the image {image.name} is missing: build it with `sh deploy/make_sandbox_image.sh {image.name}`"
        for image in found.images
        if not image.present
    ]
    ages = {image.name: image_age(image.protocol, image.sources) for image in found.images if image.present}
    missing += [remark for name, age in ages.items() if (remark := complaint(name, age)) is not None]
    usable = found.seccomp and all(image.name in ages and ages[image.name].is_usable for image in found.images)
    return Finding(
        subject="docker",
        state=State.MISSING if not usable else State.WARNING if missing else State.OK,
        text=f"engine {found.engine_version} with {' and '.join(runtimes) or 'no known runtime'}; for --sandbox docker",
        details=tuple(missing),
    )


_CHECKS: dict[str, Callable[[Settings], Awaitable[Finding]]] = {
    "data directory": _data_directory,
    "store": store_finding,
    "sandbox": _sandbox,
    "docker": _docker,
    "documents": _documents,
}


def _described(finding: Finding) -> dict[str, object]:
    return {
        "subject": finding.subject,
        "state": finding.state,
        "text": finding.text,
        "details": list(finding.details),
    }
