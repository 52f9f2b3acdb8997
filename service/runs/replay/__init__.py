"""Replay: a finished run done again without any model, to see whether it comes out the same.

comparing    what of two results has to be equal, and what is said of the first that is not (pure)
replaying    the root LM's replies are taken from the journal, its code runs again in a sandbox of its own, and host
             calls get their recorded answers
"""
