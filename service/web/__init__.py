"""The public REST API: routes, the shapes of what goes in and out, who may come in, and how refusals look.

    app              the application: every router, what surrounds every request
    rooms            what the routes work with, as `main` opened it
    doors            routers: who may come in, how much they may carry, before a byte of a body is read
    callers          the credential of a request, and the runs of whoever sent it
    bodies           request bodies: bounded in size and time, decoded off the event loop
    boundary         what surrounds every request: its id, its failure, one line of the log
    problems         the one table from error codes to HTTP statuses, and the one error body
    counting         requests, counted by route; the page of the metrics
    event_streams    server-sent events that follow a journal
    byte_ranges      the part of a payload that a request asks for
    listener         the public listener, and `connections`, which bounds what a connection may do
    operations · contexts · runs · sessions · account · admin · webhooks
                     one package a resource, one file a noun

How a route is added:

1. It belongs into the package of its resource (`web/runs/`, `web/sessions/` …), in a file named for what it is about;
   a new package has an `__init__` that says what it is, and its router is named in `app.ROUTERS`.
2. Its router comes from `doors.open_router(scope)`: the door checks the API key and its scope, and reads a JSON body
   within its bounds, before the function is called. A router without a scope is open to everybody.
3. What comes in is a pydantic shape derived from `shapes.Shape` (strict, nothing extra, every string and list bounded),
   with an example. What goes out is one too, derived from `shapes.Shown`, so that the OpenAPI document is whole.
4. Ids in paths are taken with the types of `paths` (`RunIdInPath` …): what has not the shape of an id is not found, in
   the same words as an id that nobody has. Everything is looked up through `callers.RunsOfCaller`, whose rooms hold
   nothing of any other tenant: a foreign id is 404 because it is not there.
5. What can go wrong is raised as an error of the tree. Its code stands in `problems.STATUS_OF_CODE`, else a test fails.
6. It is documented in docs/http-api.md with an example that runs as a test, and a test of its own goes over a real
   socket (`tests/web/serving.py`).

Imported by `main` only. Knows nothing of other faces.
"""
