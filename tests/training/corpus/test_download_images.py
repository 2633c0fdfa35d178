"""Images are downloaded from servers that lie, stall, and point to where nobody should look."""

import gzip
import http.server
import ipaddress
import pickle
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from training.corpus import download_images as downloads
from training.corpus.download_images import DownloadLimits, ImageDownloadError, download_image, download_images
from training.corpus.failing_hosts import FailingHosts

IMAGE = b"\xff\xd8\xff an image"
LOCAL = DownloadLimits(allow_private_addresses=True)
# Downloads that must not end by themselves get half a second; a machine that is busy gets ten to notice.
HASTY = DownloadLimits(timeout=0.5, allow_private_addresses=True)
PATIENCE = 10.0
PUBLIC, OTHER_PUBLIC = "93.184.216.34", "2606:4700::1111"


class Request(http.server.BaseHTTPRequestHandler):
    """One request; pages write to it what they like."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        self.close_connection = True
        self.server.pages[self.path](self)

    def raw(self, *parts: bytes, pause: float = 0.0):
        for part in parts:
            self.wfile.write(part)
            time.sleep(pause)

    def page(self, status: int = 200, body: bytes = b"", **headers: str):
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Shop(http.server.ThreadingHTTPServer):
    """A seller's server, which counts connections and keeps what it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Request)
        self.pages: dict[str, Callable[[Request], None]] = {"/a.jpg": lambda r: r.page(body=IMAGE)}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections = 0

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def url(self, path: str = "/a.jpg", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.server_port}{path}"

    def get_request(self):
        self.connections += 1
        return super().get_request()

    def handle_error(self, *_):  # clients that leave early are what is tested
        pass


@pytest.fixture
def shop():
    with Shop() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Internet:
    """Names, their successive answers, and what was looked up and connected to. Every connection ends at the shop."""

    def __init__(self, shop: Shop, monkeypatch: pytest.MonkeyPatch):
        self.names: dict[str, list[list[str]]] = {}
        self.dead: set[str] = set()
        self.silent: set[str] = set()
        self.lookups: list[str] = []
        self.connected: list[str] = []
        look_up, connect = socket.getaddrinfo, socket.create_connection

        def getaddrinfo(host, port, *args, **kwargs):
            if host not in self.names:
                return look_up(host, port, *args, **kwargs)
            self.lookups.append(host)
            answers = self.names[host]
            addresses = answers.pop(0) if len(answers) > 1 else answers[0]
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_UNSPEC, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        def create_connection(place, timeout, **kwargs):
            self.connected.append(str(ipaddress.ip_address(place[0])))  # an address, not a name
            if place[0] in self.dead:
                raise ConnectionRefusedError("dead")
            if place[0] in self.silent:
                time.sleep(timeout)
                raise TimeoutError("silent")
            return connect(shop.server_address, timeout, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(socket, "create_connection", create_connection)


@pytest.fixture
def internet(shop, monkeypatch):
    return Internet(shop, monkeypatch)


def reason(url, limits: DownloadLimits = LOCAL) -> str:
    with pytest.raises(ImageDownloadError) as caught:
        download_image(url, limits)
    return caught.value.reason


# What is asked


def test_an_image_arrives_and_little_is_told_about_us(shop, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert download_image(shop.url(), LOCAL) == IMAGE
    (path, headers) = shop.requests[0]
    assert path == "/a.jpg"
    assert headers == {
        "Host": f"127.0.0.1:{shop.server_port}",
        "User-Agent": "modeling_eclip",
        "Accept": "image/*, */*;q=0.5",
        "Accept-Encoding": "identity",
    }


def test_cookies_are_not_kept(shop):
    shop.pages["/set"] = lambda r: r.page(302, Location="/a.jpg", Set_Cookie="visitor=1; Path=/")
    assert download_image(shop.url("/set"), LOCAL) == IMAGE
    assert [headers.get("Cookie") for _, headers in shop.requests] == [None, None]


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        (" http://shop.example/a.jpg\n", "shop.example", "/a.jpg"),
        ("HTTP://Shop.Example/a.jpg#top", "shop.example", "/a.jpg"),
        ("http://shop.example./a.jpg", "shop.example", "/a.jpg"),
        ("http://shop.example:8080/a.jpg", "shop.example:8080", "/a.jpg"),
        (f"http://[{OTHER_PUBLIC}]:8080/a.jpg", f"[{OTHER_PUBLIC}]:8080", "/a.jpg"),
        ("http://bücher.example/ü b?q=ü&r=%20", "xn--bcher-kva.example", "/%C3%BC%20b?q=%C3%BC&r=%20"),
    ],
)
def test_addresses_are_read_as_browsers_read_them(shop, internet, url, host, path):
    internet.names = {name: [[PUBLIC]] for name in ("shop.example", "xn--bcher-kva.example")}
    shop.pages[path] = lambda r: r.page(body=IMAGE)
    assert download_image(url) == IMAGE
    assert shop.paths == [path]
    assert shop.requests[0][1]["Host"] == host


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "a.jpg",
        "//shop.example/a.jpg",
        "file:///etc/passwd",
        "ftp://shop.example/a.jpg",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "http:",
        "http:///a.jpg",
        "http://./a.jpg",
        "http:shop.example/a.jpg",
        "http://shop.example:0/",
        "http://shop.example:-1/",
        "http://shop.example:65536/",
        "http://shop.example:80:80/",
        "http://[::1/",
        "http://0177.0.0.1/",
        "http://１２７.0.0.1/",
        "http://①②⑦.0.0.1/",
        "http://\ud800/",
        "http://shop.example/\ud800",
        "http://shop.example/a\r\nHost: other",
        "http://shop.example/" + "a" * 9000,
        "http://user:secret@shop.example/",
        "http://user@127.0.0.1/",
        "http://shop.example\\@127.0.0.1/",
        b"http://shop.example/",
        float("nan"),
    ],
)
def test_what_is_no_address_is_not_asked_for(internet, url):
    internet.names = {"shop.example": [[PUBLIC]]}
    assert reason(url) == "bad_address"
    assert internet.lookups == internet.connected == []


