"""Refuse each attempt of a Python process to reach another machine, and append it to the file $ATTEMPTS.

Python imports a module of this name at its start if the folder is in PYTHONPATH. Child processes inherit both.
"""

import os
import sys

LOCAL = {None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0"}
LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
SENDS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def _refuse_remote(event: str, arguments: tuple[object, ...]) -> None:
    if event in LOOKUPS:
        host = arguments[0]
    elif event in SENDS and isinstance(arguments[1], tuple):  # the address of a Unix socket is text
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in LOCAL:
        with open(os.environ["ATTEMPTS"], "a") as file:  # noqa: PTH123 - imports as little as possible
            file.write(f"{event} {host} by {sys.argv}\n")
        raise OSError(f"this test lets no process reach {host}")


sys.addaudithook(_refuse_remote)
