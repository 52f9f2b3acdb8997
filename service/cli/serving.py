"""`serve`: the REST API, in the foreground."""

import structlog

from service.cli.exit_codes import ExitCode
from service.cli.streams import flush_out, is_terminal, write_out
from service.main import Serving
from service.main import serve as run
from service.settings import read_settings


async def serve() -> ExitCode:
    """One line with the address on stdout once requests are answered, then the log on stderr."""

    def ready(serving: Serving) -> None:
        if serving.first_key_file is not None:
            # Where nobody watches, what is printed goes to a log, and a log is no place for it.
            shown = f" is {serving.first_key_file.read_text().strip()}," if is_terminal() else ""
            write_out(f"first start: the admin key{shown} is kept in {serving.first_key_file}\n")
        write_out(f"rlm-service listens at {serving.address}\n")
        flush_out()

    log, settings = structlog.get_logger(__name__), read_settings()
    for sentence in settings.without_effect:
        log.warning("setting_without_effect", why=sentence)
    await run(settings, ready)
    log.info("ended")
    return ExitCode.ANSWERED
