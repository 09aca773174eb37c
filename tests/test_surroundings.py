"""What the caller, the terminal and the folder are like changes no number and costs no work."""
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from made_up_run import made_up_run

from pediatric_ecg import cli
from pediatric_ecg.core import DataError
from pediatric_ecg.evaluate.plots import overview
from pediatric_ecg.experiments import Protocol, evaluate_run, train_store
from pediatric_ecg.experiments.run_folder import unfinished_run
from pediatric_ecg.explain import explain, explain_run
from pediatric_ecg.figures import FONT, png
from pediatric_ecg.report import build_report
from pediatric_ecg.surroundings import locked
from pediatric_ecg.train import TrainConfig

SMALLEST = {
    "config": {"epochs": 1, "per_group": 4, "batch_size": 16, "model": {"widths": [16, 16], "depth": 1}},
    "protocol": {"folds": 2, "seed": 3, "min_patients": 6},
}


def trained(store, out, n_jobs=1):
    "The smallest run of a store."
    config, protocol = TrainConfig(**SMALLEST["config"]), Protocol(**SMALLEST["protocol"])
    return train_store(store, out, config, protocol, n_jobs=n_jobs, progress=False)


@pytest.fixture(scope="module")
def calm(simstore, tmp_path_factory):
    "A run among ordinary surroundings, which it leaves as they were."
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    run = trained(simstore.path, tmp_path_factory.mktemp("calm") / "run")
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after
    return run


HOSTILE = """
import asyncio, multiprocessing, random, sys, warnings
import matplotlib, numpy as np, torch
sys.path.insert(0, TESTS)
from test_surroundings import trained

async def main():
    "A run where an event loop is at work, as in Jupyter."
    return trained(STORE, OUT, JOBS)

if __name__ == "__main__":
    multiprocessing.set_start_method(START)
    warnings.simplefilter("error")
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    np.seterr(all="raise")
    matplotlib.rcParams["text.usetex"] = True
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_float32_matmul_precision("medium")
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        asyncio.run(main())
    assert torch.get_default_dtype() == torch.float64 and torch.get_default_device().type == "meta"
    assert np.geterr()["divide"] == "raise" and matplotlib.rcParams["text.usetex"]
"""


@pytest.mark.parametrize(("start", "jobs"), [("spawn", 1), ("forkserver", 2)])
def test_a_run_does_not_depend_on_its_caller(calm, simstore, tmp_path, start, jobs):
    "Default type and device, gradients, precision, floating-point errors, seeds, an event loop, ways to start."
    script, out = tmp_path / "hostile.py", tmp_path / "run"
    names = {"TESTS": str(Path(__file__).parent), "STORE": str(simstore.path), "OUT": str(out), "JOBS": jobs,
             "START": start}
    script.write_text("\n".join(f"{name} = {value!r}" for name, value in names.items()) + HOSTILE)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for file in ("metrics.json", "predictions.csv", "similarity.json", "folds.json", "model.safetensors"):
        assert (out / file).read_bytes() == (calm / file).read_bytes(), file


def test_an_explanation_does_not_depend_on_its_caller(calm, simstore):
    from pediatric_ecg.nn import RhythmNet

    model = RhythmNet.load(calm)
    signals, present = simstore.batch([0])
    window = {name: signal[0] for name, signal in signals.items()}
    there = {name: mask[0] for name, mask in present.items()}
    expected = explain(model, window, there, steps=4)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), np.errstate(all="raise"):
            found = explain(model, window, there, steps=4)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, share in expected.shares.items():
        assert np.array_equal(found.shares[name], share)


def clean_environment(**changes):
    "An environment for a subprocess; None takes a variable away."
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | changes
    return {name: value for name, value in environment.items() if value is not None}


def command(*args, cwd=None, **environment):
    "A finished process of the command line."
    script = "import sys; from pediatric_ecg.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", script, *map(str, args)], capture_output=True, cwd=cwd,
                          env=clean_environment(**environment))


