"""How is a web application served on this machine? `listening`: a server that waits on a port.

    with listening(application, "127.0.0.1", 8080) as server:
        server.serve_forever()                          # until Ctrl-C

It is the standard library's server with a thread for each request, for the few people who look at
one study; it is no server for the internet.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from sensitivity.errors import UserError


class _Server(ThreadingMixIn, WSGIServer):
    """Answers several requests at once."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@contextmanager
def listening(application: Any, host: str, port: int) -> Iterator[WSGIServer]:
    """A server of a WSGI application; a port of 0 is any free one.

    Raises:
        UserError: the port cannot be had.
    """
    try:
        server = make_server(host, port, application, _Server, _Quiet)
    except OSError as error:
        raise UserError(
            f"`port` {port} of {host} cannot be listened on ({error.strerror or error}); expected a"
            " free one: name another, or 0 for any"
        ) from None
    with server:
        yield server
