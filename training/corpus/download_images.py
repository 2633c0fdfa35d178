"""Download images from addresses that outsiders wrote.

Contract: `download_image` returns the body of a complete answer with status 200, or raises `ImageDownloadError`, whose
`reason` is a short name for counting. Sellers write the addresses and run the servers, so neither is trusted:

- A host name is resolved once per request. All of its IP addresses must be public, and the connection is made to one
  of these addresses, so a name that resolves differently later (DNS rebinding) has no effect. The check is where
  sockets are opened (`_CheckedNetwork`), so an unusual spelling of an address cannot avoid it. Redirects are checked
  in the same way.
- One deadline covers name, connection, TLS, redirects, headers and body together, so a slow server cannot exceed it.
- The bytes of the body are counted while reading, regardless of the stated length; compressed bodies are refused.
- TLS is verified against the name in the address. No proxy, cookie, password or `.netrc` of this machine is used.

Nothing is retried; rows can be selected by their reason and downloaded again.

httpcore2 implements HTTP and accepts a network backend, which opens the sockets; httpx2 parses addresses as browsers
do. Both come with huggingface_hub from version 2 on.
"""

import io
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpcore2
import httpx2

from training.corpus.failing_hosts import FailingHosts
from training.data.files import without_secrets

__all__ = ["DownloadLimits", "ImageDownloadError", "download_image", "download_images"]

_HEADERS = (("User-Agent", "modeling_eclip"), ("Accept", "image/*, */*;q=0.5"), ("Accept-Encoding", "identity"))
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST_ADDRESS = 8192  # characters; about as many as servers accept, and few enough to be sent at once
_LONGEST_QUOTE = 200  # characters of an address in a message

_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")  # all addresses assigned so far
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Addresses in public ranges at which Oracle's and Azure's clouds serve the credentials of a machine.
_METADATA = (ipaddress.IPv4Network("192.0.0.0/24"), ipaddress.IPv4Network("168.63.129.16/32"))


@dataclass(frozen=True)
class DownloadLimits:
    """Limits of a download.

    Args:
        timeout: Seconds for the whole download, redirects included, not for each read.
        max_bytes: Largest accepted body.
        max_redirects: How many redirects are followed.
        allow_private_addresses: Whether servers may be on this machine or in its network: for your own servers.
    """

    timeout: float = 10.0
    max_bytes: int = 20_000_000
    max_redirects: int = 3
    allow_private_addresses: bool = False

    def __post_init__(self) -> None:
        """Refuse limits within which no download is possible."""
        if not 0 < self.timeout <= threading.TIMEOUT_MAX:
            raise ValueError(f"`timeout` is {self.timeout}; give seconds, above 0 and finite.")
        if self.max_bytes < 1:
            raise ValueError(f"`max_bytes` is {self.max_bytes}; give at least 1.")
        if self.max_redirects < 0:
            raise ValueError(f"`max_redirects` is {self.max_redirects}; give 0 to follow none, or more.")


class ImageDownloadError(Exception):
    """An image that could not be downloaded.

    Attributes:
        reason: Short snake_case name for counting: `"bad_address"` (not http or https, no host, a user name or
            password in it), `"private_address"` (a host that is not on the public internet), `"unreachable"` (no such
            name, or a connection that was refused or broke), `"bad_certificate"`, `"timeout"`, `"bad_status"` (any
            but 200, after redirects), `"too_many_redirects"`, `"too_large"`, `"bad_response"` (not HTTP, shorter
            than stated, or compressed) or `"given_up"` (a host that could not be reached time and again; not tried).
    """

    def __init__(self, message: str, reason: str = "unreachable"):
        """Keep the message (what was received and how to correct it) and the reason."""
        super().__init__(message)
        self.reason = reason


_DEFAULT_LIMITS = DownloadLimits()


def download_image(url: str, limits: DownloadLimits = _DEFAULT_LIMITS) -> bytes:
    """Download one image.

    Args:
        url: Its address, http or https; characters outside ASCII need no escaping.
        limits: Limits of the download.

    Returns:
        The body. It may be empty or no image; `load_product_image` checks that. A body without a stated length is
        complete when the server closes the connection.

    Raises:
        ImageDownloadError: If it could not be downloaded; `reason` names the cause.
    """
    deadline = _Deadline(limits.timeout)
    address = _parse(url)
    for _ in range(limits.max_redirects + 1):
        found = _fetch(address, limits, deadline)
        if isinstance(found, bytes):
            return found
        address = found
    raise ImageDownloadError(
        f"{_quote(url)}: more redirects than max_redirects={limits.max_redirects}, the next one to "
        f"{_quote(str(address))}. Give the final address, or raise max_redirects.",
        "too_many_redirects",
    )