RCS = {
    "usetex": b"text.usetex: True\nfont.family: nope\n",
    "not text": "font.family: schön\nfigure.dpi: abc\nnonsense\n".encode("latin-1"),
}


def test_a_report_does_not_depend_on_folder_terminal_and_home(tmp_path):
    "The same bytes in another folder, with another matplotlibrc, terminal, home and no place for temporary files."
    run = made_up_run(tmp_path / "run")
    examples = np.load(run / "examples.npz")
    np.savez(run / "examples.npz", **{name: array[:1] if array.ndim else array for name, array in examples.items()})
    usual = build_report(run, explain=explain_run)  # with one window, since pictures take long
    expected = usual.read_bytes(), (usual.parent / "model_card.md").read_bytes()
    folder = tmp_path / "mit Raum" / "Läufe 心"
    here = tmp_path / "elsewhere"
    here.mkdir()
    for rc in RCS.values():
        shutil.copytree(usual.parent, folder)
        (folder / "report.html").unlink()
        (here / "matplotlibrc").write_bytes(rc)
        done = command(
            "report", "../mit Raum/Läufe 心/", cwd=here, LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0",
            MPLBACKEND="nosuch", TERM="dumb", NO_COLOR="1", COLUMNS="20", TMPDIR="/no/such/folder", HOME=None,
            PYTHONWARNINGS="error")
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
        assert done.stdout.decode().strip() == "../mit Raum/Läufe 心/report.html"
        assert ((folder / "report.html").read_bytes(), (folder / "model_card.md").read_bytes()) == expected
        shutil.rmtree(folder)


def test_pictures_leave_the_callers_settings(tmp_path):
    import pandas as pd

    segments = pd.DataFrame({
        "start_s": [0, 60], "end_s": [60, 118], "rhythm": ["N$_$", "心"], "probability": [.97, .8]})
    usual = png(overview(segments, "made up"))
    with matplotlib.rc_context({"font.family": "nope", "text.usetex": True, "lines.linewidth": 9, "figure.dpi": 300}):
        assert png(overview(segments, "made up")) == usual
        assert matplotlib.rcParams["lines.linewidth"] == 9


def test_pictures_do_not_depend_on_the_fonts_of_the_system(monkeypatch):
    "Another file that is called DejaVu Sans too, at the front of the list that matplotlib keeps in the home folder."
    import pandas as pd
    from matplotlib import font_manager

    segments = pd.DataFrame({"start_s": [0], "end_s": [60], "rhythm": ["N"], "probability": [.97]})
    usual = png(overview(segments, "made up"))
    manager = font_manager.fontManager
    serif = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSerif.ttf")
    other = font_manager.ttfFontProperty(font_manager.get_font(str(serif)))
    regular = {"name": "DejaVu Sans", "style": "normal", "variant": "normal", "weight": 400, "stretch": "normal"}
    impostor = replace(other, **regular)
    fonts = [impostor, *(entry for entry in manager.ttflist if entry.name != FONT)]
    monkeypatch.setattr(manager, "ttflist", fonts)
    monkeypatch.setattr(manager, "_findfont_cached", manager._findfont_cached.__wrapped__.__get__(manager))
    assert Path(manager.findfont("DejaVu Sans")) == Path(other.fname), "the trap is set"
    assert png(overview(segments, "made up")) == usual


