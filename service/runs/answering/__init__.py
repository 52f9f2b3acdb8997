"""Answering a conversation: from what a chat client sends to a run, and from the run back to what it is told.

    profiles       API profiles, and which model a name stands for
    conversation   what a client asks, whatever dialect it speaks
    planning       pure: a question of bounded size, and what becomes a context
    deciding       pure: one direct call, or a run of the loop
    answering      the use case: begin, follow, end
    live           the direct calls that this replica is making, and who listens
    records        how runs were asked for, kept beside them
    saving         what a direct call spared, by what the tenant's runs have cost

Not here: the dialects themselves, which are shapes of HTTP bodies (`web.dialects`).
"""