def download_images(
    urls: Sequence[str | None],
    limits: DownloadLimits = _DEFAULT_LIMITS,
    *,
    num_threads: int = 16,
    hosts: FailingHosts | None = None,
) -> list[bytes | ImageDownloadError | None]:
    """Download many images in parallel; errors are returned, not raised.

    Args:
        urls: `N` addresses, None where an offer has no image. An address that occurs twice is downloaded once. All
            images are held in memory, up to `N * max_bytes`: give some thousands at a time.
        limits: Limits of each download.
        num_threads: Number of parallel downloads.
        hosts: Hosts that could not be reached before; all are tried if not given.

    Returns:
        `N` bodies or errors, in the order of the addresses; None where the address was None.

    Raises:
        ValueError: If `num_threads` is below 1.
    """
    if num_threads < 1:
        raise ValueError(f"`num_threads` is {num_threads}; give at least 1.")
    hosts = hosts or FailingHosts(len(urls) + 1)
    distinct = list(dict.fromkeys(url for url in urls if url is not None))
    with ThreadPoolExecutor(num_threads, thread_name_prefix="download_images") as pool:
        found = dict(zip(distinct, pool.map(lambda url: _attempt(url, limits, hosts), distinct), strict=True))
    return [None if url is None else found[url] for url in urls]


def _attempt(url: str, limits: DownloadLimits, hosts: FailingHosts) -> bytes | ImageDownloadError:
    host = None
    try:
        host = _parse(url).netloc.decode("ascii")
        if hosts.is_given_up(host):
            return ImageDownloadError(
                f"{_quote(url)}: not tried, since {hosts.most_failures} attempts in a row did not reach its host. "
                "Try again later.",
                "given_up",
            )
        found = download_image(url, limits)
        hosts.note(host, was_reached=True)
        return found
    except ImageDownloadError as error:
        if host is not None:
            hosts.note(host, was_reached=error.reason not in ("timeout", "unreachable"))
        # The traceback and causes would keep the partial body in memory as long as the error.
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)


def _quote(url: str) -> str:
    url = without_secrets(url)
    return repr(url if len(url) <= _LONGEST_QUOTE else url[:_LONGEST_QUOTE] + "...")


def _parse(url: str, base: httpx2.URL | None = None) -> httpx2.URL:
    """Parses an address, or a redirect from `base`, and refuses addresses that images are not downloaded from."""
    if not isinstance(url, str):
        raise ImageDownloadError(f"{_quote(repr(url))}: not text but {type(url).__name__}. Mend it.", "bad_address")
    try:
        address = httpx2.URL(url.strip()) if base is None else base.join(url)
        address = address.copy_with(host=address.raw_host.decode("ascii").removesuffix("."), fragment=None)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ImageDownloadError(f"{_quote(url)}: not an address ({error}). Mend it.", "bad_address") from error
    if address.userinfo:
        raise ImageDownloadError(
            f"an address at host {address.raw_host.decode()!r} holds a user name or password, which are not sent. "
            "Take them out.",
            "bad_address",
        )
    is_web = address.scheme in _PORTS and address.raw_host and 1 <= _port(address) <= 65535
    if not is_web or len(str(address)) > _LONGEST_ADDRESS:
        raise ImageDownloadError(
            f"{_quote(url)}: not an address that images are downloaded from. Give http:// or https://, a host, and "
            f"at most {_LONGEST_ADDRESS:,} characters.",
            "bad_address",
        )
    return address


def _port(address: httpx2.URL) -> int:
    return _PORTS[address.scheme] if address.port is None else address.port


def _fetch(address: httpx2.URL, limits: DownloadLimits, deadline: "_Deadline") -> bytes | httpx2.URL:
    """Sends one request on its own connection; returns the body, or the address of a redirect."""
    url = httpcore2.URL(scheme=address.raw_scheme, host=address.raw_host, port=_port(address), target=address.raw_path)
    network = _CheckedNetwork(deadline, limits.allow_private_addresses)
    context = _tls() if address.scheme == "https" else None
    headers = [("Host", address.netloc.decode("ascii")), *_HEADERS]
    try:
        with (
            httpcore2.HTTPConnection(url.origin, ssl_context=context, network_backend=network) as connection,
            connection.stream("GET", url, headers=headers) as response,
        ):
            location = _header(response, b"location")
            if response.status in _REDIRECTS and location:
                return _parse(location.decode("utf-8", "replace"), base=address)
            return _body(response, limits.max_bytes)
    except ImageDownloadError as error:
        raise ImageDownloadError(f"{_quote(str(address))}: {error}", error.reason) from error
    except Exception as error:  # a hostile server or name may cause any exception in the libraries
        message, reason = _explain(error, limits)
        raise ImageDownloadError(f"{_quote(str(address))}: {message}", reason) from error


