"""The command line: help at once, results on stdout, a user's mistake in one line with code 2."""
import importlib
import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
from made_up_run import FLOW, SUBJECT_NOTES, made_up_run

from pediatric_ecg import cli
from pediatric_ecg.experiments import RECIPES, Protocol
from pediatric_ecg.experiments.pretrain import NETWORKS
from pediatric_ecg.experiments.run import QUICK
from pediatric_ecg.losses import OBJECTIVES
from pediatric_ecg.nn.peers import PEERS
from pediatric_ecg.report import text_table
from pediatric_ecg.train import TrainConfig

COMMANDS = ("simulate download check prepare train run evaluate report compare annotate explain reproduce experiment "
            "pretrain").split()


def assert_mistake(result, *words):
    "Code 2, nothing on stdout, one line on stderr that holds all words and no traceback."
    code, out, err = result
    assert code == 2 and out == "", (code, out, err)
    assert err.startswith("pediatric-ecg: error: ") and err.endswith("\n") and err.count("\n") == 1, err
    for word in words:
        assert str(word) in err, (word, err)


@pytest.fixture
def records(simdb, tmp_path):
    "A copy of two simulated records that a test may spoil."
    folder = tmp_path / "records"
    folder.mkdir()
    for path in simdb.iterdir():
        if path.stem in ("x001", "x002") or path.suffix not in (".hea", ".dat", ".atr"):
            shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(call, command):
    code, out, err = call(command, "--help")
    assert code == 0 and err == ""
    assert f"pediatric-ecg {command}" in out and len(out.splitlines()) > 5


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_type_of_a_programming_language(call, command):
    "An option says N, S or NAME; what a value is stands in words behind it."
    out = call(command, "--help")[1]
    assert not re.search(r"--\w+ <", out), out
    commands = call("--help")[1].partition("Commands:")[2]
    assert "..." not in commands, "a sentence that does not fit"


