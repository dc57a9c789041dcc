"""Kaggle on this machine: a small server that answers the real client as the site does, and counts what it is asked."""

import io
import json
import os
import sys
import tempfile
import threading
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import histofold

TOKEN = "KGAT_0123456789abcdef0123456789abcdef"
OWNER = "ada"
# Loaded by the client's process through PYTHONPATH: it sends the client here instead of to the site.
SITE_CUSTOMIZE = """\
import os
if "LOOPBACK_URL" in os.environ:
    from kagglesdk import kaggle_env
    kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = os.environ["LOOPBACK_URL"]
"""


class RefusalError(Exception):
    """An answer that is an HTTP error."""

    def __init__(self, code, message=""):
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class FakeKaggle:
    """The state of the site.

    Attributes:
        refusals: HTTP codes by method, taken one after the other before a method works again.
        messages: The same as pairs of code and message.
        processing: As many questions after an upload are answered "being processed".
        runs: What each pushed version of the kernel does: a list of statuses, the last of which stays.
        scoring: Statuses of a submission, the last of which stays.
        after: What to do by method when it is done, before the answer goes out.
    """

    url: str = ""
    calls: list = field(default_factory=list)
    refusals: dict = field(default_factory=dict)
    messages: dict = field(default_factory=dict)
    processing: int = 1
    datasets: dict = field(default_factory=dict)
    blobs: dict = field(default_factory=dict)
    kernels: dict = field(default_factory=dict)
    runs: list = field(default_factory=lambda: [["QUEUED", "RUNNING", "COMPLETE"]])
    failure: str = ""
    log: str = "all is well\n"
    output: dict = field(default_factory=lambda: {"submission.csv": b"id,rle\nt1,1 1\n"})
    submissions: list = field(default_factory=list)
    scoring: list = field(default_factory=lambda: ["PENDING", "COMPLETE"])
    error_description: str = ""
    lost_uploads: int = 0
    after: dict = field(default_factory=dict)

    def count(self, method):
        return sum(name == method for name, _ in self.calls)

    def bodies(self, method):
        return [body for name, body in self.calls if name == method]

    def answer(self, method, body):
        self.calls.append((method, body))
        try:
            if self.refusals.get(method):
                raise RefusalError(self.refusals[method].pop(0))
            if self.messages.get(method):
                raise RefusalError(*self.messages[method].pop(0))
            return getattr(self, f"on_{method}")(body)
        finally:
            if method in self.after:
                self.after[method]()

    # --- the methods of the site ----------------------------------------------------------------------------------

    def on_IntrospectToken(self, body):
        return {"active": body["token"] == TOKEN, "username": OWNER if body["token"] == TOKEN else ""}

    def on_GetDatasetStatus(self, body):
        dataset = self._dataset(body)
        if dataset["left"] > 0:
            dataset["left"] -= 1
            return {"status": "BLOBS_RECEIVED"}
        return {"status": dataset["status"]}

    def on_GetDataset(self, body):
        dataset = self._dataset(body)
        return {"ref": "x", "currentVersionNumber": len(dataset["versions"])}

    def on_StartBlobUpload(self, body):
        token = f"blob{len(self.blobs)}"
        self.blobs[token] = {"name": body["name"], "content": None}
        return {"token": token, "createUrl": f"{self.url}/blob/{token}"}

    def on_CreateDataset(self, body):
        name = f"{body['ownerSlug']}/{body['slug']}"
        self.datasets[name] = {"versions": [self._files(body)], "left": self.processing, "status": "READY"}
        return {"status": "ok", "url": f"{self.url}/{name}", "ref": name}

    def on_CreateDatasetVersion(self, body):
        dataset = self._dataset(body)
        if dataset["left"] > 0:
            raise RefusalError(403)
        dataset["versions"].append(self._files(body["body"]))
        dataset["left"] = self.processing
        return {"status": "ok", "url": self.url, "ref": "x"}

    def on_GetKernel(self, body):
        versions = self.kernels.get(f"{body['userName']}/{body['kernelSlug']}")
        if not versions:
            raise RefusalError(404, "Not found")
        return {"metadata": {"currentVersionNumber": len(versions)}, "blob": {"source": ""}}

    def on_SaveKernel(self, body):
        versions = self.kernels.setdefault(body["slug"], [])
        versions.append(list(self.runs[min(len(versions), len(self.runs) - 1)]))
        return {"ref": body["slug"], "url": f"{self.url}/code", "versionNumber": len(versions)}

    def on_GetKernelSessionStatus(self, body):
        run = self.kernels[f"{body['userName']}/{body['kernelSlug']}"][-1]
        status = run.pop(0) if len(run) > 1 else run[0]
        return {"status": status, "failureMessage": self.failure if status == "ERROR" else None}

    def on_ListKernelSessionOutput(self, body):
        failed = self.kernels[f"{body['userName']}/{body['kernelSlug']}"][-1] == ["ERROR"]
        files = [] if failed else [{"url": f"{self.url}/file/{name}", "fileName": name} for name in self.output]
        return {"files": files, "log": self.log}

    def on_CreateCodeSubmission(self, body):
        states = list(self.scoring)
        self.submissions.insert(0, {"description": body["submissionDescription"], "states": states})
        return {"message": f"Successfully submitted to {body['competitionName']}", "ref": len(self.submissions)}

    def on_GetSubmissionLimits(self, body):
        return {"numAllowedNow": 4}

    def on_ListSubmissions(self, body):
        return {"submissions": [self._shown(entry, number) for number, entry in enumerate(self.submissions)]}

    def on_DownloadDataFiles(self, body):
        return {"redirect": f"{self.url}/file/{body['competitionName']}.zip"}

    # ----------------------------------------------------------------------------------------------------------------

    def _dataset(self, body):
        name = f"{body['ownerSlug']}/{body['datasetSlug']}"
        if name not in self.datasets:
            raise RefusalError(403, "Permission 'datasets.get' was denied")
        return self.datasets[name]

    def _files(self, body):
        return {self.blobs[file["token"]]["name"]: self.blobs[file["token"]]["content"] for file in body["files"]}

    def _shown(self, entry, number):
        states = entry["states"]
        status = states.pop(0) if len(states) > 1 else states[0]
        scores = {"publicScore": "0.71", "privateScore": "0.69"} if status == "COMPLETE" else {}
        error = {"errorDescription": self.error_description} if status == "ERROR" else {}
        told = {"ref": 9000 + len(self.submissions) - number, "description": entry["description"], "status": status}
        return told | scores | error | {"fileName": "submission.csv", "date": "2022-09-01T10:00:00.000Z"}


