"""The report: complete, self-contained, true to metrics.json, and plain about what is a guess."""
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import made_up_run as made_up_run_module
import numpy as np
import pandas as pd
import pytest
import torch
from jinja2 import UndefinedError
from made_up_run import LABELS, made_up_history, made_up_predictions, made_up_run, made_up_windows, no_picture

from pediatric_ecg.core import DataError
from pediatric_ecg.evaluate import summarise
from pediatric_ecg.evaluate.calibration import brier, ece, temper
from pediatric_ecg.experiments import RunFolder
from pediatric_ecg.explain import explain_run, windows_to_explain
from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
from pediatric_ecg.report import build_report, text_table
from pediatric_ecg.report.page import SECTIONS
from pediatric_ecg.report.render import environment, percent, render
from pediatric_ecg.report.scored import ScoredRun, SplitFigures
from pediatric_ecg.report.text import ahead_alone, findings, floor_sentences, results_summary
from pediatric_ecg.report.tripod import tripod, tripod_words
from pediatric_ecg.report.trust import trust_section

TRUST = "Can the probabilities be trusted?"
ALIKE = "Which rhythms the network holds alike"
APART = "How the rhythms moved apart"
HEADINGS = [
    "Two results, side by side",
    "Rhythm by rhythm",
    "What is mistaken for what",
    "By age, sex and group",
    TRUST,
    ALIKE,
    APART,
    "Example windows",
    "What spoke for an answer",
    "How it learned",
    "The cohort",
    "How it was made",
    "Limits",
    "TRIPOD+AI",
]
PROJECT = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    "Text, headings, images, what would be loaded, and whether every element is closed."

    VOID = {"meta", "img", "br", "hr", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.text, self.headings, self.images = [], [], []
        self.loads, self.open, self.wrong = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        addresses = [attrs[name] for name in ("src", "href", "srcset") if name in attrs]
        self.loads += [address for address in addresses if not address.startswith(("data:image/", "#"))]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def text_of(folder):
    "The words of the page, in one line."
    return re.sub(r"\s+", " ", " ".join(Page(build_report(folder).read_text()).text))


def change(folder, name, edit):
    "Edit one JSON file of a run folder."
    path = folder / f"{name}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def made_up(tmp_path):
    return made_up_run(tmp_path / "run", seed=1)


@pytest.fixture
def painted():
    "For tests of pictures; the others do without."


@pytest.fixture(autouse=True)
def unpainted(request, monkeypatch):
    "No figure is painted where a test does not ask for it."
    if "painted" not in request.fixturenames:
        monkeypatch.setattr("pediatric_ecg.report.render.data_uri", no_picture)


def test_page_is_whole_and_needs_nothing_else(made_up, painted):
    path = build_report(made_up)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert path == made_up / "report.html" and (made_up / "model_card.md").exists()
    assert not page.wrong and not page.open, "every element is closed in order"
    assert page.headings == HEADINGS
    assert not page.loads and "url(" not in html and "<script" not in html and "@import" not in html
    words = [image.get("alt", "") for image in page.images]
    assert words and min(map(len, words)) > 30, "every picture has words"
    assert not list(made_up.glob("*.partial"))


def test_numbers_are_those_of_metrics(made_up):
    metrics = json.loads((made_up / "metrics.json").read_text())
    text = text_of(made_up)
    card = (made_up / "model_card.md").read_text()
    for split in ("random", "patient"):
        for key in ("top1", "macro_precision", "macro_recall", "macro_f1", "macro_f2"):
            low, high = metrics[split]["ci95"][key]
            assert percent(metrics[split][key]) in text
            assert f"{100 * low:.1f}–{100 * high:.1f}" in text
            assert percent(metrics[split][key], [low, high]) in card
    for label, figures in metrics["patient"]["per_class"].items():
        assert label in text and label in card
        if isinstance(figures, dict):
            assert percent(figures["f1"]) in text and percent(figures["recall"]) in text
    assert text.count("not evaluable") >= 2, "the rhythm of one patient has words for a number"


def section(html, heading):
    "The text of one section of the page, in one line."
    part = html.split(f"<h2>{heading}</h2>")[1].split("<h2>")[0]
    return re.sub(r"\s+", " ", " ".join(Page(part).text))


@pytest.mark.parametrize("version", ["today's", "of before"])
def test_each_rhythm_has_intervals_in_both_splits(made_up, version):
    "Sensitivity, precision and F1; a run that kept no intervals of its rhythms gets them from its predictions."
    metrics = json.loads((made_up / "metrics.json").read_text())
    if version == "of before":
        change(made_up, "metrics", lambda content: [
            figures.pop("ci95") for split in content.values()
            for figures in split["per_class"].values() if isinstance(figures, dict)])
    table = section(build_report(made_up).read_text(), "Rhythm by rhythm")
    card = (made_up / "model_card.md").read_text()
    for split in ("random", "patient"):
        for figures in metrics[split]["per_class"].values():
            if not isinstance(figures, dict):
                continue
            for key in ("recall", "specificity", "precision", "f1"):
                low, high = figures["ci95"][key]
                assert f"{percent(figures[key])} {100 * low:.1f}–{100 * high:.1f}" in table
                if split == "patient":
                    assert percent(figures[key], [low, high]) in card
    assert table.count("–") > 2 * 3 * 5


def test_every_macro_figure_has_an_interval(made_up):
    "The floor of always one answer, the mean of patients' shares, the gap of the two splits, the calibration."
    scored = ScoredRun(RunFolder.open(made_up))
    text = text_of(made_up)
    for split in scored.splits.values():
        for key in ("top1", "macro_f1"):
            low, high = split.floor.ci95[key]
            assert low < getattr(split.floor, key) < high and split.floor.in_words(key) in text
        value, (low, high) = split.average_sensitivity
        assert low < value < high and percent(value, [low, high]) in text
        for scores in split.probabilities.scores.values():
            for key in ("ece", "brier", "classwise_ece", "aurc"):
                low, high = scores["ci95"][key]
                assert low <= scores[key] <= high
    points, (low, high) = scored.gap
    assert low < points < high
    assert f"{100 * points:.1f} points higher ({100 * low:.1f} to {100 * high:.1f})" in text
    assert "from drawing whole patients" not in text, "today's intervals are linearised"


def test_the_table_in_the_terminal_has_intervals(made_up):
    metrics = json.loads((made_up / "metrics.json").read_text())
    table = text_table(metrics)
    figures = metrics["patient"]["per_class"]["AVRT"]
    assert percent(figures["f1"], figures["ci95"]["f1"]) in table
    assert max(map(len, table.splitlines())) <= 80


def test_title_says_simulated_or_real(made_up):
    assert "<title>Rhythm classification on simulated signals" in build_report(made_up).read_text()
    change(made_up, "manifest", lambda manifest: manifest.update(simulated=False, title="Some Database <1.0>"))
    html = build_report(made_up).read_text()
    title = re.search("<title>(.*)</title>", html)[1]
    assert title == "Rhythm classification on real recordings: Some Database &lt;1.0&gt;"
    assert "Simulated signals" not in html


def test_two_builds_give_the_same_bytes(made_up, painted):
    first = build_report(made_up).read_bytes()
    assert build_report(made_up).read_bytes() == first


def test_notes_and_limits_are_shown(made_up):
    note = "Two surface leads stand in for two modalities."
    change(made_up, "manifest", lambda manifest: manifest.update(notes=[note], quick=True))
    html = build_report(made_up).read_text()
    assert note in html and "Quick run" in html and "Not a medical device" in html and "AFL" in html
    card = (made_up / "model_card.md").read_text()
    assert note in card and "TRIPOD+AI" in card and card.count("\n| ") > 30


@pytest.mark.parametrize(
    "missing", ["history.csv", "similarity.json", "examples.npz", "config.json"]
)
def test_a_missing_part_leaves_its_section_out(made_up, missing):
    (made_up / missing).unlink()
    page = Page(build_report(made_up).read_text())
    gone = {
        "history.csv": ["How it learned", APART],
        "similarity.json": [ALIKE],
        "examples.npz": ["Example windows"],
        "config.json": [],
    }
    assert page.headings == [heading for heading in HEADINGS if heading not in gone[missing]]


@pytest.mark.parametrize("missing", ["metrics.json", "predictions.csv", "manifest.json"])
def test_an_unfinished_run_is_refused(made_up, missing):
    (made_up / missing).unlink()
    with pytest.raises(DataError, match=missing):
        build_report(made_up)
    assert not (made_up / "report.html").exists()


def test_damaged_json_is_one_clear_line(made_up):
    (made_up / "metrics.json").write_text("{")
    with pytest.raises(DataError, match="metrics.json: not readable"):
        build_report(made_up)


def test_a_split_without_result_has_words(made_up, painted):
    def nothing(metrics):
        keys = ("top1", "macro_precision", "macro_recall", "macro_f1", "macro_f2")
        labels = list(metrics["patient"]["per_class"])
        metrics["patient"] = {
            **dict.fromkeys(keys),
            "ci95": dict.fromkeys(keys),
            "per_class": dict.fromkeys(labels, "not evaluable"),
            "n_classes": 0,
            "n_windows": 0,
            "n_patients": 0,
        }

    change(made_up, "metrics", nothing)
    html = build_report(made_up).read_text()
    assert "No result for new patients" in html
    assert "no two rhythms are held by enough patients" in html
    table = text_table(json.loads((made_up / "metrics.json").read_text())).splitlines()
    assert not any(line.startswith("patient-wise") for line in table)
    assert any(line.startswith("No result for new patients") for line in table)


def test_summary_follows_the_sign(made_up):
    run = RunFolder.open(made_up)
    assert "points higher" in " ".join(results_summary(ScoredRun(run)))
    run.metrics["random"]["macro_f1"] = run.metrics["patient"]["macro_f1"] - 0.1
    assert "10.0 points lower" in " ".join(results_summary(ScoredRun(run)))


def test_one_patient_has_no_interval(made_up, painted):
    def without_intervals(metrics):
        for split in metrics.values():
            split["ci95"] = dict.fromkeys(split["ci95"], [None, None])

    change(made_up, "metrics", without_intervals)
    assert "–" in Page(build_report(made_up).read_text()).text


def test_calibration_is_that_of_the_predictions(made_up):
    table = pd.read_csv(made_up / "predictions.csv", dtype={"subject": str})
    text = text_of(made_up)
    card = (made_up / "model_card.md").read_text()
    columns = [column for column in table if column.startswith("p_")]
    for _, predictions in table.groupby("split"):
        given = predictions[columns].to_numpy()
        labels = np.array([columns.index(f"p_{truth}") for truth in predictions.truth])
        for probabilities in (given, temper(given, predictions.temperature.to_numpy())):
            probabilities = probabilities / probabilities.sum(1, keepdims=True)
            error, score = percent(ece(probabilities, labels)), f"{brier(probabilities, labels):.3f}"
            assert error in text and score in text
            assert error in card and score in card
    assert "## Calibration" in card and "its temperature" in card


def test_a_run_without_temperatures_shows_what_it_has(made_up):
    path = made_up / "predictions.csv"
    pd.read_csv(path).drop(columns="temperature").to_csv(path, index=False)
    html = build_report(made_up).read_text()
    assert "No temperature was fitted in this run" in html and "With temperature" not in html
    assert Page(html).headings == HEADINGS


def test_temperatures_of_one_are_no_temperatures(made_up):
    path = made_up / "predictions.csv"
    pd.read_csv(path).assign(temperature=1.0).to_csv(path, index=False)
    assert "no validation patients to spare" in build_report(made_up).read_text()


@pytest.mark.parametrize("edit", ["drop", "empty"])
def test_predictions_without_probabilities_have_no_calibration(made_up, painted, edit):
    path = made_up / "predictions.csv"
    table = pd.read_csv(path)
    columns = [column for column in table if column.startswith("p_")]
    if edit == "drop":
        table = table.drop(columns=columns)
    else:
        table[columns] = np.nan
    table.to_csv(path, index=False)
    page = Page(build_report(made_up).read_text())
    assert page.headings == [heading for heading in HEADINGS if heading != TRUST] and not page.wrong
    card = (made_up / "model_card.md").read_text()
    assert "Not available here: the predictions hold no probabilities" in card


@pytest.mark.parametrize("edit", ["drop", "empty", "partly"])
def test_geometry_is_drawn_where_it_was_measured(made_up, painted, edit):
    path = made_up / "history.csv"
    history = pd.read_csv(path)
    keys = ["largest", "minority", "rank", "ratio"]
    if edit == "drop":
        history = history.drop(columns=[*keys, "target", "rank_target", "best"])
    elif edit == "empty":
        history[keys] = np.nan
    else:
        history["ratio"] = np.nan
        history.loc[history.split == "random", keys] = np.nan
    history.to_csv(path, index=False)
    html = build_report(made_up).read_text()
    gone = [] if edit == "partly" else [APART]
    assert Page(html).headings == [heading for heading in HEADINGS if heading not in gone]
    assert ("the closest pair had a cosine" in html) == (edit == "partly")
    assert "nan" not in html.split("data:image")[0]


def test_few_windows_and_one_patient(made_up, painted):
    path = made_up / "predictions.csv"
    table = pd.read_csv(path, dtype={"subject": str})
    patient = table[table.subject == table.subject.iloc[0]]
    patient.groupby("split").head(12).to_csv(path, index=False)
    scored = ScoredRun(RunFolder.open(made_up))
    section = trust_section(scored)["trust"]["patient"]
    assert section["reliability"] is None and section["undrawn"]
    intervals = scored.probabilities["patient"].scores["as given"]["ci95"]
    assert intervals == dict.fromkeys(("ece", "brier", "classwise_ece", "aurc"), [None, None])
    assert not Page(build_report(made_up).read_text()).wrong


def test_every_reporting_item_has_words(made_up):
    (made_up / "config.json").unlink()
    unrecorded = ("protocol", "git", "data_sha256", "folds_hash", "preprocess")
    change(made_up, "manifest", lambda manifest: [manifest.pop(name) for name in unrecorded])
    rows = tripod(ScoredRun(RunFolder.open(made_up)))
    assert len(rows) == len({number for number, _, _ in rows}) == 52
    assert all(answer.strip() for _, _, answer in rows)
    change(made_up, "manifest", lambda manifest: manifest.update(simulated=False))
    rows = tripod(ScoredRun(RunFolder.open(made_up)))
    answers = {number: answer for number, _, answer in rows}
    assert answers["18a"] == "not available here"
    assert answers["6a"].startswith("not available here")
    assert "not recorded" in answers["18f"]
    html = build_report(made_up).read_text()
    assert "<details open>" in html and "not available here" in html
    assert "known inequalities are not reviewed here" in answers["3c"]
    assert "18a | Funding | not available here" in (made_up / "model_card.md").read_text()


def test_every_phrase_of_the_reporting_items_is_used():
    words = tripod_words()
    source = (PROJECT / "pediatric_ecg" / "report" / "tripod.py").read_text()
    for name in words["phrases"]:
        prefix, _, kind = name.rpartition("_")
        spellings = [f"'{name}'"]
        if kind in ("real", "simulated", "network", "pool"):
            spellings.append(f"'{prefix}_{{kind}}'")
        assert any(spelling in source for spelling in spellings), name
    assert all(set(item) == {"number", "topic", "answer"} for item in words["items"])


def test_every_template_compiles_alone():
    templates = environment().list_templates()
    assert {f"{section.name}.html.j2" for section in SECTIONS} <= set(templates)
    assert {"page.html.j2", "macros.html.j2", "model_card.md.j2"} <= set(templates)
    assert len(templates) == len(SECTIONS) + 3, "no template without a section"
    for name in templates:
        environment().get_template(name)


def test_a_missing_value_is_an_error_and_text_stays_text():
    with pytest.raises(UndefinedError):
        render("limits.html")
    assert "&lt;VSD&gt; &amp; more" in render("limits.html", limits=["<VSD> & more"])


def test_templates_style_and_items_are_in_the_wheel(monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    core = pytest.importorskip("distutils.core")
    monkeypatch.chdir(PROJECT)
    assert setuptools
    distribution = core.run_setup("setup.py", stop_after="init")
    build = distribution.get_command_obj("build_py")
    build.ensure_finalized()
    packed = set()
    for package, _, _, names in build.data_files:
        if package == "pediatric_ecg.report":
            packed |= {Path(name).name for name in names}
    report = resources.files("pediatric_ecg.report")
    templates = {file.name for file in (report / "templates").iterdir()}
    assert packed == templates | {"report.css", "tripod.toml"}


def test_made_up_runs_are_reproducible_and_called_made_up(tmp_path):
    predictions = made_up_predictions(LABELS)
    assert predictions.equals(made_up_predictions(LABELS)), "same seed, same table"
    patients = predictions.groupby("truth").subject.nunique().to_dict()
    assert patients == {"N": 12, "/A": 4, "/V": 4, "AVNRT": 4, "AVRT": 4}
    random, patient = (table.window.tolist() for _, table in predictions.groupby("split"))
    assert random == patient, "both protocols judge the same windows"
    np.testing.assert_allclose(predictions[[f"p_{label}" for label in LABELS]].sum(axis=1), 1, atol=1e-5)
    windows = made_up_windows(LABELS, {"ecg": ["I", "II"], "iegm": ["CS12", "CS90"]}, count=4)
    assert windows["ecg"].shape == windows["iegm"].shape == (4, 2, 500)
    assert {"largest", "target", "rank", "minority", "ratio"} <= set(made_up_history())
    run = RunFolder.open(made_up_run(tmp_path / "run"))
    assert "made up" in run.manifest.title and "Made up" in run.manifest.notes[0]
    assert run.metrics["patient"]["per_class"]["AFL"] == "not evaluable"
    assert run.metrics["random"]["macro_f1"] > run.metrics["patient"]["macro_f1"] + 0.2
    assert not (run.folder / "model.safetensors").exists(), "there is no network here"


def test_the_flow_of_records_is_told(made_up):
    "In the report, the model card and TRIPOD 20a: each record that gives no window, each rhythm that loses segments."
    page, card = build_report(made_up).read_text(), (made_up / "model_card.md").read_text()
    items = {number: answer for number, _, answer in tripod(ScoredRun(RunFolder.open(made_up)))}
    for text in (page, card, items["20a"]):
        assert "no rule says who the patients are" in text
        for name in ("m12", "m13", "m15"):
            assert f"No window from {name}" in text, name
    assert "16 listed → 15 here → 1 left out on purpose → 14 annotated → 13 labelled → 12 with windows" in page
    assert "Shorter than a window" in page and "23 of 70 segments are shorter than a window" in items["20a"]
    assert "(AVNRT 21 of 30" in card


def test_a_run_of_before_tells_no_flow(tmp_path):
    run = made_up_run(tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["flow"], manifest["subject_notes"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    scored = ScoredRun(RunFolder.open(run))
    section = next(section for section in SECTIONS if section.name == "cohort").html(scored)
    assert "From the records" not in section and "Who the patients are" not in section
    (run / "manifest.json").write_text(json.dumps(manifest | {"flow": {"segments": {"(N": 3}}}))
    with pytest.raises(DataError, match="manifest.json"):
        tripod(ScoredRun(RunFolder.open(run)))


NASTY = ["N", "a<b>&c", 'q"u\'o,t', "mit Raum", "心房 $x$|y"]


def test_names_of_any_letters(tmp_path, painted, monkeypatch):
    "In the page as text and never as tags, in the card as text, in the tables of the run unchanged."
    monkeypatch.setattr(made_up_run_module, "LABELS", NASTY)
    run = made_up_run(tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["flow"]["records"]["without_window"] = {"m<12>": "kein <Rhythmus> & nichts"}
    (run / "manifest.json").write_text(json.dumps(manifest))
    page = Page(build_report(run).read_text())
    assert not page.wrong and not page.open
    text = "".join(page.text)
    for name in [*NASTY, "m<12>", "kein <Rhythmus> & nichts"]:
        assert name in text, name
    card = (run / "model_card.md").read_text()
    assert "<b>" not in card and "a&lt;b>&amp;c" in card and "$x$\\|y" in card
    assert {*RunFolder.open(run).predictions.truth} == {*NASTY}


def _split_with_floors(*floors):
    "A split of which only the floors are known: (name, macro F1, difference, low end of its interval)."
    entries = {}
    for name, macro_f1, difference, low in floors:
        ahead = {"difference": difference, "ci95": [low, 0.3], "p": 0.5}
        entries[name] = {
            "top1": 0.5, "macro_f1": macro_f1, "ci95": {}, "difference": {"top1": ahead, "macro_f1": ahead}}
    return SplitFigures("patient", {"top1": 0.5, "floors": entries})


@pytest.mark.parametrize(
    "difference, low, words",
    [(0.1, 0.02, "is ahead of every floor, a simple method for the same windows: +10.0 points (2.0 to 30.0)"),
     (0.1, -0.02, "but against random forest the interval of the difference holds zero: +10.0 points (−2.0 to 30.0)"),
     (-0.1, -0.2, "is not ahead of every floor, a simple method for the same windows: −10.0 points (−20.0 to 30.0)")])
def test_the_summary_says_whether_the_network_is_ahead_of_every_floor(difference, low, words):
    split = _split_with_floors(("majority", 0.1, 0.3, 0.2), ("forest", 0.4, difference, low))
    [sentence] = floor_sentences(split)
    assert words in sentence and "random forest, which has 40.0 %" in sentence
    assert ("it is behind random forest" in sentence) is (difference < 0)
    assert floor_sentences(_split_with_floors()) == []


def test_the_floor_whose_interval_holds_zero_is_named():
    "It need not be the best one, of which the interval is given."
    [sentence] = floor_sentences(_split_with_floors(("majority", 0.1, 0.3, -0.1), ("forest", 0.4, 0.1, 0.02)))
    assert "but against always the most common rhythm the interval" in sentence
    assert "+10.0 points (2.0 to 30.0) of macro F1 against the best of them, random forest" in sentence


def test_members_that_are_as_good_alone_are_named():
    "A member that has as much alone, or more, stands in the words; one that has less does not."
    split = _split_with_floors(
        ("forest", 0.5, -0.1, -0.2), ("network", 0.3, 0.1, -0.1), ("forest_simulated", 0.45, -0.05, -0.2))
    [sentence] = ahead_alone(split)
    assert "forest with simulated people 45.0 % (all together minus it: −5.0 points (−20.0 to 30.0))" in sentence
    assert "network" not in sentence and "random forest" not in sentence  # a floor has a sentence of its own
    assert ahead_alone(_split_with_floors(("network", 0.3, 0.1, -0.1))) == []


def test_the_floor_of_one_answer_has_one_interval(made_up):
    "That of its share, in the table of floors as in the sentences."
    floors = {"majority": 0.0, "forest": 0.1}

    def add(metrics):
        for split in metrics.values():
            floor = ScoredRun(RunFolder.open(made_up)).splits["patient"].floor
            split["floors"] = {
                name: {"top1": floor.top1 + more, "macro_f1": floor.macro_f1, "ci95": {"macro_f1": [0.01, 0.99]},
                       "difference": {key: {"difference": 0.1, "ci95": [0.0, 0.2], "p": 0.5}
                                      for key in ("top1", "macro_f1")}} for name, more in floors.items()}

    change(made_up, "metrics", add)
    split = ScoredRun(RunFolder.open(made_up)).splits["patient"]
    majority, forest = split.floors
    assert majority.metrics["ci95"]["macro_f1"] == split.floor.ci95["macro_f1"]
    assert forest.metrics["ci95"]["macro_f1"] == [0.01, 0.99]


def test_a_rhythm_of_few_patients_is_not_called_sure(made_up):
    "Found by its figures, but an interval reaches below one half. A mistake in all windows has an interval, too."
    path = made_up / "predictions.csv"
    answers = pd.read_csv(path, dtype={"subject": str})
    answers.loc[answers.truth == "AVRT", "prediction"] = "AVNRT"
    answers.loc[answers.truth.isin(["N", "/A", "/V"]), "prediction"] = answers.truth
    answers.to_csv(path, index=False)
    metrics = {split: summarise(part, [*LABELS, "AFL"], not_evaluable=["AFL"])
               for split, part in answers.groupby("split")}
    (made_up / "metrics.json").write_text(json.dumps(metrics))
    scored = ScoredRun(RunFolder.open(made_up))
    said, split = findings(scored), scored.splits["patient"]
    for entry in said.found:
        label = entry.split(":")[0]
        low = min(split.in_class(label, key)[1][0] for key in ("recall", "precision"))
        assert entry.endswith("too few to be sure") is (low <= 0.5), entry
    low, high = map(float, re.search(r"100\.0 % \(([\d.]+)–([\d.]+)\)", said.confused[0]).groups())
    assert low < 90 and high == 100
    assert "always the same answer" in said.questions[0] and "better than a coin" in said.questions[0]


def with_people(folder, ages):
    "A store that states the age and sex of the patients of a run, in the order of their names."
    subjects = sorted(RunFolder.open(folder).predictions.subject.unique())
    patients = [{"subject": subject, "age": age, "gender": "FM"[number % 2], "group": "children <&>"}
                for number, (subject, age) in enumerate(zip(subjects, ages))]
    (folder / "store").mkdir()
    (folder / "store" / "manifest.json").write_text(json.dumps({"patients": patients}))


def test_the_contents_lead_to_every_section(made_up):
    html = build_report(made_up).read_text()
    assert re.findall('<section id="([a-z]+)">', html) == re.findall('<a href="#([a-z]+)">', html)
    assert len(re.findall('<section id="', html)) == len(HEADINGS)


def test_the_first_screen_says_what_is_found_confused_and_missed(made_up):
    "In words, from the patient-wise result, before the leaky one."
    first = build_report(made_up).read_text().split("<nav")[0]
    text = re.sub(r"\s+", " ", " ".join(Page(first).text))
    for heading in ("What it finds", "What it confuses", "What it misses, or never finds"):
        assert heading in text
    assert "AVRT or AVNRT, which decides where to ablate" in text
    assert "Ventricular tachycardia: this run does not know it and can never name it." in text
    assert "not judged, too few patients: AFL" in text
    assert "pooled from" not in text, "the weights of members stand under How it was made"
    assert text.index("In simulated patients that it had never seen") < text.index("leaky reference")
    card = (made_up / "model_card.md").read_text()
    assert "What it finds, confuses and misses" in card and "can never name it" in card


def test_the_honest_result_stands_first(made_up):
    html = build_report(made_up).read_text()
    for heading in ("Two results, side by side", "What is mistaken for what", TRUST):
        text = section(html, heading)
        assert text.index("Patient-wise (the honest one)") < text.index("Random windows (leaky reference)")


def test_figures_by_age_sex_and_group(made_up):
    "An interval for each group of five or more, words for smaller ones; the text of a group is text."
    with_people(made_up, [1, 3, 4, 5, 6, 7, 13, 14, 15, 16, 17, 30])
    table = section(build_report(made_up).read_text(), "By age, sex and group")
    assert "Age: 1.0 to 30.0 years, median 10.0 (of 12 of 12 patients)" in table
    assert "sex: 6 female, 6 male, 0 not stated" in table and "children <&> 12" in table
    scored = ScoredRun(RunFolder.open(made_up))
    groups = {(group.by, group.name): group for group in scored.strata}
    assert groups["age", "under 2 years"].figures is None and groups["age", "18 to 64 years"].figures is None
    value, (low, high) = groups["age", "2 to 11 years"].figures["top1"]
    assert low < value < high and f"{percent(value)} {100 * low:.1f}–{100 * high:.1f}" in table
    assert table.count("too few patients for a figure") == 2
    items = {number: answer for number, _, answer in tripod(scored)}
    assert "12 to 17 years (5 patients)" in items["14"] and "6 female, 6 male" in items["20b"]
    assert "children <&>" not in (made_up / "report.html").read_text()


def test_a_store_of_other_people_says_nothing(made_up):
    with_people(made_up, [5] * 3)
    scored = ScoredRun(RunFolder.open(made_up))
    assert scored.people.empty and scored.strata == []
    assert "not on file here" in section(build_report(made_up).read_text(), "By age, sex and group")


def test_why_there_are_no_explanations(made_up):
    "A page without a network, a run without windows, one without a network: each says so."
    heading = "What spoke for an answer"
    assert "written without its network" in section(build_report(made_up).read_text(), heading)
    assert "the network is not in this run folder" in section(build_report(made_up, explain_run).read_text(), heading)
    (made_up / "examples.npz").unlink()
    for explain in (None, explain_run):
        assert "holds no windows" in section(build_report(made_up, explain).read_text(), heading)


def test_explanations_are_shown(made_up, painted):
    "By a network with random weights, on made-up windows: which windows, in which words, with a picture each."
    torch.manual_seed(0)
    config = RhythmNetConfig(
        modalities=made_up_run_module.LEADS, n_classes=len(LABELS), seconds=2.0, widths=(16, 32, 32), heads=2, depth=1)
    before = json.loads((made_up / "config.json").read_text())
    RhythmNet(config).save(made_up, {name: before[name] for name in before if name != "model"})
    run = RunFolder.open(made_up)
    chosen = windows_to_explain(run)
    truth, prediction = run.examples["truth"][chosen], run.examples["prediction"][chosen]
    assert len(chosen) == len(set(chosen)) == 3 and (truth == prediction).tolist() == [False, False, True]
    page = Page(build_report(made_up, explain_run).read_text())
    assert not page.wrong and not page.open
    text = section((made_up / "report.html").read_text(), "What spoke for an answer")
    for label, answer in zip(truth, prediction):
        assert (f"{label}, named {answer}" if label != answer else f"{label}, named rightly") in text
    assert text.count("Check: three networks with random weights") == 3
    assert "Without this patient in the training" in text and "The prototype nearest to that of" in text
    assert sum("red where they speak for the answer" in image["alt"] for image in page.images) == 3
    (made_up / "model.safetensors").write_bytes(b"damaged")
    assert "is damaged" in section(build_report(made_up, explain_run).read_text(), "What spoke for an answer")
