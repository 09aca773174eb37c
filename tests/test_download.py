"""Downloads from a server on this machine that cuts files short, hangs, sends wrong bytes or ignores ranges."""

import hashlib
import re
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

from pediatric_ecg.core import DataError
from pediatric_ecg.data import LEIPZIG, download
from pediatric_ecg.surroundings import locked


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
        name = unquote(self.path[1:])
        self.paths.append(self.path)
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
        if fault == "endless":
            return self.send_without_end()
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

    def send_without_end(self):
        "Bytes until the other side has enough; it is an error if it never has."
        self.send_response(200)
        self.end_headers()
        for block in range(5000):
            try:
                self.wfile.write(b"more" * 16_384)
            except OSError:
                self.ended.append(block)
                return None

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
        kind.paths, kind.ended = [], []
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


@pytest.mark.parametrize(
    "fault, says",
    [
        ("cut", "the file ended too early"),
        ("stall", "in time|broke off"),
        ("wrong", "checksum is wrong"),
        ("busy", "the server answers 503"),
    ],
)
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
        "x0010.hea",
        "x0010.atr",
        "x0010.dat",
        "RECORDS",
        "children-subject-info.csv",
        "docs/notes.txt",
    }
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
    download(replace(LEIPZIG, size_mb=1.0), tmp_path, url=url, progress=False)
    assert held(tmp_path) == RELEASE


def test_progress_in_a_log_is_a_plain_line_in_bytes(serve, tmp_path, capsys, monkeypatch):
    "As of all long work: no bar where nobody watches, and no letters that go back to the beginning of a line."
    monkeypatch.setattr("pediatric_ecg.surroundings.SECONDS_BETWEEN_LINES", 1e-9)
    url, _ = serve(no_head=True)
    download(replace(LEIPZIG, size_mb=5.0), tmp_path, url=url)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"leipzig: [\d.]+[kM]?B of 5.00MB, \d\d:\d\d so far, \S+ left", line), line


@pytest.mark.parametrize("sums", [b"<html>not found</html>", b"", b"\xff\xfe\x00binary"])
def test_no_list_of_checksums(serve, tmp_path, sums):
    url, _ = serve(sums=sums)
    with pytest.raises(DataError, match="SHA256SUMS.txt: the server sent no list of checksums"):
        get(url, tmp_path)
    assert held(tmp_path) == {} and not (tmp_path / "SHA256SUMS.txt").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../outside.txt",
        "/tmp/outside.txt",
        "a/../../outside.txt",
        "~/outside.txt",
        "~root/x",
        "C:/outside.txt",
        "a\\b.txt",
        "a\0b.txt",
        "a\x1bb.txt",
        "a/" * 50 + "b.txt",
        "x" * 300,
    ],
)
def test_a_hostile_list(serve, tmp_path, name):
    url, server = serve(sums=b"0" * 64 + b" " + name.encode() + b"\n" + b"1" * 64 + b" x001.hea\n")
    with pytest.raises(
        DataError, match="SHA256SUMS.txt: .*(leads out|no name of a file|too long|longer than|no checksum)"
    ):
        get(url, tmp_path / "in" / "folder")
    assert held(tmp_path) == {}
    assert not [name for command, name, _ in server.log if command == "GET" and name != "SHA256SUMS.txt"]


def test_names_with_blanks_and_letters_outside_ascii(serve, tmp_path):
    files = {"Über uns, 1.hea": b"1", "Über uns, 1.dat": b"22", "a b/c#d?e%20f.txt": b"333", "+&=.csv": b"4444"}
    url, server = serve(files)
    get(url, tmp_path)
    assert held(tmp_path) == files
    assert all(path.isascii() and " " not in path and "#" not in path for path in server.paths)
    get(url, tmp_path / "part", records=["Über uns, 1"])
    assert held(tmp_path / "part") == files
    half = "Über uns, 1.dat.partial"
    (tmp_path / "part" / "Über uns, 1.dat").unlink()
    (tmp_path / "part" / half).write_bytes(b"2")
    get(url, tmp_path / "part")
    assert held(tmp_path / "part") == files and ("GET", "Über uns, 1.dat", "bytes=1-") in server.log


@pytest.mark.parametrize("no_head, says", [(False, "the 630,000 bytes that it told"), (True, "2,000,000 bytes")])
def test_a_server_that_sends_without_end_is_stopped(serve, tmp_path, no_head, says):
    url, server = serve(faults={"x001.dat": ["endless!"]}, no_head=no_head)
    with pytest.raises(DataError, match=f"x001.dat: the server sends more than {says}"):
        download(replace(LEIPZIG, size_mb=1.0), tmp_path, url=url, progress=False, timeout=0.3)
    assert not (tmp_path / "x001.dat").exists() and not (tmp_path / "x001.dat.partial").exists()
    others = {name: data for name, data in RELEASE.items() if name != "x001.dat"}
    assert held(tmp_path) == others


def test_a_list_without_end_is_stopped(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["pediatric_ecg.data.download"], "_LONGEST_LIST", 1_000_000)
    url, _ = serve(faults={"SHA256SUMS.txt": ["endless!"]})
    with pytest.raises(DataError, match="SHA256SUMS.txt: the list goes on behind 1,000,000 bytes"):
        get(url, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_links_on_the_disk_lead_nowhere_else(serve, tmp_path):
    url, _ = serve()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "x001.dat.partial").symlink_to(outside / "mine")
    (inside / "x002.dat").symlink_to(outside / "mine")
    get(url, inside)
    assert held(inside) == RELEASE and held(outside) == {"mine": b"mine"}
    for file in (inside / "docs").iterdir():
        file.unlink()
    (inside / "docs").rmdir()
    (inside / "docs").symlink_to(outside)
    with pytest.raises(DataError, match="a link leads out of the folder"):
        get(url, inside)
    assert held(outside) == {"mine": b"mine"}


def test_files_that_are_folders(serve, tmp_path):
    url, _ = serve({"a": b"1", "a/b": b"2"})
    with pytest.raises(DataError, match="'a' is a file, and a folder as well"):
        get(url, tmp_path)
    url, _ = serve()
    (tmp_path / "new" / "x001.dat").mkdir(parents=True)
    with pytest.raises(DataError, match="x001.dat: a folder stands where a file is to come"):
        get(url, tmp_path / "new")


@pytest.mark.parametrize(
    "settings", [dict(n_jobs=0), dict(n_jobs=10**9), dict(timeout=0), dict(timeout=float("nan")), dict(retries=-1)]
)
def test_settings_that_make_no_sense(tmp_path, settings):
    with pytest.raises(DataError, match="ask for 1 to 64 files"):
        download(LEIPZIG, tmp_path, progress=False, **settings)


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


def test_a_second_download_into_the_folder_is_refused(serve, tmp_path):
    "Both would write into the same partial files. Where nothing is missing, nobody is refused."
    url, _ = serve()
    with locked(tmp_path / ".download.lock", tmp_path):
        with pytest.raises(DataError, match="another process is writing it"):
            get(url, tmp_path)
    get(url, tmp_path)
    with locked(tmp_path / ".download.lock", tmp_path):
        get(url, tmp_path)
    assert held(tmp_path) == RELEASE