def test_a_password_is_not_repeated():
    with pytest.raises(ImageDownloadError, match=r"'shop\.example' holds a user name or password") as caught:
        download_image("http://user:secret@shop.example/")
    assert "secret" not in str(caught.value)


# Whom it is asked


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "0",
        "0.0.0.0",
        "127。0。0。1",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[::127.0.0.1]",
    ],
)
def test_this_machine_is_refused_however_it_is_written(shop, host):
    assert reason(shop.url(host=host), DownloadLimits()) == "private_address"
    assert shop.connections == 0
    assert download_image(shop.url(), LOCAL) == IMAGE  # and it was there


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # metadata of most clouds
        "100.100.100.200",  # of Alibaba's, in 100.64/10
        "192.0.0.192",  # of Oracle's
        "168.63.129.16",  # of Azure's
        "0.1.2.3",
        "127.8.8.8",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::a00:1",
        "::ffff:10.0.0.1",
        "::ffff:0:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::8.8.8.8",
        "2002:a00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:1::1",
        "2001:db8::1",
        "100::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "4000::1",
    ],
)
def test_addresses_that_are_not_public(internet, address):
    internet.names = {"shop.example": [[address]]}
    assert reason("http://shop.example/a.jpg", DownloadLimits()) == "private_address"
    assert internet.connected == []


@pytest.mark.parametrize(
    "address", [PUBLIC, OTHER_PUBLIC, "8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::"]
)
def test_addresses_that_are_public(internet, address):
    internet.names = {"shop.example": [[address]]}
    assert download_image("http://shop.example/a.jpg") == IMAGE
    assert internet.connected == [str(ipaddress.ip_address(address))]


@pytest.mark.parametrize("addresses", [[PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, OTHER_PUBLIC, "::1"]])
def test_one_private_address_among_public_ones_is_enough(internet, addresses):
    internet.names = {"shop.example": [addresses]}
    with pytest.raises(ImageDownloadError, match=r"host 'shop\.example' has the address (127\.0\.0\.1|::1), which"):
        download_image("http://shop.example/a.jpg")
    assert internet.connected == []


