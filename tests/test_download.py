"""Downloads from a server on this machine that cuts files short, hangs, sends wrong bytes or ignores ranges."""
import hashlib
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from pediatric_ecg.core import DataError
from pediatric_ecg.data import LEIPZIG, download


def release():
    "A small release: three records and what belongs to no record."
    files = {}
    for record in ("x001", "x0010", "x002"):
        for ending, times in (("hea", 9), ("atr", 300), ("dat", 90_000)):
            name = f"{record}.{ending}"
            files[name] = (f"{name} ".encode() * times)[: times * 7]
    files["RECORDS"] = b"x001\nx002\nx0010\n"
    files["children-subject-info.csv"] = b"subject_id,file_name\n"
    files["docs/notes.txt"] = b"in a folder"
    return files


RELEASE = release()


class Server(BaseHTTPRequestHandler):
    "`faults`: file → faults of its next answers; the last one stays if it ends in '!'."

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, body):
        name = self.path[1:]
        self.log.append((self.command, name, self.headers.get("Range", "")))
        if name not in self.files or (not body and self.no_head):
            return self.send_error(404)
        data, fault = self.files[name], self.next_fault(name) if body else ""
        if fault == "busy":
            return self.send_error(503)
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and fault != "no ranges" else 0
        if start >= len(data) > 0:
            return self.send_error(416)
        if fault == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 4])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if body:
            half = start + (len(data) - start) // 2
            stop = half if fault in ("cut", "stall") else len(data)
            self.wfile.write(data[start:stop])
            self.wfile.flush()
        if fault == "stall":
            time.sleep(0.8)

    def next_fault(self, name):
        todo = self.faults.get(name, [])
        if not todo:
            return ""
        if todo[0].endswith("!"):
            return todo[0].rstrip("!")
        return todo.pop(0)


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))  # no waits between attempts
    running = []

    def start(files=RELEASE, faults=None, sums=None, no_head=False):
        if sums is None:
            lines = [f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in files.items()]
            sums = "".join(lines).encode()
        served = {**files, "SHA256SUMS.txt": sums}
        kind = type("Started", (Server,), {"files": served, "faults": faults or {}, "log": [], "no_head": no_head})
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/", kind

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def get(url, dest, records=None, retries=3):
    return download("leipzig", dest, records, url=url, progress=False, timeout=0.3, retries=retries)


def held(dest):
    "What a folder holds, without the list of checksums: name → bytes."
    found = [file for file in dest.rglob("*") if file.is_file() and file.name != "SHA256SUMS.txt"]
    return {str(file.relative_to(dest)): file.read_bytes() for file in found}


def test_whole_release_then_nothing_left(serve, tmp_path):
    url, server = serve()
    folder = tmp_path / "new" / "folder"
    assert get(url, folder) == folder
    assert held(folder) == RELEASE
    server.log.clear()
    get(url, folder)
    assert server.log == []


@pytest.mark.parametrize("fault", ["cut", "stall", "wrong", "busy", "no ranges"])
def test_a_passing_fault_ends_right(serve, tmp_path, fault):
    first = "cut" if fault == "no ranges" else fault
    url, server = serve(faults={"x001.dat": [first, fault], "x0010.atr": [fault]})
    get(url, tmp_path)
    assert held(tmp_path) == RELEASE
    ranges = [asked for _, name, asked in server.log if name == "x001.dat" and asked]
    assert bool(ranges) == (fault in ("cut", "stall", "no ranges"))  # what had come was asked for no second time


@pytest.mark.parametrize("fault, says", [
    ("cut", "the file ended too early"), ("stall", "in time|broke off"), ("wrong", "checksum is wrong"),
    ("busy", "the server answers 503")])
