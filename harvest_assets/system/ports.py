"""Listening on a port; errors say what is in the way and what to do."""

from __future__ import annotations

import errno
import shlex
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil

from harvest_assets.errors import HarvestError

_FIRST_OPEN_PORT = 1024  # lower ones need rights that few people have
_LAST_PORT = 65535
_TRIED_PORTS = 100
_MAX_COMMAND = 100  # characters of another process's command line
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, never listened on


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on the first address of a host.

    Args:
        host: name or address of this machine.
        port: 0 takes a free one.

    Raises:
        HarvestError: it cannot.
    """
    return _listening(host, *_addresses(host, port)[0])


def check_free(host: str, port: int) -> int:
    """Check that all addresses of a host can be listened on.

    Args:
        host: name or address of this machine.
        port: 0 takes a free one.

    Returns:
        The port.

    Raises:
        HarvestError: one cannot.
    """
    for family, address in _addresses(host, port):
        with _listening(host, family, address) as listener:
            free: int = listener.getsockname()[1]
    return port or free


def url_of(host: str, port: int) -> str:
    """The URL of the page that is served on a port."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"


def listening_processes(port: int, ip: str = "::") -> Iterator[psutil.Process]:
    """The processes that listen on a port, as far as the system shows them.

    Args:
        port: of TCP.
        ip: only those that are in the way of this address; `::`, all of them.
    """
    with suppress(psutil.Error, OSError):
        for found in psutil.net_connections("tcp"):
            if not (found.status == psutil.CONN_LISTEN and found.laddr and found.pid):
                continue
            in_the_way = ip in _EVERYWHERE or found.laddr.ip in (ip, *_EVERYWHERE)
            if found.laddr.port == port and in_the_way:
                yield psutil.Process(found.pid)


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise HarvestError(
            f"{host!r} is not a host that can be found; give another --host, such as 127.0.0.1."
        ) from error
    return [(family, address) for family, _, _, _, address in found]


def _listening(host: str, family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise HarvestError(_why_not(host, family, address, error)) from error
    return listener


def _why_not(host: str, family: int, address: tuple[Any, ...], error: OSError) -> str:
    ip, port = address[:2]
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; give another --host, such as 127.0.0.1."
    if error.errno == errno.EADDRINUSE:
        holder = next(map(_described, listening_processes(port, ip)), "another process")
        why = f"Port {port} of {host} is taken by {holder}"
    elif error.errno in (errno.EACCES, errno.EPERM):
        why = f"Listening on port {port} of {host} is not permitted"
    else:
        why = f"Port {port} of {host} cannot be listened on: {error.strerror}"
    free = _free_port_after(family, address)
    return f"{why}; give another port, such as --port {free}." if free else f"{why}."


def _described(process: psutil.Process) -> str:
    try:
        command = shlex.join(process.cmdline()) or process.name()
    except psutil.Error:
        return f"process {process.pid}"
    shown = command if len(command) <= _MAX_COMMAND else f"{command[:_MAX_COMMAND]}..."
    return f"process {process.pid} ({shown})"


def _free_port_after(family: int, address: tuple[Any, ...]) -> int | None:
    ip, port, *rest = address
    first = max(port + 1, _FIRST_OPEN_PORT)
    for candidate in range(first, min(first + _TRIED_PORTS, _LAST_PORT + 1)):
        with socket.socket(family, socket.SOCK_STREAM) as tried, suppress(OSError):
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((ip, candidate, *rest))
            tried.listen(1)
            return candidate
    return None