def test_help_lists_the_commands_and_loads_nothing_heavy():
    script = """
import sys
from pediatric_ecg.cli import main
code = main(["--help"])
print(code, [name for name in ("torch", "wfdb", "pandas", "matplotlib", "scipy") if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "0 []"
    assert all(f"  {c} " in out for c in COMMANDS)


def test_version(call):
    from pediatric_ecg import __version__

    assert call("--version") == (0, f"pediatric-ecg {__version__}\n", "")


@pytest.mark.parametrize("args", [
    [], ["fly"], ["run"], ["run", "here"], ["simulate", "x", "--patients", "six"], ["report", "--no-such-option"]])
def test_wrong_command_lines(call, args):
    assert_mistake(call(*args), "--help")


@pytest.mark.parametrize(("setting", "words"), [
    ("epochs=abc", "epochs must be a whole number"),
    ("lr=NaN", "lr must be at least"),
    ("nosuch=1", "--set nosuch: no such setting; there are loss, "),
    ("model.nosuch=1", "model has no setting 'nosuch'"),
    ("augment.nosuch=1", "augment has no setting 'nosuch'"),
    ("loss_args.foo=1", "unexpected keyword argument 'foo'"),
    ("model.dropout=abc", "model.dropout"),
    ("model.n_classes=3", "determined by the windows"),
    ("model.fusion=x", "fusion must be one of"),
    ("augment.noise=-1", "noise must lie in"),
    ("augment.enabled=2", "augment.enabled"),
    ("weight_decay=NaN", "weight_decay must be at least 0"),
    ("warmup=5", "warmup must be at most 1"),
    ("lr=Infinity", "lr must be at most"),
    ("batch_size=10000000000", "batch_size must be at most"),
    ("epochs=" + 5000 * "9", "epochs must be a whole number"),
    ("model.x=" + 100000 * "[", "no setting 'x'"),
    ("=1", "write NAME=VALUE"),
    ("accelerator=nosuch", "accelerator='nosuch'"),
    ("precision=17", "precision must be text"),
    ("shots=1", "belongs to 'experiment'")])
def test_a_wrong_setting_is_one_line(call, simstore, tmp_path, setting, words):
    assert_mistake(call("train", simstore.path, "--out", tmp_path / "run", "--set", setting), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [
    ["--jobs", "0"], ["--jobs", "100000"], ["--seed", "-1"], ["--seed", str(2**31)], ["--epochs", "0"],
    ["--epochs", "1000000"], ["--repeats", "0"], ["--repeats", "1000000"]])
def test_numbers_out_of_their_range(call, tmp_path, option):
    assert_mistake(call("train", tmp_path, "--out", tmp_path / "run", *option), option[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("option", ["--seconds", "--stride"])
def test_lengths_are_above_zero(call, tmp_path, option, value):
    "Zero is not the same as left out."
    assert_mistake(call("prepare", tmp_path, "--out", tmp_path / "store", option, value), option, "above 0")
    if option == "--stride":
        assert_mistake(call("annotate", tmp_path, "x", "--out", tmp_path / "notes", option, value), option)


def test_run_and_prepare_print_the_flow_where_it_is_recorded(capsys):
    cli._print_flow(FLOW, SUBJECT_NOTES, Path("run"))
    out = capsys.readouterr().out
    assert "16 listed, 15 here, 1 left out on purpose, 14 annotated, 13 labelled, 12 with windows" in out
    assert "no window from m13: no rhythm marker" in out and "no rule says who the patients are" in out
    assert max(map(len, out.splitlines())) <= 130
    cli._print_flow({}, [], Path("run"))
    assert capsys.readouterr().out == ""


def test_settings_of_the_command_line_reach_the_training():
    s = cli._settings("ce", 1, 2, 7, False, ["model.norm=group", "model.dropout=0", "batch_size=16"])
    config, protocol = s["config"], s["protocol"]
    assert (config.loss, config.epochs, config.batch_size) == ("ce", 1, 16)
    assert config.model == {"norm": "group", "dropout": 0}
    assert (protocol.repeats, protocol.seed) == (2, 7)


@pytest.mark.parametrize("epochs", [1, TrainConfig().epochs, 21])
def test_quick_stands_in_for_what_is_not_given(epochs):
    "A number that is asked for stays, also when it happens to be the default."
    s = cli._settings("ce", epochs, 2, 7, True, ["batch_size=32"])
    assert (s["config"].epochs, s["config"].batch_size) == (epochs, 32)
    assert s["config"].per_group == QUICK["config"]["per_group"]
    assert s["protocol"] == Protocol(**QUICK["protocol"], repeats=2, seed=7)


def test_quick_alone_is_the_smallest():
    s = cli._settings("agcacl", None, 1, 0, True, None)
    assert s == {"config": TrainConfig(**QUICK["config"]), "protocol": Protocol(**QUICK["protocol"])}


@pytest.mark.parametrize("command", ["run", "train"])
def test_help_names_every_loss(call, command):
    words = call(command, "--help")[1].replace(",", " ").split()
    assert set(OBJECTIVES) <= set(words)


def test_help_names_every_recipe(call):
    out = call("experiment", "--help")[1]
    for name, recipe in RECIPES.items():
        assert any(line.split()[:1] == [name] and recipe.description in line for line in out.splitlines()), name


def test_empty_folder(call, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_mistake(call("run", tmp_path / "empty", "--out", tmp_path / "out", "--quick"), tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_folder_that_is_not_there(call, tmp_path):
    assert_mistake(call("prepare", tmp_path / "no", "--out", tmp_path / "out"), tmp_path / "no")


def test_folder_without_annotations(call, records, tmp_path):
    for path in records.glob("*.atr"):
        path.unlink()
    assert_mistake(call("run", records, "--out", tmp_path / "out", "--quick", "--jobs", 1), records)
    assert not (tmp_path / "out").exists()


def test_unknown_database(call, records, tmp_path):
    assert_mistake(call("run", records, "--out", tmp_path / "out", "--database", "liepzig"), "liepzig", "leipzig")
    assert not (tmp_path / "out").exists()


def test_short_signal_file(call, records, tmp_path):
    dat = records / "x002.dat"
    dat.write_bytes(dat.read_bytes()[: dat.stat().st_size // 2])
    assert_mistake(call("prepare", records, "--out", tmp_path / "out", "--jobs", 1), "x002")
    assert not (tmp_path / "out").exists()


def test_marker_the_vocabulary_lacks(call, records, tmp_path):
    from pediatric_ecg.data import LEIPZIG

    spec = json.loads(LEIPZIG.to_json())
    spec["markers"].pop("(N")
    spec["groupings"] = {}
    spec["aliases"] = {}
    spec["fits"] = {k: v for k, v in spec["fits"].items() if k != "(N"}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    told = call("prepare", records, "--out", tmp_path / "out", "--jobs", 1, "--database", tmp_path / "spec.json")
    assert_mistake(told, "(N")
    assert not (tmp_path / "out").exists()


def test_output_folder_with_other_content(call, records, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("dear")
    for command in ("run", "prepare"):
        assert_mistake(call(command, records, "--out", tmp_path / "out"), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.docx"]


def test_simulate_refuses_nonsense(call, tmp_path):
    assert_mistake(call("simulate", tmp_path / "db", "--patients", 0), "patients")
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("command", ["report", "evaluate"])
def test_a_folder_that_is_no_run(call, tmp_path, command):
    assert_mistake(call(command, tmp_path), tmp_path)


def test_evaluate_and_report_of_a_run(call, tmp_path):
    run = made_up_run(tmp_path / "run")
    before = json.loads((run / "metrics.json").read_text())
    code, out, err = call("evaluate", run, "--json")
    assert code == 0 and err == ""
    assert json.loads(out)["patient"]["macro_f1"] == pytest.approx(before["patient"]["macro_f1"])
    code, out, err = call("evaluate", run)
    assert code == 0 and "leaky reference" in out and "the honest one" in out and max(map(len, out.splitlines())) <= 80
    assert call("report", run) == (0, f"{run / 'report.html'}\n", "")


def test_prepare_names_the_store(call, records, tmp_path):
    code, out, err = call("prepare", records, "--out", tmp_path / "store", "--jobs", 1)
    assert code == 0 and "2 patients" in out
    assert {"ecg.npy", "iegm.npy", "windows.csv", "manifest.json"} <= {p.name for p in (tmp_path / "store").iterdir()}


def raising(error):
    "Stands in for build_report."

    def build(*_):
        raise error

    return build


def test_a_bug_keeps_its_traceback(call, monkeypatch, tmp_path):
    monkeypatch.setattr("pediatric_ecg.report.page.build_report", raising(KeyError("x")))
    code, out, err = call("report", tmp_path)
    assert code == 1 and "Traceback" in err and "KeyError" in err


def test_a_foreign_value_error_is_a_bug(call, monkeypatch, tmp_path):
    monkeypatch.setattr("pediatric_ecg.report.page.build_report", raising(ValueError("cannot reshape")))
    assert call("report", tmp_path)[0] == 1


def test_interruption(call, monkeypatch, tmp_path):
    monkeypatch.setattr("pediatric_ecg.report.page.build_report", raising(KeyboardInterrupt()))
    code, out, err = call("report", tmp_path)
    assert code == 130 and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
@pytest.mark.parametrize("outer", [ImportError("numpy._core failed"), SystemError("error return without exception")])
def test_an_interruption_behind_another_exception(call, monkeypatch, tmp_path, outer, link):
    "Ctrl-C while compiled code is imported comes up as another exception, two links away here."
    middle = RuntimeError("in between")
    setattr(middle, link, KeyboardInterrupt())
    error = type(outer)(*outer.args)
    setattr(error, link, middle)
    monkeypatch.setattr("pediatric_ecg.report.page.build_report", raising(error))
    code, out, err = call("report", tmp_path)
    assert (code, out) == (130, "") and err.count("\n") == 1 and "interrupted" in err
    assert "Traceback" in call("--debug", "report", tmp_path)[2]
    error.__cause__ = error.__context__ = middle.__cause__ = middle.__context__ = None
    code, out, err = call("report", tmp_path)
    assert code == 1 and "Traceback" in err, "nobody pressed anything: a bug"


def test_full_disk_is_one_line(call, monkeypatch, tmp_path):
    full = OSError(28, "No space left on device", "big.npy")
    monkeypatch.setattr("pediatric_ecg.report.page.build_report", raising(full))
    assert_mistake(call("report", tmp_path), "big.npy", "No space left")


def test_debug_shows_where(call, tmp_path):
    for args in (["--debug", "report", tmp_path], ["report", tmp_path, "--debug"]):
        code, out, err = call(*args)
        assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("pediatric-ecg: error: ")


def test_check_tells_errors_by_its_exit_code(call, records):
    code, out, err = call("check", records)
    assert code == 0 and err == "" and out
    code, out, err = call("check", records, "--json")
    assert code == 0 and json.loads(out)["ok"] is True
    (records / "x002.atr").unlink()
    code, out, err = call("check", records, "--json", "--no-signals")
    found = json.loads(out)
    assert code == 1 and found["ok"] is False and any("x002" in f["record"] + f["text"] for f in found["findings"])


def test_download_refuses_an_unknown_name(call, tmp_path):
    assert_mistake(call("download", "leipsig", tmp_path / "x"), "leipsig")


def test_a_run_without_new_patients_says_so(call, tmp_path):
    "Too few patients for patient-wise folds: the table has one column, and a sentence tells why."
    metrics = json.loads((made_up_run(tmp_path / "run") / "metrics.json").read_text())
    assert "No result for new patients" not in text_table(metrics)
    alone = text_table({"random": metrics["random"]})
    assert "No result for new patients" in alone and max(map(len, alone.splitlines())) <= 80


def test_a_first_place_that_is_nothing(call, tmp_path):
    "Neither a run nor a record: it may have been meant as either."
    told = call("annotate", tmp_path / "no", tmp_path / "x001", "--out", tmp_path / "out")
    assert_mistake(told, tmp_path / "no", "neither a run folder nor a record")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_needs_another_package(call, simstore, tmp_path, monkeypatch):
    "Without deepecgkit: the line names the package, and how to go on without its networks."
    monkeypatch.setitem(sys.modules, "deepecgkit", None)
    monkeypatch.setitem(sys.modules, "deepecgkit.models", None)
    line = ["experiment", simstore.path, "--out", tmp_path / "out", "--quick", "--jobs", 1]
    assert_mistake(call(*line, "--only", "loss=ce"), "deepecgkit", "--only network=rhythmnet")
    told = call(*line, "--only", "network=resnet")
    assert_mistake(told, "deepecgkit")
    assert "--only" not in told[2] and not (tmp_path / "out").exists()
    grid = importlib.import_module("pediatric_ecg.experiments.grid")
    monkeypatch.setattr(grid, "run_fold", raising(KeyboardInterrupt()))
    assert call(*line, "--only", "network=rhythmnet", "--only", "loss=ce")[0] == 130, "the work begins"


@pytest.fixture
def two_runs(tmp_path):
    "Two made-up runs on the same windows, with other answers."
    runs = [made_up_run(tmp_path / name) for name in ("one", "two")]
    table = pd.read_csv(runs[1] / "predictions.csv", dtype=str)
    wrong = (table.truth == "N") & (table.index % 7 == 0)
    table.loc[wrong, "prediction"] = "/A"
    table.to_csv(runs[1] / "predictions.csv", index=False)
    return runs


def test_compare_prints_and_writes_the_paired_differences(call, two_runs, tmp_path):
    code, out, err = call("compare", *two_runs, "--out", tmp_path / "c" / "table.csv")
    assert code == 0 and err == "" and "two minus one, new patients, the honest one" in out
    assert "Holm over 10 tests" in out and max(map(len, out.splitlines())) <= 110
    table = pd.read_csv(tmp_path / "c" / "table.csv")
    assert len(table) == 10 and set(table.split) == {"patient", "random"}
    top1 = table[(table.split == "patient") & (table.figure == "top1")].iloc[0]
    assert top1.difference < 0 and top1.low < top1.difference < top1.high and top1.high < 0
    assert (table.p_holm >= table.p).all()
    parts = [pd.read_csv(run / "predictions.csv", dtype=str) for run in two_runs]
    right = [(part[part.split == "patient"].truth == part[part.split == "patient"].prediction).mean() for part in parts]
    assert top1.difference == pytest.approx(right[1] - right[0])
    assert len(call("compare", *two_runs, "--split", "patient")[1].splitlines()) < len(out.splitlines())
    assert_mistake(call("compare", *two_runs, "--out", tmp_path / "c" / "table.csv"), "exists already")


def test_compare_refuses_other_windows(call, two_runs, tmp_path):
    table = pd.read_csv(two_runs[1] / "predictions.csv", dtype=str)
    table[table.subject != "03"].to_csv(two_runs[1] / "predictions.csv", index=False)
    assert_mistake(call("compare", *two_runs, "--out", tmp_path / "t.csv"), two_runs[0], two_runs[1], "windows")
    assert not (tmp_path / "t.csv").exists()
    assert_mistake(call("compare", two_runs[0]), "two run folders")
    assert_mistake(call("compare", two_runs[0], two_runs[0]), "given twice")


def test_help_names_networks_and_epochs(call):
    out = call("run", "--help")[1]
    assert all(any(line.split()[:1] == [name] for line in out.splitlines()) for name in ["rhythmnet", *PEERS])
    assert f"[default: {TrainConfig().epochs}]" in out
    networks = call("pretrain", "--help")[1]
    assert all(any(line.split()[:1] == [name] for line in networks.splitlines()) for name in NETWORKS)


def test_a_warning_is_one_line_without_a_place_in_the_code(call, monkeypatch, tmp_path):
    def warn(*_):
        warnings.warn("something to know\nof this run", stacklevel=2)
        return tmp_path / "report.html"

    monkeypatch.setattr("pediatric_ecg.report.page.build_report", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, out, err = call("report", tmp_path)
    assert (code, err) == (0, "pediatric-ecg: note: something to know of this run\n")


@pytest.mark.parametrize("wrong", [["--label", "foo"], ["--grouping", "nosuch"], ["--seconds", "80"]])
def test_a_failed_call_does_not_block_the_corrected_one(call, records, tmp_path, monkeypatch, wrong):
    "The second call is stopped where the work begins, with the folder that it would work in."
    line = ["run", records, "--out", tmp_path / "run", "--quick", "--jobs", 1]
    assert_mistake(call(*line, *wrong))
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
    work = importlib.import_module("pediatric_ecg.experiments.run")
    monkeypatch.setattr(work, "_train_into", raising(KeyboardInterrupt()))
    assert call(*line)[0] == 130


INTERRUPTED = """
import importlib, os, signal, sys, threading, time
from pediatric_ecg import cli
ready = sys.argv[1]
signal.signal(signal.SIGINT, signal.default_int_handler)   # a shell in the background lets it be ignored

def slow(*arguments, **options):
    open(ready, "w").close()
    time.sleep(60)

importlib.import_module("pediatric_ecg.experiments.run").run_fold = slow

def interrupt():
    while not os.path.exists(ready):
        time.sleep(.05)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
sys.exit(cli.main(sys.argv[2:]))
"""


def test_ctrl_c_among_the_folds_is_one_line_and_nothing_after_it(simstore, tmp_path):
    "The processes of the folds are ended: no warning of semaphores or folders that were left."
    line = ["train", str(simstore.path), "--out", str(tmp_path / "run"), "--quick", "--jobs", "2"]
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(tmp_path / "ready"), *line], capture_output=True,
                          text=True, timeout=600)
    *progress, last = done.stderr.splitlines()
    assert done.returncode == 130 and last == "pediatric-ecg: interrupted; the same command goes on where it can"
    assert all(line.startswith("epochs of ") for line in progress), done.stderr
