"""Every command is killed, at every rename and at random moments, started again, and must lose nothing.

    python tests/faults.py                 # the long form, `make test-faults`: 50 random moments for each command
    python tests/faults.py --short         # one rename for each command, and the other faults once; part of `make test`
    python tests/faults.py --only run      # one command, or several separated by commas

The commands run in forks of this process. It imports everything once and computes nothing itself, so that a fork costs
nothing and finds no threads. A rename is the moment at which a file or a folder becomes visible: a process that is
killed just before or just after it leaves the most misleading state.
"""
import argparse
import ctypes
import json
import mmap
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
from made_up_run import no_picture
from matplotlib.backends import backend_agg  # noqa: F401  imported here, so that no fork has to
from sklearn.ensemble import RandomForestClassifier

import pediatric_ecg.annotate  # noqa: F401  imported here, so that no fork has to
from pediatric_ecg import cli
from pediatric_ecg.core import digest
from pediatric_ecg.data import Database, register
from pediatric_ecg.evaluate import floors
from pediatric_ecg.experiments import RECIPES, Protocol
from pediatric_ecg.experiments.recipes import Recipe
from pediatric_ecg.report import render
from pediatric_ecg.sim import simulate  # noqa: F401
from pediatric_ecg.surroundings import import_matplotlib
from pediatric_ecg.train import TrainConfig

SMALL = {"epochs": 2, "per_group": 4, "batch_size": 16}
NETWORK = {"widths": [8, 8], "depth": 1, "heads": 2}
_NO_RESULT = ("elapsed_s", "folder", "store", "git")  # keys of a manifest
TIMES = ["seconds", "windows_per_s", "train_seconds"]  # columns of tables that are no result


def small_models():
    "Forests of few trees, and no boosting: these tests are of other things."
    floors.MODELS["forest"] = lambda: RandomForestClassifier(4, min_samples_leaf=2, random_state=0)
    floors.MODELS["boosting"] = floors.MODELS["regression"]
    RECIPES["faults"] = Recipe(
        {"loss": ["ce", "agcacl"]}, config=TrainConfig(**SMALL, model=NETWORK), protocol=Protocol(folds=2),
        splits=("patient",))


# ── processes ──


@dataclass
class Ended:
    "How a command ended."

    code: int  # exit code; -9: killed
    error: str  # what it wrote on stderr
    renames: int  # how many it made
    seconds: float  # how long it took


class Killer:
    "Counts the renames of this process, and kills it at one of them."

    def __init__(self, counter, at, when):
        self.counter, self.at, self.when = counter, at, when
        self.lock = threading.Lock()

    def watch(self, name):
        "Put a counting function into the place of one of `os`."
        rename = getattr(os, name)

        def counted(*args, **kwargs):
            with self.lock:
                number = int.from_bytes(self.counter[:4], "little") + 1
                self.counter[:4] = number.to_bytes(4, "little")
            if number == self.at and self.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*args, **kwargs)
            if number == self.at and self.when == "after":
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, name, counted)


def start(arguments, counter, at=None, when="before", first=None):
    "Fork, and run a command there. Returns the process id and where its stderr can be read."
    read, write = os.pipe()  # no file, which a full disk would cut off
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(write, 2)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
        killer = Killer(counter, at, when)
        killer.watch("replace")
        killer.watch("rename")
        if first is not None:
            first()
        counter[4] = 1  # from here on a signal meets the command
        code = cli.main([str(argument) for argument in arguments])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(pid, stderr, counter, begin):
    "Wait for the end of a process."
    with open(stderr, encoding="utf-8") as stream:
        error = stream.read()
    _, status = os.waitpid(pid, 0)
    seconds = time.monotonic() - begin
    return Ended(os.waitstatus_to_exitcode(status), error, int.from_bytes(counter[:4], "little"), seconds)


def call(arguments, at=None, when="before", after=None, sent=signal.SIGKILL, first=None):
    """Run a command to its end, or until it is killed: at a rename, or `after` seconds.

    `first` is called in the new process before the command."""
    counter, begin = mmap.mmap(-1, 8), time.monotonic()
    pid, stderr = start(arguments, counter, at, when, first)
    if after is not None:
        while not counter[4]:
            time.sleep(0.001)
        time.sleep(after)
        os.kill(pid, sent)
    return finish(pid, stderr, counter, begin)


