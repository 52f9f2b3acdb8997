"""`ask`, with the service at hand: store the contexts, drive the run, show it, hand out the answer."""

from dataclasses import dataclass, replace

from service.cli.delivery import inline_answer, print_chunks, save_chunks
from service.cli.exit_codes import ExitCode
from service.cli.inputs import Source, StoredContext
from service.cli.lines import Line, Style
from service.cli.question import AskOptions, Question
from service.cli.run_ends import code_of, delivering, warn_of_settings, warn_of_weak_isolation
from service.cli.screen import open_screen
from service.cli.storing import Telling, store_sources
from service.cli.streams import flush_out
from service.cli.views import describe_run, print_json
from service.cli.watching import watch
from service.ids import ContextId, RunId
from service.loop.events import RunFinished
from service.loop.values import BlobRef, ContextBinding
from service.runs.submission.first_event import check_request
from service.settings import read_settings
from service.wiring.service import Service, open_service


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A run that was watched to its end (or left: then `finished` is None)."""

    run_id: RunId
    finished: RunFinished | None


async def ask_and_deliver(question: Question, options: AskOptions) -> ExitCode:
    """The run from its start to its answer on stdout, in a file or in a JSON object."""
    settings = read_settings()
    if question.sandbox is not None:
        settings = replace(settings, sandbox=question.sandbox)
    warn_of_settings(settings)
    async with open_service(settings) as service:
        asked = await ask_service(service, question, options)
        if asked.finished is None:
            service.leave_at_once()
        else:
            with delivering(asked.run_id):
                await _deliver(service, asked, asked.finished.answer, options)
        return code_of(asked.finished)


async def ask_service(service: Service, question: Question, options: AskOptions) -> Asked:
    """Store the contexts, start the run and show it on stderr until it has ended."""
    await _check_before_storing(service, question)
    await warn_of_weak_isolation(service.provider)
    with open_screen(quiet=options.quiet, colour=options.colour) as screen:
        files = [source for source in question.sources if isinstance(source, Source)]
        screen.tell(Line(note, Style.WARNING) for source in files for note in source.left_out)
        screen.update("storing the contexts")
        telling = Telling(
            line=lambda line: screen.tell([Line(line, Style.WARNING)]),
            progress=lambda done, of: screen.update(f"storing the contexts {done:,} of {of:,}"),
        )
        bindings = await store_sources(service.contexts, question.sources, telling)
        run_id = await service.runs.submit(replace(question.request, contexts=bindings))
        service.runs.start(run_id)
        watched = await watch(service.runs, run_id, screen, show_code=options.show_code, may_cancel=True)
    return Asked(run_id=run_id, finished=watched.finished)


async def _check_before_storing(service: Service, question: Question) -> None:
    """Before a gigabyte is copied for a model that nobody knows, or under a name that it cannot have."""
    for model in (question.request.root_model, question.request.sub_model):
        await service.runs.rooms.route_to(model)
    for source in question.sources:
        if isinstance(source, StoredContext):
            await service.contexts.get(source.context_id)
    yet_to_come = ContextId("ctx_")
    bindings = [
        ContextBinding(
            context_id=source.context_id if isinstance(source, StoredContext) else yet_to_come, variable=source.variable
        )
        for source in question.sources
    ]
    check_request(replace(question.request, contexts=tuple(bindings)))


async def _deliver(service: Service, asked: Asked, answer: BlobRef | None, options: AskOptions) -> None:
    if answer is not None and options.out is not None:
        await save_chunks(service.runs.answer_chunks(asked.run_id), options.out)
    if options.as_json:
        described = describe_run(await service.runs.show(asked.run_id))
        blob = None if answer is None else service.blobs.path(answer.sha256)
        inline = await inline_answer(answer, service.runs.answer_chunks(asked.run_id), blob)
        if answer is not None and options.out is not None:
            inline["answer_path"] = str(options.out.absolute())
        print_json(described | inline)
        flush_out()
    elif answer is not None and options.out is None:
        await print_chunks(service.runs.answer_chunks(asked.run_id))
