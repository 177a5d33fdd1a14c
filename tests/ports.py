"""For processes that find each other by a port of this machine."""

import socket


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