@cache
def _tls() -> ssl.SSLContext:
    return httpcore2.default_ssl_context()


def _header(response: httpcore2.Response, name: bytes) -> bytes:
    return b", ".join(value for key, value in response.headers if key.lower() == name)


def _body(response: httpcore2.Response, max_bytes: int) -> bytes:
    if response.status != 200:
        raise ImageDownloadError(f"status {response.status}. Mend the address, or try again later.", "bad_status")
    encoding = _header(response, b"content-encoding")
    if encoding.lower() not in (b"", b"identity"):
        raise ImageDownloadError(
            f"the body is encoded as {encoding[:50]!r}, which was not asked for. Leave the image out.",
            "bad_response",
        )
    stated = _header(response, b"content-length")
    body = io.BytesIO()
    if not stated.isdigit() or int(stated) <= max_bytes:
        for chunk in response.iter_stream():  # at most as much as is read from a socket at a time
            body.write(chunk)
            if body.tell() > max_bytes:
                break
        else:
            return body.getvalue()
    raise ImageDownloadError(
        f"more than max_bytes={max_bytes:,}. Leave the image out, or raise max_bytes.", "too_large"
    )


def _explain(error: Exception, limits: DownloadLimits) -> tuple[str, str]:
    """Returns a message about a failed connection, and its reason."""
    if isinstance(error, httpcore2.TimeoutException):
        return f"not downloaded within timeout={limits.timeout:g} seconds. Try again, or raise timeout.", "timeout"
    if isinstance(error.__cause__, ssl.SSLCertVerificationError):
        return f"the server does not prove that it is that host ({error}). Leave the image out.", "bad_certificate"
    if isinstance(error, httpcore2.NetworkError):
        return f"no connection, or one that broke ({error}). Try again later.", "unreachable"
    return f"not a complete answer by HTTP ({type(error).__name__}: {error}). Try again later.", "bad_response"


class _Deadline:
    """The time at which a download must have ended."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Returns the seconds that are left.

        Raises:
            httpcore2.TimeoutException: If none are left.
        """
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise httpcore2.TimeoutException("past the deadline")
        return seconds


class _CheckedNetwork(httpcore2.NetworkBackend):
    """Opens sockets to public addresses only; no wait on them exceeds the deadline."""

    def __init__(self, deadline: _Deadline, allow_private_addresses: bool) -> None:
        self._deadline, self._allow_private_addresses = deadline, allow_private_addresses
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Resolves the name, checks all of its addresses, and connects to the first that answers."""
        addresses = _resolve(host, port, self._deadline)
        private = [address for address in addresses if not _is_public(address)]
        if private and not self._allow_private_addresses:
            raise ImageDownloadError(
                f"host {host!r} has the address {private[0]}, which is not one of the public internet. Leave the "
                "image out, or set allow_private_addresses for servers of your own.",
                "private_address",
            )
        failure: Exception = httpcore2.ConnectError(f"host {host!r} has no address")
        for i, address in enumerate(addresses):
            # Each address gets a share of the time, so that one that does not answer leaves time for the next.
            share = self._deadline.remaining() / (len(addresses) - i)
            try:
                stream = self._sockets.connect_tcp(address, port, share, local_address, socket_options)
                return _TimedStream(stream, self._deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


class _TimedStream(httpcore2.NetworkStream):
    """A connection on which no wait exceeds the deadline; the timeouts that callers pass are ignored."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.remaining())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.remaining())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.remaining())
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _resolve(host: str, port: int, deadline: _Deadline) -> list[str]:
    """Returns all IP addresses of a name. Asks in a thread, since the system's resolver has no timeout."""
    found: Future[list[str]] = Future()

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.set_result(list(dict.fromkeys(str(place[0]) for *_, place in answers)))
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=look_up, daemon=True, name="resolve").start()
    try:
        return found.result(deadline.remaining())
    except TimeoutError as error:
        raise httpcore2.ConnectTimeout(f"host {host!r} was not resolved in time") from error
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(f"host {host!r} cannot be resolved: {error}") from error


def _is_public(address: str) -> bool:
    """Tells whether an IP address belongs to one machine on the public internet; also for IPv4 inside IPv6."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is None:
            return ip in _PUBLIC_IPV6 and ip.is_global
        ip = inner
    is_metadata = any(ip in network for network in _METADATA)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or is_metadata)