def test_a_name_that_changes_its_answer_is_asked_once(internet):
    internet.names = {"shop.example": [[PUBLIC], ["127.0.0.1"]]}
    assert download_image("http://shop.example/a.jpg") == IMAGE
    assert internet.lookups == ["shop.example"]
    assert internet.connected == [PUBLIC]
    assert reason("http://shop.example/a.jpg", DownloadLimits()) == "private_address"


def test_the_next_address_is_tried_where_one_is_dead(internet):
    internet.names, internet.dead = {"shop.example": [[OTHER_PUBLIC, PUBLIC]]}, {OTHER_PUBLIC}
    assert download_image("http://shop.example/a.jpg") == IMAGE
    assert internet.connected == [OTHER_PUBLIC, PUBLIC]
    internet.dead.add(PUBLIC)
    assert reason("http://shop.example/a.jpg") == "unreachable"


def test_an_address_that_does_not_answer_leaves_time_to_the_next(internet):
    internet.names, internet.silent = {"shop.example": [[OTHER_PUBLIC, PUBLIC]]}, {OTHER_PUBLIC}
    assert download_image("http://shop.example/a.jpg", DownloadLimits(timeout=2.0)) == IMAGE
    internet.silent.add(PUBLIC)
    assert ends_in_time("http://shop.example/a.jpg")


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a..b", "a" * 64 + ".example", ".example", "%31.0.0.1"])
def test_names_that_do_not_resolve(internet, host):
    internet.names = {"no-such-name.invalid": [[]], "%31.0.0.1": [[]]}
    assert reason(f"http://{host}/a.jpg") == "unreachable"


def test_a_closed_port(shop):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert reason(f"http://127.0.0.1:{unused.getsockname()[1]}/a.jpg") == "unreachable"


# Redirects


def redirect(shop: Shop, path: str, to: str):
    shop.pages[path] = lambda r: r.page(302, Location=to)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_each_name_is_asked_once(shop, internet, status):
    internet.names = {"shop.example": [[PUBLIC]], "cdn.example": [[OTHER_PUBLIC], ["127.0.0.1"]]}
    shop.pages["/old/b"] = lambda r: r.page(status, b"moved", Location="../new")
    redirect(shop, "/new", "//cdn.example/a.jpg")
    assert download_image("http://shop.example/old/b") == IMAGE
    assert internet.lookups == ["shop.example", "shop.example", "cdn.example"]
    assert internet.connected == [PUBLIC, PUBLIC, OTHER_PUBLIC]
    assert [headers["Host"] for _, headers in shop.requests] == ["shop.example", "shop.example", "cdn.example"]


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("http://127.0.0.1/a.jpg", "private_address"),
        ("http://[::ffff:169.254.169.254]/latest/meta-data", "private_address"),
        ("http://inside.example/a.jpg", "private_address"),
        ("//2130706433/a.jpg", "private_address"),
        ("file:///etc/passwd", "bad_address"),
        ("ftp://shop.example/a.jpg", "bad_address"),
        ("http://user:secret@shop.example/a.jpg", "bad_address"),
        ("http://[::1/a.jpg", "bad_address"),
        ("http://shop.example:99999/", "bad_address"),
    ],
)
def test_redirects_are_checked_like_addresses(shop, internet, to, expected):
    internet.names = {"shop.example": [[PUBLIC]], "inside.example": [["10.0.0.1"]]}
    redirect(shop, "/r", to)
    assert reason("http://shop.example/r", DownloadLimits()) == expected
    assert internet.connected == [PUBLIC]
    assert shop.paths == ["/r"]


def test_a_name_that_turns_private_between_redirects(shop, internet):
    internet.names = {"shop.example": [[PUBLIC], ["127.0.0.1"]]}
    redirect(shop, "/r", "/a.jpg")
    assert reason("http://shop.example/r", DownloadLimits()) == "private_address"
    assert shop.paths == ["/r"]


