"""Requests that are sent twice and done once: by a key that the client chose, or because it is the same request again.

The id of what a request makes is decided and kept before anything is made (`journal.requests`), so that whoever sends
the request again finds it, also after a lost reply or a replica that died in the middle. Faces say what a request is;
what follows from it is decided here.
"""