def test_a_lasting_fault_is_one_clear_line(serve, tmp_path, fault, says):
    url, server = serve(faults={"x001.dat": [fault + "!"]})
    with pytest.raises(DataError, match=f"x001.dat: .*({says}).*; run the same command again") as raised:
        get(url, tmp_path, retries=1)
    assert "\n" not in str(raised.value)
    kept = {name: data for name, data in held(tmp_path).items() if not name.endswith(".partial")}
    assert kept == {name: data for name, data in RELEASE.items() if name != "x001.dat"}
    server.faults.clear()
    server.log.clear()
    get(url, tmp_path)
    assert held(tmp_path) == RELEASE
    assert {name for _, name, _ in server.log} == {"x001.dat"}  # only what was missing


def test_a_damaged_file_is_fetched_again(serve, tmp_path):
    url, server = serve()
    get(url, tmp_path)
    (tmp_path / "x002.dat").write_bytes(b"damaged")
    (tmp_path / "x001.atr").unlink()
    server.log.clear()
    get(url, tmp_path)
    assert held(tmp_path) == RELEASE
    assert {name for _, name, _ in server.log} == {"x002.dat", "x001.atr"}


def test_a_part(serve, tmp_path):
    url, _ = serve()
    get(url, tmp_path, records=["x0010"])
    assert set(held(tmp_path)) == {
        "x0010.hea", "x0010.atr", "x0010.dat", "RECORDS", "children-subject-info.csv", "docs/notes.txt"}
    with pytest.raises(DataError, match="x077: no such record"):
        get(url, tmp_path, records=["x001", "x077"])
    get(url, tmp_path)
    assert held(tmp_path) == RELEASE


def test_a_complete_partial_of_an_earlier_call(serve, tmp_path):
    url, _ = serve()
    (tmp_path / "x001.dat.partial").write_bytes(RELEASE["x001.dat"])
    (tmp_path / "x002.dat.partial").write_bytes(b"something else altogether, but short")
    get(url, tmp_path)
    assert held(tmp_path) == RELEASE


def test_a_partial_goes_on_where_it_ended(serve, tmp_path):
    "The name and the bytes of a partial file are those of every version: it goes on by a range request."
    url, server = serve()
    half = len(RELEASE["x001.dat"]) // 2
    (tmp_path / "x001.dat.partial").write_bytes(RELEASE["x001.dat"][:half])
    get(url, tmp_path)
    assert held(tmp_path) == RELEASE
    assert ("GET", "x001.dat", f"bytes={half}-") in server.log


def test_a_full_disk(serve, tmp_path, monkeypatch):
    url, server = serve()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10_000))
    with pytest.raises(DataError, match="GB free, and .* GB are still to come"):
        get(url, tmp_path)
    assert {name for command, name, _ in server.log if command == "GET"} == {"SHA256SUMS.txt"}


def test_a_server_that_tells_no_sizes(serve, tmp_path):
    url, _ = serve(no_head=True)
    download(replace(LEIPZIG, size_mb=1.), tmp_path, url=url, progress=False)
    assert held(tmp_path) == RELEASE


@pytest.mark.parametrize("sums", [b"<html>not found</html>", b"", b"\xff\xfe\x00binary"])
def test_no_list_of_checksums(serve, tmp_path, sums):
    url, _ = serve(sums=sums)
    with pytest.raises(DataError, match="SHA256SUMS.txt: the server sent no list of checksums"):
        get(url, tmp_path)
    assert held(tmp_path) == {} and not (tmp_path / "SHA256SUMS.txt").exists()


def test_a_hostile_list(serve, tmp_path):
    url, _ = serve(sums=b"0" * 64 + b" ../outside.txt\n")
    with pytest.raises(DataError, match="leads out of the folder"):
        get(url, tmp_path / "in")


def test_no_server_no_url_no_folder(tmp_path):
    with pytest.raises(DataError, match="no connection"):
        get("http://127.0.0.1:9/", tmp_path / "a")
    with pytest.raises(DataError, match="no address is known"):
        download(replace(LEIPZIG, url=""), tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made"):
        get("http://127.0.0.1:9/", tmp_path / "file" / "c")
    with pytest.raises(DataError, match="unknown database"):
        download("nosuch", tmp_path)
