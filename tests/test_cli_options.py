"""Every option of every command with wrong values: one line, before any work, and nothing is left behind."""
import importlib
import json
import shutil

import pytest
import typer
from made_up_run import made_up_run

from pediatric_ecg import cli

OWN_TESTS = {"annotate", "explain"}  # their options are tried in test_annotate and test_explain
COUNTS = ["0", "-1", "x", "1.5", "1000000"]
SEEDS = ["-1", "x", str(2**31)]
LENGTHS = ["0", "-1", "nan", "inf", "x"]
JOBS = ["0", "x", "100000"]
OUTPUTS = [".", "", "FILE", "FULL"]  # the working folder, no name, a file, a folder with other content
SETTINGS = ["lr", "=1", "lrr=1", "lr=NaN", "epochs=abc", "model.depth=-1", "loss=nosuch", "network=nosuch"]
PREPARE = {
    "folder": ["NOTHING", "FILE", "EMPTY"], "database": ["nosuch", "NOTHING.json"],
    "seconds": [*LENGTHS, "1e9", "0.001"], "stride": [*LENGTHS, "1e9"], "grouping": ["nosuch"],
    "label": ["foo", ""], "jobs": JOBS, "out": OUTPUTS}
TRAIN = {
    "out": OUTPUTS, "loss": ["nosuch", ""], "epochs": COUNTS, "repeats": COUNTS, "seed": SEEDS, "jobs": JOBS,
    "more": SETTINGS, "simulated": ["-1", "x", "1.5", "1000000"]}
WRONG = {
    "simulate": {
        "out": OUTPUTS, "patients": ["0", "-1", "x", "100000000"], "seconds": [*LENGTHS, "1e12"], "seed": SEEDS,
        "labels": ["NOTHING", "EMPTY"], "hours": LENGTHS, "jobs": JOBS},
    "download": {"name": ["nosuch", "NOTHING.json"], "dest": ["FILE"], "records": ["", ",", "x001,"]},
    "check": {"folder": ["NOTHING", "FILE", "EMPTY"], "database": ["nosuch"], "jobs": JOBS},
    "prepare": PREPARE,
    "train": TRAIN | {"store": ["NOTHING", "FILE", "EMPTY"]},
    "run": PREPARE | TRAIN,
    "evaluate": {"run": ["NOTHING", "FILE", "EMPTY"]},
    "report": {"run": ["NOTHING", "FILE", "EMPTY"]},
    "reproduce": {
        "run": ["NOTHING", "FILE", "EMPTY"], "out": [".", "", "FILE", "FULL"], "records": ["NOTHING", "FILE", "EMPTY"],
        "jobs": JOBS},
    "compare": {"runs": ["NOTHING", "FILE", "EMPTY"], "split": ["nosuch", ""], "out": ["FILE"]},
    "pretrain": {
        "name": ["nosuch", ""], "out": OUTPUTS, "patients": ["7", "x", "1000000"], "seconds": LENGTHS,
        "epochs": COUNTS, "seed": SEEDS, "jobs": JOBS},
    "experiment": {
        "store": ["NOTHING", "FILE", "EMPTY"], "out": OUTPUTS, "recipe": ["nosuch", "", "NOTHING.json", "BAD.json"],
        "only": ["loss", "=ce", "loss=nosuch", "nosuch=1", "loss="], "split": ["nosuch", "transfer"], "jobs": JOBS,
        "epochs": COUNTS, "repeats": COUNTS, "more": SETTINGS, "simulated": ["-1", "x", "1.5"]}}
RIGHT = {  # what stands where the value is right
    "simulate": ["OUT"], "download": ["mitdb", "OUT"], "check": ["RECORDS"], "prepare": ["RECORDS", "--out", "OUT"],
    "train": ["STORE", "--out", "OUT"], "run": ["RECORDS", "--out", "OUT"], "evaluate": ["RUN"], "report": ["RUN"],
    "reproduce": ["RUN", "--out", "OUT"], "compare": ["RUN", "COPY"], "pretrain": ["ecg-2", "--out", "OUT"],
    "experiment": ["STORE", "--out", "OUT", "--recipe", "losses"]}
POSITIONS = {"compare": ["runs"]}


def commands():
    "The commands, as typer builds them."
    return typer.main.get_command(cli.app).commands


def options(command):
    "Name → switch ('' for an argument) of whatever takes a value."
    found = {}
    for parameter in commands()[command].params:
        if not getattr(parameter, "is_flag", False) and parameter.name != "help":
            found[parameter.name] = parameter.opts[0] if parameter.opts[0].startswith("-") else ""
    return found


CASES = [(command, name, value) for command, named in WRONG.items() for name, values in named.items()
         for value in values]


def test_every_option_of_every_command_has_wrong_values():
    assert set(WRONG) == set(commands()) - OWN_TESTS
    for command, named in WRONG.items():
        assert set(named) == set(options(command)), command


@pytest.fixture(scope="module")
def places(simdb, simstore, tmp_path_factory):
    "What the words in capitals stand for; all that exists lies in a folder of its own."
    home = tmp_path_factory.mktemp("places")
    (home / "file").write_text("dear diary\n")
    (home / "bad.json").write_text(json.dumps({"vary": {"lossy": ["ce"]}}))
    (home / "empty").mkdir()
    (home / "full").mkdir()
    (home / "full" / "thesis.docx").write_text("dear")
    shutil.copytree(made_up_run(home / "run"), home / "copy")
    return {
        "FILE": home / "file", "EMPTY": home / "empty", "FULL": home / "full", "NOTHING": home / "no" / "such",
        "NOTHING.json": home / "nothing.json", "BAD.json": home / "bad.json", "RECORDS": simdb,
        "STORE": simstore.path, "RUN": home / "run", "COPY": home / "copy"}


def listing(folder):
    "All files and folders with their sizes, without the lists that a database keeps of itself."
    return sorted((str(path), path.stat().st_size if path.is_file() else None) for path in folder.rglob("*"))


@pytest.fixture
def no_work(monkeypatch):
    "Whoever begins to work with a wrong value has a bug."

    def begin(*arguments, **options):
        raise AssertionError("work has begun")

    for place in ("windows.prepare._prepare_record", "experiments.run.run_fold", "experiments.grid.run_fold",
                  "sim.simulator._record", "experiments.pretrain.simulate_people", "data.download._registry",
                  "windows.people.prepare"):
        module, _, name = place.rpartition(".")
        monkeypatch.setattr(importlib.import_module(f"pediatric_ecg.{module}"), name, begin)


@pytest.mark.parametrize(("command", "name", "value"), CASES)
def test_a_wrong_value_is_one_line_before_any_work(command, name, value, places, no_work, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    switch, given = options(command)[name], str(places.get(value, value))
    line = [str(places.get(word, word)) for word in RIGHT[command]]
    if switch and switch in line:
        line[line.index(switch) + 1] = given
    elif switch:
        line += [f"{switch}={given}"]
    else:
        arguments = [other for other, opts in options(command).items() if not opts]
        line[arguments.index(name)] = given
    if "--jobs" in options(command).values() and name != "jobs":
        line += ["--jobs", "1"]
    before = listing(places["FILE"].parent)
    code = cli.main([command, *line])
    out, err = capfd.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), (line, code, out, err)
    assert err.startswith("pediatric-ecg: error: ") and len(err) < 700
    assert list(tmp_path.iterdir()) == [] and listing(places["FILE"].parent) == before