def test_redirects_end(shop):
    redirect(shop, "/loop", "/loop")
    assert reason(shop.url("/loop")) == "too_many_redirects"
    assert shop.paths == ["/loop"] * 4
    for i in range(3):
        redirect(shop, f"/{i}", f"/{i + 1}")
    redirect(shop, "/3", "/a.jpg")
    assert download_image(shop.url("/1"), LOCAL) == IMAGE
    with pytest.raises(
        ImageDownloadError, match=r"/0': more redirects than max_redirects=3, the next one to '.*/a\.jpg'"
    ):
        download_image(shop.url("/0"), LOCAL)
    shop.requests.clear()
    assert (
        reason(shop.url("/3"), DownloadLimits(max_redirects=0, allow_private_addresses=True)) == "too_many_redirects"
    )
    assert shop.paths == ["/3"]


# Time


def ends_in_time(url: str) -> bool:
    started = time.monotonic()
    return reason(url, HASTY) == "timeout" and time.monotonic() - started < PATIENCE


def test_slow_servers_end_by_the_deadline(shop):
    head = b"HTTP/1.1 200 OK\r\n"
    shop.pages |= {
        "/body": lambda r: r.raw(head + b"Content-Length: 1000\r\n\r\n", *[b"x"] * 1000, pause=0.05),
        "/endless": lambda r: r.raw(head + b"\r\n", *[b"x"] * 1000, pause=0.05),
        "/chunks": lambda r: r.raw(head + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 1000, pause=0.05),
        "/head": lambda r: r.raw(head, *[b"X-Wait: 1\r\n"] * 1000, pause=0.05),
        "/line": lambda r: r.raw(head + b"X-Wait: ", *[b"x"] * 1000, pause=0.05),
        "/continue": lambda r: r.raw(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * 1000, pause=0.05),
    }
    for path in ("/body", "/endless", "/chunks", "/head", "/line", "/continue"):
        assert ends_in_time(shop.url(path)), path


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_never_says_a_word(scheme):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert ends_in_time(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/a.jpg")


def test_the_deadline_holds_for_all_redirects_together(shop):
    def later(request: Request):
        time.sleep(0.3)
        request.page(302, Location="/later")

    shop.pages["/later"] = later
    assert ends_in_time(shop.url("/later"))  # though each hop alone would be in time
    assert len(shop.paths) < 4


def test_a_slow_resolver_ends_by_the_deadline(monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(PATIENCE) and [])
    assert ends_in_time("http://shop.example/a.jpg")
    done.set()


# Size


def test_bodies_up_to_max_bytes(shop):
    limits = DownloadLimits(max_bytes=1000, allow_private_addresses=True)
    for size in (0, 999, 1000):
        shop.pages["/b"] = lambda r, size=size: r.page(body=bytes(size))
        assert download_image(shop.url("/b"), limits) == bytes(size)
    shop.pages["/b"] = lambda r: r.page(body=bytes(1001))
    with pytest.raises(ImageDownloadError, match=r"/b': more than max_bytes=1,000\. Leave the image out, or raise"):
        download_image(shop.url("/b"), limits)


def test_bodies_that_are_too_large_end_while_they_are_read(shop):
    sent = []

    def flood(request: Request, head: bytes, part: bytes):
        request.raw(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        for _ in range(10_000):  # of 100 kB
            request.raw(part)
            sent.append(len(part))

    part = bytes(100_000)
    chunk = b"%x\r\n%b\r\n" % (len(part), part)
    shop.pages |= {
        "/no_length": lambda r: flood(r, b"", part),
        "/chunked": lambda r: flood(r, b"Transfer-Encoding: chunked\r\n", chunk),
        "/lie": lambda r: flood(r, b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", chunk),
        "/stated": lambda r: r.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"),  # is not waited for
    }
    limits = DownloadLimits(max_bytes=1_000_000, allow_private_addresses=True)
    for path in ("/no_length", "/chunked", "/lie", "/stated"):
        assert reason(shop.url(path), limits) == "too_large", path
    assert sum(sent) < 200_000_000  # buffers of sockets included; a fifth of what one of them would have sent


def test_a_body_longer_than_stated_is_cut_there(shop):
    shop.pages["/b"] = lambda r: r.page(body=IMAGE + b"more", Content_Length=str(len(IMAGE)))
    assert download_image(shop.url("/b"), LOCAL) == IMAGE


def test_single_bytes_arrive_whole(shop):
    chunks = [b"1\r\n%c\r\n" % byte for byte in IMAGE]
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    shop.pages["/b"] = lambda r: r.raw(head, *chunks, b"0\r\n\r\n")
    assert download_image(shop.url("/b"), LOCAL) == IMAGE


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "br", "zstd", "gzip, gzip", "Identity, gzip", "?"])
def test_compressed_bodies_are_refused(shop, encoding):
    bomb = gzip.compress(bytes(10_000_000))
    shop.pages["/bomb"] = lambda r: r.page(body=bomb, Content_Encoding=encoding)
    assert reason(shop.url("/bomb")) == "bad_response"
    shop.pages["/plain"] = lambda r: r.page(body=IMAGE, Content_Encoding="Identity")
    assert download_image(shop.url("/plain"), LOCAL) == IMAGE


# Answers


@pytest.mark.parametrize("status", [201, 204, 206, 304, 302, 400, 401, 403, 404, 407, 410, 429, 500, 503, 599])
def test_only_status_200_is_an_image(shop, status):
    shop.pages["/b"] = lambda r: r.page(status, b"" if status in (204, 304) else IMAGE)
    with pytest.raises(ImageDownloadError, match=f"/b': status {status}") as caught:
        download_image(shop.url("/b"), LOCAL)
    assert caught.value.reason == "bad_status"
    assert shop.paths == ["/b"]  # and no password is offered to a 401


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0",
        b"garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 50_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 200_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc",
        # Images that end early
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
    ],
)
def test_what_is_not_a_complete_answer(shop, answer):
    shop.pages["/b"] = lambda r: r.raw(answer)
    assert reason(shop.url("/b")) in ("bad_response", "unreachable")  # the latter where the reset comes first
    assert shop.paths == ["/b"]


