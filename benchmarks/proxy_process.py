"""LiteLLM Proxy at work, in its own environment and process. Run as a module by `proxy`; prints its port.

Its own command line starts the same application on the same server, but cannot be given port 0.
"""

import os
import socket
import sys
import threading

import uvicorn
from litellm.proxy.proxy_server import app


def main() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        server = uvicorn.Server(uvicorn.Config(app, loop="uvloop", log_level="error", access_log=False))
        threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
        # What its start prints is no port.
        answers = os.fdopen(os.dup(1), "w", encoding="ascii")
        os.dup2(2, 1)
        answers.write(f"{listener.getsockname()[1]}\n")
        answers.flush()
        server.run([listener])


def _end_with_parent(server: uvicorn.Server) -> None:
    """Whoever started this holds the other end of stdin."""
    sys.stdin.read()
    server.should_exit = True


if __name__ == "__main__":
    main()
