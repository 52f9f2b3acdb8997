"""How scripted root LMs go about a question: a module each, with `next_reply(shown) -> str`.

A strategy looks at its steps so far and at the facts its cells printed, and writes the next cell. It may look at
nothing else: the answer stands in the context, which a root LM never sees whole.
"""
