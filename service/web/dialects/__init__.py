"""Drop-in dialects: clients made for another API change their base URL, and nothing else.

    asking      from a conversation to its run: who may ask, once or again, and the headers that say so
    telling     from a run to server-sent events, and to the whole text
    reports     what every dialect adds about its run: tokens, money, how it was answered
    parameters  what a client may set and what is refused by name
    openai      chat completions, responses, models, files
    anthropic   messages and their tokens

A dialect is shapes of bodies and nothing more: each turns a request into a `Conversation` and what `Answering.follow`
tells into its own words.
"""