class Handler(BaseHTTPRequestHandler):
    """HTTP for a FakeKaggle, which the server carries as `site`."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        method = self.path.rsplit("/", 1)[1]
        if method != "IntrospectToken" and TOKEN not in self.headers.get("Authorization", ""):
            self._send(401, {"code": 401, "message": "Unauthenticated"})
            return
        try:
            answer = self.server.site.answer(method, body)
            self._send(302 if "redirect" in answer else 200, answer)
        except RefusalError as refusal:
            told = {"code": refusal.code, "message": refusal.message} if refusal.message else None
            self._send(refusal.code, told)

    def do_PUT(self):
        site, token = self.server.site, self.path.rsplit("/", 1)[1]
        length = self.headers.get("Content-Length")
        content = self.rfile.read(int(length)) if length is not None else self._chunks()
        if site.lost_uploads > 0:
            site.lost_uploads -= 1
            self._send(400, None)
            return
        if "bytes */" not in self.headers.get("Content-Range", ""):
            site.blobs[token]["content"] = content
        self._send(200, {})

    def do_GET(self):
        content = self.server.site.output[self.path.removeprefix("/file/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _chunks(self):
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _send(self, code, answer):
        content = json.dumps(answer).encode() if answer is not None else b""
        self.send_response(code)
        if code == 302:
            self.send_header("Location", answer["redirect"])
        if answer is not None:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Nothing: the calls are noted by the site."""


@contextmanager
def loopback(folder):
    """A site, and the environment that sends the client to it; what the client writes lies below the folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = FakeKaggle(url=f"http://127.0.0.1:{server.server_address[1]}")
    server.site = site
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    for name in ("home", "tmp", "site"):
        (folder / name).mkdir(parents=True)
    (folder / "site" / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    environment = {
        "LOOPBACK_URL": site.url,
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "KAGGLE_API_TOKEN": TOKEN,
        "PYTHONPATH": f"{folder / 'site'}{os.pathsep}{Path(histofold.__file__).parents[1]}",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "NO_PROXY": "127.0.0.1",
    }
    try:
        yield site, environment
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def client_in_process(command, lock, limit_s=None):
    """Stands in for the client's own process: the same code in this one, which saves its start.

    Args:
        command: `-m kaggle ...` or `-m histofold.kaggle.submit.client ...`.
        lock: Not needed here.
        limit_s: Not kept here.

    Returns:
        Exit status and all that it prints.
    """
    del lock, limit_s
    from kagglesdk import kaggle_env

    for env in kaggle_env.KaggleEnv:
        kaggle_env._env_to_endpoint[env] = os.environ["LOOPBACK_URL"]
    printed = io.StringIO()
    argv, folder, tempfile.tempdir = sys.argv, tempfile.tempdir, os.environ["TMPDIR"]
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            sys.argv = ["kaggle", *command[2:]]
            code = _run_client(command[1], command[2:])
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            sys.argv, tempfile.tempdir = argv, folder
    return code, printed.getvalue()


def _run_client(module, arguments):
    from kaggle.cli import main

    from histofold.kaggle.submit.client import probe
    from kaggle import api

    api.config_values, api._authenticated = {}, False
    api.authenticate()
    return (main() or 0) if module == "kaggle" else probe(*arguments)


def submit_in_child(environment, folder, arguments, own_process):
    """The body of a process that is killed: the command, with the client in it or in a process of its own."""
    from histofold.commands.main import main
    from histofold.kaggle.submit import client

    os.environ.update(environment)
    os.chdir(folder)
    if not own_process:
        client.run_process = client_in_process
    sys.exit(main(arguments))
