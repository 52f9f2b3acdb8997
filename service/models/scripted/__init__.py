"""The scripted model: a deterministic language model without a language model, shipped for tests, demos and load.

As a root LM (`strategies`) it plays a small, honest RLM: it peeks, searches, partitions, maps sub-calls over the parts
and submits, driven by the question, by what it is told of the context and by the observations, never by knowing an
answer. As a sub-LM (`reader`) it answers a prompt from the text in the prompt alone, by keywords. `transcript` reads
what it is shown, `play` chooses who speaks, `script` reads its options, `adapter` is the port's implementation.

Nothing here is smart; what it shows is the machinery around it. Only `catalog` imports this package.
"""
