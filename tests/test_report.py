"""The report: complete, self-contained, true to metrics.json, and clear where a number would be a guess."""
import json
import re
from html.parser import HTMLParser

import pytest

from pediatric_ecg.databases import DataError
from pediatric_ecg.report import build_report
from pediatric_ecg.report_example import made_up_run
from pediatric_ecg.report_text import load_run, percent, summary, text_table

SECTIONS = ["Two results, side by side", "Rhythm by rhythm", "What is mistaken for what", "Which rhythms the network holds alike",
            "Example windows", "How it learned", "The cohort", "How it was made", "Limits"]


class Page(HTMLParser):
    "Text, headings, images, what would be loaded, and whether every element is closed."

    VOID = {"meta", "img", "br", "hr", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.text, self.headings, self.images, self.loads, self.open, self.wrong = [], [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        self.loads += [v for k, v in attrs.items() if k in ("src", "href", "srcset") and not v.startswith("data:image/")]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def change(folder, name, edit):
    "Edit one JSON file of a run folder."
    path = folder / f"{name}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def made_up(tmp_path):
    return made_up_run(tmp_path / "run", seed=1)


def test_page_is_whole_and_needs_nothing_else(made_up):
    path = build_report(made_up)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert path == made_up / "report.html" and (made_up / "model_card.md").exists()
    assert not page.wrong and not page.open, "every element is closed in order"
    assert page.headings == SECTIONS
    assert not page.loads and "url(" not in html and "<script" not in html and "@import" not in html
    assert page.images and all(len(i.get("alt", "")) > 30 for i in page.images), "every picture has words"
    assert not list(made_up.glob("*.partial"))


def test_numbers_are_those_of_metrics(made_up):
    metrics = json.loads((made_up / "metrics.json").read_text())
    text = re.sub(r"\s+", " ", " ".join(Page(build_report(made_up).read_text()).text))
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


def test_title_says_simulated_or_real(made_up):
    assert "<title>Rhythm classification on simulated signals" in build_report(made_up).read_text()
    change(made_up, "manifest", lambda m: m.update(simulated=False, title="Some Database <1.0>"))
    html = build_report(made_up).read_text()
    assert "<title>Rhythm classification on real recordings: Some Database &lt;1.0&gt;</title>" in html
    assert "Simulated signals" not in html


def test_two_builds_give_the_same_bytes(made_up):
    first = build_report(made_up).read_bytes()
    assert build_report(made_up).read_bytes() == first


def test_notes_and_limits_are_shown(made_up):
    note = "Two surface leads stand in for two modalities."
    change(made_up, "manifest", lambda m: m.update(notes=[note], quick=True))
    html = build_report(made_up).read_text()
    assert note in html and "Quick run" in html and "Not a medical device" in html and "AFL" in html
    card = (made_up / "model_card.md").read_text()
    assert note in card and "TRIPOD+AI" in card and card.count("\n| ") > 30


@pytest.mark.parametrize("missing", ["history.csv", "similarity.json", "examples.npz", "config.json"])
def test_a_missing_part_leaves_its_section_out(made_up, missing):
    (made_up / missing).unlink()
    page = Page(build_report(made_up).read_text())
    gone = {"history.csv": "How it learned", "similarity.json": SECTIONS[3], "examples.npz": "Example windows", "config.json": None}[missing]
    assert page.headings == [s for s in SECTIONS if s != gone]


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


def test_a_split_without_result_has_words(made_up):
    def nothing(metrics):
        keys = ("top1", "macro_precision", "macro_recall", "macro_f1", "macro_f2")
        labels = list(metrics["patient"]["per_class"])
        metrics["patient"] = {**dict.fromkeys(keys), "ci95": dict.fromkeys(keys), "per_class": dict.fromkeys(labels, "not evaluable"), "n_classes": 0, "n_windows": 0, "n_patients": 0}

    change(made_up, "metrics", nothing)
    html = build_report(made_up).read_text()
    assert "No result for new patients" in html and "no two rhythms are held by enough patients" in html
    assert "patient-wise" not in text_table(json.loads((made_up / "metrics.json").read_text()))


def test_summary_follows_the_sign(made_up):
    run = load_run(made_up)
    assert any("points higher" in s for s in summary(run))
    run.metrics["random"]["macro_f1"] = run.metrics["patient"]["macro_f1"] - 0.1
    assert any("10.0 points lower" in s for s in summary(run))


def test_one_patient_has_no_interval(made_up):
    change(made_up, "metrics", lambda m: [v["ci95"].update({k: [None, None] for k in v["ci95"]}) for v in m.values()])
    assert "–" in Page(build_report(made_up).read_text()).text
