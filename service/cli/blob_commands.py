"""`blobs …`: straight on the store and the disk, whether or not a service runs."""

import sys
from dataclasses import asdict
from functools import partial

import anyio

from service.cli.exit_codes import ExitCode
from service.cli.streams import write_out
from service.cli.views import print_json
from service.settings import read_settings
from service.wiring.blobs import open_blobs
from service.wiring.keys import open_registry_alone
from service.wiring.retention import open_collector


async def collect(*, again_after_s: float, force: bool, as_json: bool) -> ExitCode:
    """Two looks, and what the second one removed. Safe beside a service that runs."""
    settings = read_settings()
    async with open_registry_alone(settings) as registry:
        collector = open_collector(settings, registry.store, registry, partial(open_blobs, settings))
        first = await collector.look(force=force)
        if first.waiting and again_after_s:
            sys.stderr.write(f"{first.waiting} blobs are unreferenced; looking again in {again_after_s:g} s\n")
            await anyio.sleep(again_after_s)
        second = await collector.look()
    if as_json:
        print_json(asdict(second))
    else:
        write_out(
            f"removed {second.removed} blobs ({second.freed_bytes} bytes); {second.referenced} are referenced, "
            f"{second.waiting} wait for the next look, {second.young} were touched within the hour and not looked at\n"
        )
    return ExitCode.ANSWERED
