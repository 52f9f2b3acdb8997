"""Contexts: the huge inputs that runs are about, kept by digest.

Lives here: taking a payload in (checked, hashed and counted while it streams to disk, never whole in memory), the
few constant-size facts that a root LM is shown of it, and the record under which a tenant finds it again.
`intake` leads payloads past `scans` into blobs, `json_facts` parses JSON in a process of its own, `detection` tells
what a file is, `encodings` turns legacy text into UTF-8, `documents` reads PDF, Office and the like into text, `images`
and `text_lists` lay large texts out so that sandboxes can map them (`text_widths`; `mending` makes missing ones anew),
`redis_contexts` keeps the records, `lives` how long each stays, and `presence` tells whether there are any.

Does not live here: how a payload reaches a sandbox (`runs` takes `linked_parts` to `sandboxes`), where its bytes lie
(`store.blobs`). `runs`, `web`, `console` and `cli` may import this room; its siblings may not.
"""
