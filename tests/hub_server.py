"""A Hub in a thread: the part of its protocol that huggingface_hub speaks, over real HTTP.

Repositories are lists of commits, each a mapping from path to content. Large files go the way of LFS with "basic"
transfers, and are fetched through a redirect, as from the Hub's storage. Every request is kept in `requests`, and
`faults` makes requests fail.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

_LFS = (".bin", ".png", ".pt", ".safetensors")
_PIPELINE_TAGS = (
    "feature-extraction",
    "image-classification",
    "image-feature-extraction",
    "text-classification",
    "zero-shot-image-classification",
)
_LICENSES = ("apache-2.0", "cc-by-4.0", "mit", "other")


class Answer(Exception):  # noqa: N818 (an answer is no error)
    """What ends a request: a status, with the code by which the Hub tells its errors apart."""

    def __init__(self, status: int, content: Any = None, headers: dict[str, str] | None = None, code: str = ""):
        super().__init__(f"{status} {code}")
        if code:
            headers = {**(headers or {}), "X-Error-Code": code, "X-Error-Message": code}
            content = {"error": code} if content is None else content
        self.status, self.content, self.headers = status, content, headers or {}


class Dropped(Exception):  # noqa: N818
    """The connection is closed in the middle of a request."""


@dataclass
class Repository:
    """A repository.

    Args:
        private: Whether only its owner sees it.
        gated: Whether only its owner fetches files of it.
        commits: Content by path, by the hash of the commit.
        branches: Hash of the last commit of each branch.
    """

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Put a commit on a branch."""
        parent = self.branches.get(branch, "")
        oid = hashlib.sha1(f"{parent} {len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def head(self, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a branch or commit."""
        return self.commits[self.branches.get(revision, revision)]


class HubServer:
    """The server.

    Args:
        tokens: Token of each user.
    """

    def __init__(self, tokens: dict[str, str]):
        """Start it, on a port that is free."""
        self.tokens = tokens
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Callable[[str, str], Exception | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                server._serve(self)

            do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = do

            def log_message(self, *arguments: Any) -> None:
                """Print nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        # Another host by its name, as the Hub's storage is: tokens are not sent there.
        self.storage = f"http://localhost:{self._http.server_port}/storage"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop it: from then on connections are refused."""
        self._http.shutdown()
        self._http.server_close()

    def count(self, method: str, pattern: str) -> int:
        """Count the requests whose path has the pattern."""
        return sum(method == of and re.search(pattern, path) is not None for of, path in self.requests)

    def fail_once(self, method: str, pattern: str, fault: Exception) -> None:
        """Have the next request whose path has the pattern fail."""

        def fail(of: str, path: str) -> Exception | None:
            if of != method or not re.search(pattern, path):
                return None
            self.faults.remove(fail)
            return fault

        self.faults.append(fail)

    def _serve(self, http: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(http.path).path)
        self.requests.append((http.command, path))
        length = int(http.headers.get("Content-Length") or 0)
        try:
            for fault in list(self.faults):
                if (error := fault(http.command, path)) is not None:
                    if isinstance(error, Dropped):
                        http.rfile.read(length // 2)
                    else:
                        http.rfile.read(length)
                    raise error
            body = http.rfile.read(length)
            token = (http.headers.get("Authorization") or "").removeprefix("Bearer ")
            user = next((name for name, of in self.tokens.items() if of == token), None)
            answer = self._answer(http.command, path, body, user)
        except Dropped:
            http.close_connection = True
            http.connection.close()
            return
        except Answer as raised:
            answer = raised
        self._send(http, answer)

    def _send(self, http: BaseHTTPRequestHandler, answer: Answer) -> None:
        status, headers, content = answer.status, dict(answer.headers), answer.content
        if not isinstance(content, bytes):
            headers.setdefault("Content-Type", "application/json")
            content = b"" if content is None else json.dumps(content).encode()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", http.headers.get("Range") or "")
        if status == 200 and asked and http.command == "GET":
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            status, content = 206, content[first : last + 1]
        http.send_response(status)
        for name, value in headers.items():
            http.send_header(name, value)
        http.send_header("Content-Length", str(len(content)))
        http.end_headers()
        if http.command != "HEAD":
            http.wfile.write(content)

    def _answer(self, method: str, path: str, body: bytes, user: str | None) -> Answer:
        if path == "/api/whoami-v2":
            if user is None:
                raise Answer(401, code="Unauthorized")
            return Answer(200, {"type": "user", "name": user, "orgs": []})
        if path == "/api/validate-yaml":
            errors = card_errors(json.loads(body)["content"])
            return Answer(400 if errors else 200, {"errors": [{"message": error} for error in errors], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body), user)
        if found := re.fullmatch(r"/storage/(\w+)", path):
            if method != "PUT":
                return Answer(200, self.objects[found[1]], {"ETag": f'"{found[1]}"'})
            if hashlib.sha256(body).hexdigest() != found[1]:
                raise Answer(400, {"error": "the content is not that of its hash"})
            self.objects[found[1]] = body
            return Answer(200)
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/(objects/batch|verify)", path):
            repository = self._repository(found[1], user, write=True)
            return self._large_files(found[1], found[2], json.loads(body))
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            repository = self._repository(found[1], user, files=True)
            return self._resolve(repository, found[2], found[3])
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/([\w-]+)(?:/(.+))?)?", path):
            write = found[2] in ("branch", "commit", "preupload")
            repository = self._repository(found[1], user, write=write, files=found[2] in ("paths-info", "tree"))
            return self._of_repository(method, found[1], repository, found[2], found[3], body)
        raise Answer(404, {"error": f"{method} {path} is nothing that this server knows"})

    def _create(self, asked: dict[str, Any], user: str | None) -> Answer:
        if user is None:
            raise Answer(401, code="Unauthorized")
        owner = asked.get("organization") or user
        if owner != user:
            raise Answer(403, code=f"You don't have the rights to create a model under the namespace {owner!r}")
        name = f"{owner}/{asked['name']}"
        created = {"url": f"{self.url}/{name}", "name": name}
        if name in self.repositories:
            raise Answer(409, {**created, "error": "You already created this model repo"})
        repository = self.repositories[name] = Repository(private=asked.get("visibility") == "private")
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return Answer(200, created)

    def _repository(self, name: str, user: str | None, *, write: bool = False, files: bool = False) -> Repository:
        repository = self.repositories.get(name)
        is_owner = user == name.split("/")[0]
        if repository is None or (repository.private and not is_owner):
            # Who is nobody gets 401, whatever there is: a 404 would tell what is private.
            raise Answer(401 if user is None else 404, code="RepoNotFound")
        if write and not is_owner:
            raise Answer(403, code="You don't have the rights to write to this repository")
        if files and repository.gated and not is_owner:
            raise Answer(401 if user is None else 403, code="GatedRepo")
        return repository

    def _large_files(self, name: str, action: str, asked: dict[str, Any]) -> Answer:
        if action == "verify":
            whole = len(self.objects.get(asked["oid"], b"")) == asked["size"]
            return Answer(200 if whole else 404, {})
        answers = []
        for wanted in asked["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                answer["actions"] = {
                    "upload": {"href": f"{self.storage}/{wanted['oid']}"},
                    "verify": {"href": f"{self.url}/{name}.git/info/lfs/verify"},
                }
            answers.append(answer)
        return Answer(200, {"transfer": "basic", "objects": answers})

    def _resolve(self, repository: Repository, revision: str, path: str) -> Answer:
        oid = self._revision(repository, revision)
        headers = {"X-Repo-Commit": oid}
        files = repository.commits[oid]
        if path not in files:
            raise Answer(404, headers=headers, code="EntryNotFound")
        content = files[path]
        if not path.endswith(_LFS):
            return Answer(200, content, {**headers, "ETag": f'"{_blob_id(content)}"'})
        sha256 = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        return Answer(302, None, {**headers, **linked, "Location": f"{self.storage}/{sha256}"})

    def _of_repository(
        self, method: str, name: str, repository: Repository, action: str | None, rest: str | None, body: bytes
    ) -> Answer:
        if action in (None, "revision"):
            oid = self._revision(repository, rest or "main")
            siblings = [{"rfilename": path} for path in repository.commits[oid]]
            gated = "manual" if repository.gated else False
            info = {"id": name, "modelId": name, "sha": oid, "private": repository.private, "gated": gated}
            return Answer(200, {**info, "siblings": siblings, "tags": []})
        if action == "refs":
            branches = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": oid}
                for branch, oid in repository.branches.items()
            ]
            return Answer(200, {"branches": branches, "tags": [], "converts": []})
        if action == "branch":
            if rest in repository.branches:
                raise Answer(409, {"error": "Reference already exists"})
            repository.branches[rest] = repository.branches["main"]
            return Answer(200)
        if action == "preupload":
            files = repository.commits[self._revision(repository, rest)]
            answers = []
            for wanted in json.loads(body)["files"]:
                answer = {"path": wanted["path"], "shouldIgnore": False}
                answer["uploadMode"] = "lfs" if wanted["path"].endswith(_LFS) else "regular"
                if wanted["path"] in files:
                    answer["oid"] = _file_info(wanted["path"], files[wanted["path"]])["oid"]
                answers.append(answer)
            return Answer(200, {"files": answers})
        if action == "commit":
            return self._commit(name, repository, rest, body)
        if action == "paths-info":
            files = repository.commits[self._revision(repository, rest)]
            wanted = json.loads(body)["paths"]
            return Answer(200, [_file_info(path, files[path]) for path in wanted if path in files])
        if action == "tree":
            revision, _, folder = rest.partition("/")
            oid = self._revision(repository, revision)
            if folder:  # no repository here has one
                raise Answer(404, headers={"X-Repo-Commit": oid}, code="EntryNotFound")
            return Answer(200, [_file_info(path, content) for path, content in repository.commits[oid].items()])
        raise Answer(404, {"error": f"{method} {action} is nothing that this server knows"})

    def _commit(self, name: str, repository: Repository, branch: str, body: bytes) -> Answer:
        files = dict(repository.commits[self._revision(repository, branch)])
        lines = [json.loads(line) for line in body.splitlines()]
        if lines[0]["key"] != "header" or not lines[0]["value"]["summary"]:
            raise Answer(400, {"error": "a commit starts with its header"})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    raise Answer(400, {"error": f"{value['path']} was not uploaded"})
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(branch, files)
        return Answer(200, {"commitUrl": f"{self.url}/{name}/commit/{oid}", "commitOid": oid, "pullRequestUrl": ""})

    def _revision(self, repository: Repository, revision: str) -> str:
        oid = repository.branches.get(revision, revision)
        if oid not in repository.commits:
            raise Answer(404, code="RevisionNotFound")
        return oid


def card_errors(content: str) -> list[str]:
    """Find what the Hub refuses in the metadata of a card: what it says of each field in its documentation."""
    found = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
    if found is None:
        return []
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [str(error)]
    errors = []
    if data.get("license", "mit") not in _LICENSES:
        errors.append(f'"license" must be one of {_LICENSES}')
    if data.get("pipeline_tag", _PIPELINE_TAGS[0]) not in _PIPELINE_TAGS:
        errors.append(f'"pipeline_tag" must be one of {_PIPELINE_TAGS}')
    for name in ("base_model", "datasets"):
        for value in data.get(name, []):
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", value):
                errors.append(f'"{name}" with value "{value}" is not valid. Use a model id from https://hf.co/models.')
    for index, model in enumerate(data.get("model-index", [])):
        for result in model["results"]:
            wanted = [result["task"].get("type"), result["dataset"].get("type"), result["dataset"].get("name")]
            wanted += [metric.get("type") for metric in result["metrics"]]
            values = [metric.get("value") for metric in result["metrics"]]
            if not model.get("name") or not all(wanted) or not all(isinstance(value, int | float) for value in values):
                errors.append(f'"model-index[{index}]" lacks what it requires')
    return errors


def _file_info(path: str, content: bytes) -> dict[str, Any]:
    info: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}
    if path.endswith(_LFS):
        sha256 = hashlib.sha256(content).hexdigest()
        info["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
        info["oid"] = sha256
    return info


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


__all__ = ["Answer", "Dropped", "HubServer", "Repository", "card_errors"]