def obey_permissions():
    "Root may write into any folder, whatever its permissions say, until this process gives that up (on Linux)."
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()  # twice: effective, permitted, inheritable
    if os.getuid() or libc.capget(header, data):
        return
    data[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


# ── what is there afterwards ──


def without_times(file):
    "The content of a file, less the times at which it was made and the places where."
    if file.name.endswith("history.csv") or file.name == "results.csv":
        table = pd.read_csv(file, low_memory=False)
        return table.drop(columns=TIMES, errors="ignore").to_csv(index=False)
    if file.name == "manifest.json" and file.parent.name != "store":
        manifest = json.loads(file.read_text())
        return {name: value for name, value in manifest.items() if name not in _NO_RESULT}
    if file.name in ("report.html", "model_card.md"):
        page = re.sub("Time(</dt><dd>|:\\*\\* )[^<\n]*", "", file.read_text())
        return len(re.sub("data:image/[^\"]*", "", page)) // 100  # the training curves hold times too
    return digest(file)


def content(folder):
    "Every file of a folder: name → content."
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {file.relative_to(folder).as_posix(): without_times(file) for file in files}


def differing(first, second):
    "Names of files that differ between two contents."
    return [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]


# ── the commands ──


class Quiet(SimpleHTTPRequestHandler):
    "Serves a folder, a little at a time, so that a download lasts for a while."

    def copyfile(self, source, outputfile):
        while block := source.read(1 << 14):
            outputfile.write(block)
            time.sleep(0.002)

    def log_message(self, *_):
        pass


def serve(folder):
    "Serve a folder in a process of its own. Returns its id and the address."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    server.handle_error = lambda *_: None  # a client that was killed
    pid = os.fork()
    if pid == 0:
        server.serve_forever()
    port = server.server_port
    server.socket.close()
    return pid, f"http://127.0.0.1:{port}"


class Material:
    "What the commands work on, made once; `commands` holds the arguments of each for a folder to write into."

    def __init__(self, folder, names):
        folder.mkdir()
        self.folder = folder
        self.records, self.store, self.run = (folder / name for name in ("records", "store", "run"))
        self.must(["simulate", self.records, "--patients", 6, "--seconds", 24, "--seed", 2])
        self.must(["prepare", self.records, "--out", self.store, "--jobs", 1])
        if {"annotate", "report"} & set(names):
            self.must(["train", self.store, "--out", self.run, *self.settings()])
        release = folder / "release"
        shutil.copytree(self.records, release)
        lines = [f"{digest(file)} {file.name}\n" for file in sorted(release.iterdir())]
        (release / "SHA256SUMS.txt").write_text("".join(lines))
        self.server, address = serve(release)
        register(Database("served", "simulated, from this machine", url=address, modalities={"ecg": ("II",)},
                          markers={"(N": "sinus rhythm"}))
        self.commands = {
            "simulate": lambda out: ["simulate", out / "database", "--patients", 3, "--seconds", 8],
            "download": lambda out: ["download", "served", out / "release"],
            "prepare": lambda out: ["prepare", self.records, "--out", out / "store", "--jobs", 1],
            "train": lambda out: ["train", self.store, "--out", out / "run", *self.settings()],
            "experiment": lambda out: ["experiment", self.store, "--out", out / "grid", "--recipe", "faults",
                                       "--jobs", 1],
            "run": lambda out: ["run", self.records, "--out", out / "run", *self.settings()],
            "annotate": lambda out: ["annotate", self.run, self.records / "x001", "--out", out / "annotated"],
            "report": self.report,
        }

    def settings(self):
        "Options of the smallest training."
        given = {**SMALL, **{f"model.{name}": value for name, value in NETWORK.items()}}
        options = [part for name, value in given.items() for part in ("--set", f"{name}={json.dumps(value)}")]
        return [*options, "--jobs", 1, "--quick"]

    def report(self, out):
        "A report is written into a run that is there."
        if not (out / "run").exists():
            shutil.copytree(self.run, out / "run")
            for name in ("report.html", "model_card.md", "examples.npz"):  # without windows, whose pictures take long
                (out / "run" / name).unlink()
        return ["report", out / "run"]

    def must(self, arguments):
        ended = call(arguments)
        assert ended.code == 0, ended

    def close(self):
        os.kill(self.server, signal.SIGKILL)
        os.waitpid(self.server, 0)


def without_locks(files):
    "What a killed process may leave, and the next call takes away, is left out."
    return {name: found for name, found in files.items() if not name.endswith(".lock")}


class Faults:
    "One command, what it gives when nothing happens, and what is done to it."

    def __init__(self, name, material, folder):
        self.name, self.command, self.folder = name, material.commands[name], folder
        self.number, self.problems = 0, []
        out = self.place()
        self.whole = call(self.command(out))
        assert self.whole.code == 0, self.whole.error
        self.expected = content(out)

    def place(self):
        "A new folder to write into."
        self.number += 1
        out = self.folder / f"{self.name}-{self.number}"
        out.mkdir()
        return out

    def note(self, what, problem):
        self.problems.append(f"{self.name}: {what}: {problem}")
        print(self.problems[-1], file=sys.stderr, flush=True)  # a long form that is stopped has told what it found

    def goes_on(self, out, what):
        "The same command ends well, and leaves what it would have left had nothing happened."
        if not differing(without_locks(self.expected), without_locks(content(out))):
            shutil.rmtree(out)  # it was finished: a second call would be refused
            return
        ended = call(self.command(out))
        if ended.code and "exists already" not in ended.error:  # what has its name is finished
            self.note(what, f"the next call ends with {ended.code}: {ended.error[-300:]}")
        else:
            found = content(out) if not ended.code else without_locks(content(out))  # refused before it took the lock
            others = differing(self.expected, found)
            if others:
                self.note(what, f"other files: {', '.join(others[:6])}")
        shutil.rmtree(out)

    def one_line(self, ended, code, what):
        "The command ended with this code and one line that names the program."
        lines = ended.error.splitlines()
        if ended.code != code or len(lines) != 1 or not lines[0].startswith("pediatric-ecg: "):
            self.note(what, f"ended with {ended.code}: {ended.error[-300:]!r}")

    def killed_at(self, number, when):
        out, what = self.place(), f"killed {when} rename {number}"
        ended = call(self.command(out), at=number, when=when)
        if ended.code != -signal.SIGKILL:
            self.note(what, f"ended with {ended.code}: {ended.error[-300:]}")
        self.goes_on(out, what)

    def killed_after(self, seconds):
        out = self.place()
        call(self.command(out), after=seconds)
        self.goes_on(out, f"killed after {seconds:.3f} s")

    def interrupted(self, seconds):
        "Ctrl-C."
        out, what = self.place(), f"Ctrl-C after {seconds:.3f} s"
        ended = call(self.command(out), after=seconds, sent=signal.SIGINT)
        if ended.code:  # else it was quicker
            self.one_line(ended, 130, what)
        self.goes_on(out, what)

    def full_disk(self, limit):
        "No file may become longer than `limit` bytes."
        out, what = self.place(), f"files of at most {limit} bytes"
        arguments = self.command(out)  # the folder of a report is made without a limit

        def no_room():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        ended = call(arguments, first=no_room)
        self.one_line(ended, 2, what)
        self.goes_on(out, what)

    def read_only(self):
        "The folder to write into belongs to somebody else."
        out = self.place()
        arguments = self.command(out)
        folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
        before = content(out)
        for path in folders:
            path.chmod(0o555)

        ended = call(arguments, first=obey_permissions)
        self.one_line(ended, 2, "read-only folder")
        if differing(before, content(out)):
            self.note("read-only folder", "something was written")
        for path in folders:
            path.chmod(0o755)
        self.goes_on(out, "read-only folder, made writable")

    def two_writers(self):
        "One of two processes may be refused; what is there afterwards is whole."
        out, begin = self.place(), time.monotonic()
        arguments, counters = self.command(out), [mmap.mmap(-1, 8), mmap.mmap(-1, 8)]
        started = [start(arguments, counter) for counter in counters]
        ended = [finish(*one, counter, begin) for one, counter in zip(started, counters, strict=True)]
        codes = sorted(one.code for one in ended)
        if codes not in ([0, 0], [0, 2]):
            self.note("two writers", f"ended with {codes}: {[one.error[-200:] for one in ended]}")
        for one in ended:
            if one.code:
                self.one_line(one, 2, "two writers")
        others = differing(self.expected, content(out))
        if others:
            self.note("two writers", f"other files: {', '.join(others[:6])}")
        shutil.rmtree(out)


def vanishing_record(material, folder):
    "A record disappears while the records are prepared; it is put back, and the same call goes on."
    problems, out = [], folder / "vanishing" / "store"
    records = folder / "records"
    shutil.copytree(material.records, records)
    command = ["prepare", records, "--out", out, "--jobs", 1]
    gone = records / "x003.dat"

    def remove_it():
        rename = os.replace

        def removing(*args, **kwargs):
            rename(*args, **kwargs)
            gone.unlink(missing_ok=True)

        os.replace = removing

    ended = call(command, first=remove_it)
    if ended.code != 2 or len(ended.error.splitlines()) != 1 or "x003" not in ended.error or out.exists():
        problems.append(f"a vanished record: ended with {ended.code}: {ended.error[-300:]}")
    shutil.copy(material.records / gone.name, gone)
    if call(command).code or differing(content(material.store), content(out)):
        problems.append("a vanished record: put back, the store is another one")
    return problems


def older_version(material, folder, names=("prepare", "run")):
    "What an older version left unfinished is refused in one line; once it is removed, nothing stands in the way."
    problems = []
    for name in names:
        out = folder / f"older-{name}"
        out.mkdir()
        command = material.commands[name](out)
        call(command, at=4)
        files = [*out.rglob("parameters.json"), *out.rglob("settings.json")]
        for file in files[:1]:
            parameters = json.loads(file.read_text())
            parameters["code" if name == "prepare" else "database"] = "older"
            file.write_text(json.dumps(parameters))
        ended = call(command)
        if ended.code != 2 or len(ended.error.splitlines()) != 1 or not re.search("remove|delete", ended.error):
            problems.append(f"left by an older version: {name} ended with {ended.code}: {ended.error[-300:]}")
        for left in out.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
        if call(command).code:
            problems.append(f"left by an older version: {name} is blocked after it was removed")
    return problems


# ── all of it ──

COMMANDS = ("simulate", "download", "prepare", "train", "experiment", "run", "annotate", "report")
SHORT = tuple(name for name in COMMANDS if name != "train")  # `run` trains too


def everything(faults, kills, draw):
    "The long form: each rename, before and after, and so many random moments. Returns the number of kills."
    for number in range(1, faults.whole.renames + 1):
        faults.killed_at(number, "before")
        faults.killed_at(number, "after")
    for _ in range(kills):
        faults.killed_after(draw.uniform(0, faults.whole.seconds))
    for _ in range(max(1, kills // 5)):
        faults.interrupted(draw.uniform(0, faults.whole.seconds))
    for limit in (0, 100, 2000, 20_000):
        faults.full_disk(limit)
    faults.read_only()
    faults.two_writers()
    return 2 * faults.whole.renames + kills


def a_few(faults, draw):
    "The short form: a rename, and one thing more where the command is quick."
    number = draw.randint(1, faults.whole.renames)
    faults.killed_at(number, draw.choice(["before", "after"]))
    if faults.name in ("simulate", "download"):
        faults.killed_after(draw.uniform(0, faults.whole.seconds))
        return 2
    if faults.name == "prepare":
        faults.full_disk(100)
        faults.read_only()
    if faults.name == "annotate":
        faults.interrupted(faults.whole.seconds / 2)
    return 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="random moments for each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names of commands, separated by commas")
    parser.add_argument("--short", action="store_true", help="one rename for each command")
    options = parser.parse_args()
    small_models()
    import_matplotlib()
    if options.short:
        render.data_uri = no_picture
    draw, problems = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = options.only.split(",") if options.only else SHORT if options.short else COMMANDS
        material = Material(folder / "material", names)
        try:
            for name in names:
                faults = Faults(name, material, folder)
                kills = a_few(faults, draw) if options.short else everything(faults, options.kills, draw)
                problems += faults.problems
                print(f"{name}: {faults.whole.renames} renames, killed {kills} times, "
                      f"{len(faults.problems)} problems", flush=True)
                print("".join(f"  {problem}\n" for problem in faults.problems), end="", flush=True)
            if not options.only:
                unfinished = ("prepare",) if options.short else ("prepare", "run")
                others = vanishing_record(material, folder) + older_version(material, folder, unfinished)
                print("".join(f"  {problem}\n" for problem in others), end="", flush=True)
                problems += others
        finally:
            material.close()
    print(f"{len(problems)} problems" if problems else "nothing was lost")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