def test_output_to_a_narrow_terminal_and_to_a_pipe(tmp_path):
    "Letters are replaced, a reader that leaves is no error, and a full disk is one line."
    done = command("simulate", "--help", PYTHONIOENCODING="ascii", COLUMNS="20", TERM="dumb")
    assert done.returncode == 0 and b"Usage" in done.stdout
    done = command("check", "--help", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0 and b"leipzig, mitdb, ...)" in b" ".join(done.stdout.split())
    done = command("report", "läufe 心", PYTHONIOENCODING="latin-1")
    assert done.returncode == 2 and "läufe \\u5fc3: no such run folder" in done.stderr.decode("latin-1")
    for target, code, words in ((">&-", 0, ""), ("> /dev/full", 2, "No space left"), ("| head -c 0", 0, "")):
        call = f'"{sys.executable}" -c "import sys; from pediatric_ecg.cli import main; sys.exit(main())"'
        done = subprocess.run(f"{call} --version {target}", shell=True, capture_output=True, text=True,
                              env=clean_environment())
        assert done.returncode == code and "Traceback" not in done.stderr and words in done.stderr, (target, done)
        assert done.stderr.count("\n") == (1 if code else 0), done.stderr


def test_a_working_folder_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = (f"import os, shutil, sys; os.chdir({str(gone)!r}); shutil.rmtree({str(gone)!r})\n"
              "from pediatric_ecg.cli import main; sys.exit(main())")
    done = subprocess.run([sys.executable, "-c", script, "report", "run"], capture_output=True, text=True,
                          env=clean_environment())
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "working folder" in done.stderr, done.stderr


@pytest.mark.parametrize("out", [".", "..", "/", "sub/..", "nested/../"])
def test_out_that_is_no_name(simstore, tmp_path, monkeypatch, capfd, out):
    "The folder one works in is not exchanged under one's feet, empty or not."
    monkeypatch.chdir(tmp_path)
    source = str(simstore.path)
    for arguments in (["train", source, "--out", out, "--quick"], ["prepare", source, "--out", out], ["simulate", out]):
        assert cli.main(arguments) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and "the folder you work in" in error, arguments
    assert list(tmp_path.iterdir()) == []


def test_out_that_is_a_file_a_link_or_ends_in_a_slash(tmp_path):
    (tmp_path / "file").write_text("mine")
    for file in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match="file: is a file, and --out"), unfinished_run(file, {}):
            pass
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("later")
    for name, target in (("link", "real"), ("dangling", "later"), ("plain/", "plain")):
        with unfinished_run(f"{tmp_path}/{name}", {}) as work:
            (work / "result").write_text("done")
        assert (tmp_path / target / "result").read_text() == "done"
    assert (tmp_path / "link").is_symlink() and (tmp_path / "dangling").is_symlink()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises((DataError, OSError)), unfinished_run(tmp_path / "circle", {}):
        pass
    assert not list(tmp_path.glob(".*"))


def test_two_at_a_time(simstore, tmp_path, capfd):
    "The second one is told so in a line; what a killed one leaves is in nobody's way."
    with locked(tmp_path / ".run.lock", tmp_path / "run"):
        assert cli.main(["train", str(simstore.path), "--out", str(tmp_path / "run"), "--quick"]) == 2
    grid = tmp_path / "grid"
    grid.mkdir()
    with locked(grid / ".lock", grid):
        assert cli.main(["experiment", str(simstore.path), "--out", str(grid), "--quick", "--recipe", "checks"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and all("another process is writing it" in line for line in lines)
    assert list(tmp_path.iterdir()) == [grid] and list(grid.iterdir()) == []
    (tmp_path / ".run.lock").touch()   # as a killed process leaves it
    with unfinished_run(tmp_path / "run", {}) as work:
        (work / "result").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"grid", "run"}


@pytest.mark.skipif(os.name == "nt", reason="file modes of Unix")
def test_files_of_a_run_have_the_users_mode(calm, tmp_path):
    "Colleagues can read all of a run, where the user's umask lets them."
    modes = {path.name: path.stat().st_mode & 0o777 for path in calm.iterdir() if path.is_file()}
    assert len(set(modes.values())) == 1, modes
    copy = tmp_path / "run"
    shutil.copytree(calm, copy)
    before = os.umask(0o077)
    try:
        evaluate_run(copy)
    finally:
        os.umask(before)
    assert (copy / "metrics.json").stat().st_mode & 0o777 == 0o600