# TLS


@pytest.fixture
def certificate(tmp_path, monkeypatch) -> Path:
    """A certificate of shop.example, which is trusted, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("makes a certificate with the openssl program")
    path = tmp_path / "shop.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=shop.example"
    )
    extension = "subjectAltName=DNS:shop.example"
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(path)]
    subprocess.run([*command.split(), "-addext", extension, *files], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    downloads._tls.cache_clear()
    yield path
    downloads._tls.cache_clear()


@pytest.fixture
def tls_shop(shop, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    shop.names = []
    context.sni_callback = lambda _, name, __: shop.names.append(name)
    shop.socket = context.wrap_socket(shop.socket, server_side=True)
    return shop


def test_tls_is_verified_against_the_name_and_connects_to_the_checked_address(tls_shop, internet):
    internet.names = {"shop.example": [[PUBLIC], ["127.0.0.1"]], "other.example": [[PUBLIC]]}
    assert download_image("https://shop.example./a.jpg") == IMAGE
    assert tls_shop.names == ["shop.example"]
    assert internet.lookups == ["shop.example"]
    assert internet.connected == [PUBLIC]
    assert reason("https://other.example/a.jpg") == "bad_certificate"
    assert reason(f"https://{PUBLIC}/a.jpg") == "bad_certificate"
    assert tls_shop.paths == ["/a.jpg"]


def test_slow_servers_end_by_the_deadline_over_tls_too(tls_shop, internet):
    internet.names = {"shop.example": [[PUBLIC]]}
    tls_shop.pages["/drip"] = lambda r: r.raw(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x"] * 200, pause=0.05)
    assert ends_in_time("https://shop.example/drip")


def test_a_certificate_that_nobody_vouches_for(tls_shop, internet, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    downloads._tls.cache_clear()
    internet.names = {"shop.example": [[PUBLIC]]}
    assert reason("https://shop.example/a.jpg") == "bad_certificate"
    assert tls_shop.paths == []


def test_redirects_out_of_tls_are_followed_and_checked(tls_shop, internet):
    internet.names = {"shop.example": [[PUBLIC]], "inside.example": [["10.0.0.1"]]}
    redirect(tls_shop, "/r", "http://inside.example/a.jpg")
    assert reason("https://shop.example/r", DownloadLimits()) == "private_address"
    redirect(tls_shop, "/r", "http://shop.example/a.jpg")  # where this shop speaks no plain HTTP
    assert reason("https://shop.example/r", DownloadLimits()) in ("bad_response", "unreachable")
    assert internet.connected == [PUBLIC] * 3


def test_tls_at_a_server_without(shop):
    assert reason(shop.url(scheme="https")) == "unreachable"


# Many


def test_many_images_in_order(shop):
    for i in range(20):
        shop.pages[f"/{i}"] = lambda r, i=i: r.page(body=b"%d" % i)
    shop.pages["/gone"] = lambda r: r.page(404)
    urls = [shop.url(f"/{i}") for i in range(20)]
    urls[3], urls[5], urls[7] = None, shop.url("/gone"), "no address"
    found = download_images(urls, LOCAL, num_threads=4)
    assert found[3] is None
    assert [found.pop(i).reason for i in (7, 5)] == ["bad_address", "bad_status"]
    assert found == [None if i == 3 else b"%d" % i for i in range(20) if i not in (5, 7)]
    assert download_images([], LOCAL) == []
    assert download_images([None, None], LOCAL) == [None, None]


def test_a_host_that_is_down_is_given_up_for_a_while(shop, internet):
    now = [0.0]
    hosts = FailingHosts(most_failures=3, seconds=60.0, clock=lambda: now[0])
    internet.names = {"down.example": [[PUBLIC]], "up.example": [[OTHER_PUBLIC]]}
    internet.dead = {PUBLIC}
    for number in range(5):
        shop.pages[f"/{number}"] = lambda r: r.page(404)

    def reasons(number):
        urls = [f"http://{host}.example/{i}" for i in range(number) for host in ("down", "up")]
        found = download_images(urls, num_threads=1, hosts=hosts)
        assert {one.reason for one in found[1::2]} == {"bad_status"}  # an answer: of a host that is there
        return [one.reason for one in found[::2]]

    assert reasons(5) == ["unreachable"] * 3 + ["given_up"] * 2
    now[0] = 59.0
    assert reasons(2) == ["given_up"] * 2
    now[0] = 61.0  # one attempt
    assert reasons(3) == ["unreachable"] + ["given_up"] * 2
    assert internet.connected.count(PUBLIC) == 4
    now[0], internet.dead = 122.0, set()
    assert reasons(2) == ["bad_status"] * 2
    internet.dead = {PUBLIC}
    assert reasons(4) == ["unreachable"] * 3 + ["given_up"]  # counted from the start again


def test_an_address_that_occurs_twice_is_asked_for_once(shop):
    shop.pages["/gone"] = lambda r: r.page(404)
    found = download_images([shop.url(), shop.url("/gone"), None, shop.url(), shop.url("/gone")], LOCAL)
    assert found[0] == found[3] == IMAGE
    assert found[1] is found[4]
    assert sorted(shop.paths) == ["/a.jpg", "/gone"]


def test_downloads_run_at_a_time(shop):
    together = threading.Barrier(4, timeout=PATIENCE)
    for i in range(4):
        shop.pages[f"/{i}"] = lambda r, i=i: r.page(body=b"%d" % together.wait())
    found = download_images([shop.url(f"/{i}") for i in range(4)], LOCAL, num_threads=4)
    assert sorted(found) == [b"0", b"1", b"2", b"3"]


def test_errors_keep_nothing_of_what_was_read(shop):
    shop.pages["/b"] = lambda r: r.page(body=bytes(2000))
    limits = DownloadLimits(max_bytes=1000, allow_private_addresses=True)
    (error,) = download_images([shop.url("/b")], limits)
    assert error.reason == "too_large"
    assert error.__traceback__ is error.__cause__ is error.__context__ is None


def test_errors_pass_between_processes():
    error = pickle.loads(pickle.dumps(ImageDownloadError("why", "timeout")))
    assert (str(error), error.reason) == ("why", "timeout")


@pytest.mark.parametrize(
    ("field", "value"),
    [("timeout", 0.0), ("timeout", float("nan")), ("timeout", float("inf")), ("max_bytes", 0), ("max_redirects", -1)],
)
def test_limits_that_leave_nothing(field, value):
    with pytest.raises(ValueError, match=f"`{field}` is {value}; give "):
        DownloadLimits(**{field: value})


def test_threads_must_be_some():
    with pytest.raises(ValueError, match="`num_threads` is 0; give at least 1"):
        download_images([], LOCAL, num_threads=0)
