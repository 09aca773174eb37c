"""What the pages of results say in words is what the saved results say in numbers."""
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from pediatric_ecg.evaluate import compare, holm, scores
from pediatric_ecg.evaluate.floors import ALONE
from pediatric_ecg.evaluate.scores import intervals

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "nbs" / "results"


def words_of(name):
    "The prose of a notebook, in one line."
    cells = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return re.sub(r"\s+", " ", " ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"))


def results(grid):
    "The figures of a grid in percent, one row per setting."
    table = pd.read_csv(RESULTS / grid / "results.csv")
    names = [name for name in table.select_dtypes("number") if name not in ("classes", "patients", "rank", "shots")]
    return table.assign(**100 * table[names])


def comparisons(grid):
    "Differences in points; Holm's p over a split."
    table = pd.read_csv(RESULTS / grid / "comparisons.csv")
    for name in ("macro_f1", "top1"):
        table[f"{name}_holm"] = table.groupby("split")[f"{name}_p"].transform(lambda p: holm(p))
        for part in ("difference", "low", "high"):
            table[f"{name}_{part}"] *= 100
    return table


def rival(table, loss, arguments=None):
    "One row of a table, by its loss and what of it is not the default."
    same = table.loss_args.isna() if arguments is None else table.loss_args == arguments
    [row] = table[(table.loss == loss) & same].itertuples()
    return row


def behind(row):
    "'2.0 (0.8 to 3.4)': by how many points the reference is behind."
    return f"{-row.macro_f1_difference:.1f} ({-row.macro_f1_high:.1f} to {-row.macro_f1_low:.1f})".replace("-", "−")


def ahead(row):
    "The same, the other way."
    return f"{row.macro_f1_difference:.1f} ({row.macro_f1_low:.1f} to {row.macro_f1_high:.1f})".replace("-", "−")


def test_the_study_of_losses():
    text = words_of("experiments/05_study")
    mitdb, simulated = comparisons("mitdb-losses"), comparisons("sim-losses")
    own = mitdb[mitdb.loss_args.isna() & ~mitdb.loss.str.startswith("agcacl")]
    least, most = own.loc[own.macro_f1_difference.idxmin()], own.loc[own.macro_f1_difference.idxmax()]
    assert (least.loss, most.loss) == ("supcon", "paco")
    paco, supcon, ldam = rival(mitdb, "paco"), rival(simulated, "supcon"), rival(simulated, "ldam")
    with_half = rival(simulated, "supcon+la", '{"prior": 0.5}')
    entropy, adjusted, weighted = (rival(simulated, loss) for loss in ("ce", "ce+la", "cb"))
    given = mitdb[mitdb.loss_args.notna()].macro_f1_difference
    whole = [rival(mitdb, loss).top1_difference for loss in ("ce+la", "cb", "bcl")]
    for part in (
        f"{least.macro_f1_difference:.1f} points (SupCon) to {most.macro_f1_difference:.1f} (PaCo)",
        f"the one that Holm leaves ({paco.macro_f1_holm:.3f})",
        f"+{given.max():.1f} to −{-given.min():.1f} points",
        f"Behind SupCon by {behind(supcon).replace(' (', ' points (')}, which Holm leaves ({supcon.macro_f1_holm:.3f})",
        f"SupCon with the same half prior by {behind(with_half)}",
        f"LDAM by {behind(ldam)}",
        f"survives Holm ({ldam.macro_f1_holm:.2f} both)",
        f"cross-entropy as far as this can tell ({-entropy.macro_f1_difference:.1f} behind",
        f"`ce+la` ({adjusted.macro_f1_difference:.1f}) and `cb` ({weighted.macro_f1_difference:.1f})",
        f"prototypes of windows ({ahead(rival(simulated, 'agcacl-windows')).replace(' (', ', ')[:-1]})",
        f"differences of top-1, {min(whole):.0f} to {max(whole):.0f} points",
    ):
        assert part in text, part
    assert f"{with_half.macro_f1_holm:.2f}" == f"{ldam.macro_f1_holm:.2f}"
    for table, left in ((mitdb, ["paco"]), (simulated, ["supcon"])):
        assert table.loss[table.macro_f1_holm < 0.05].tolist() == left, "what the page says is left after Holm"
    inside = own[(own.macro_f1_low < 0) & (own.macro_f1_high > 0)]
    assert set(own.loss) - set(inside.loss) == {"paco"}, "every interval but PaCo's contains zero"


def test_luck_rhythms_and_trials_in_the_study():
    text = words_of("experiments/05_study")
    parts = []
    sentences = {"mitdb-losses": "{:.1f} against {:.1f} points", "sim-losses": ", {:.1f} against {:.1f})"}
    for grid, sentence in sentences.items():
        table = results(grid)
        parts.append(sentence.format(table.macro_f1_sd_repeats.mean().round(1), table.macro_f1.std()))
    mitdb, one_seed = results("mitdb-losses"), results("sim-robustness").query("condition == 'clean'").set_index("loss")
    distance = one_seed.macro_f1["ce"] - one_seed.macro_f1["agcacl"]
    parts += [
        f"has cross-entropy {distance:.1f} points ahead",
        f"goes from {one_seed['f1 AE']['agcacl']:.0f} to {one_seed['f1 AE']['ce']:.0f} %",
        f"flutter reaches {mitdb['f1 AFL'].max():.0f} % at best",
        f"any two losses lie apart on that database ({mitdb.macro_f1.max() - mitdb.macro_f1.min():.1f})",
    ]
    assert max(mitdb[f"f1 {label}"].max() for label in ("T", "NOD", "SVTA")) <= 12
    tried = 100 * pd.read_csv(RESULTS / "choices-losses.csv").set_index("setting")
    whole, half = (tried.loc[f"prototypes of windows, {part}"] for part in ("whole prior", "half the prior"))
    parts += [
        f"from {whole.macro_f1:.1f} to {half.macro_f1:.1f} %, pooled over folds",
        f"({whole.mean_of_folds:.1f} to {half.mean_of_folds:.1f} in the mean of folds)",
        f"top-1 from {whole.top1:.0f} to {half.top1:.0f} %",
    ]
    people = pd.read_csv(RESULTS / "mitdb-people" / "predictions.csv.gz", dtype={"subject": str})
    once = people[(people.split == "patient") & (people.repeat == 0)]
    for label, name in (
        ("NOD", "of the {} windows of nodal rhythm {:.0f} %"),
        ("SVTA", "of the {} of supraventricular tachycardia {:.0f} %"),
        ("AFL", "of the {} of flutter {:.0f} %"),
    ):
        of_patients = once.subject[once.truth == label].value_counts()
        assert len(of_patients) == 3
        parts.append(name.format(of_patients.sum(), 100 * of_patients.max() / of_patients.sum()))
    for part in parts:
        assert part in text, part


def test_calibration_and_ingredients_in_the_study():
    text = words_of("experiments/05_study")
    trust = pd.read_csv(RESULTS / "calibration.csv").set_index(["database", "loss", "way"])
    points = 100 * trust.ece

    def raised(*setting):
        "'4.5 to 8.0'"
        return f"{points[(*setting, 'as it is')]:.1f} to {points[(*setting, 'tempered')]:.1f}"

    recall = 100 * trust.macro_recall
    ingredients = comparisons("mitdb-ingredients")
    memory = ingredients[ingredients.loss_args == '{"momentum": 0.0}'].iloc[0]
    no_phi = ingredients[ingredients.loss_args == '{"beta": 0.0}'].iloc[0]
    for part in (
        f"macro recall from {recall['mitdb', 'ce', 'as it is']:.0f} to {recall['mitdb', 'ce+la', 'as it is']:.0f} %",
        f"(ECE {points['mitdb', 'ce', 'as it is']:.1f} to {points['mitdb', 'ce', 'tempered']:.1f} points",
        f"{raised('mitdb', 'ce+la')} with the whole prior",
        f"({raised('mitdb', 'ce+la, ½ prior')} with half)",
        f"half the prior, {raised('sim', 'ce+la, ½ prior')}, and with the whole, {raised('sim', 'ce+la')}",
        f"φ most ({no_phi.macro_f1_difference:.1f} points)",
        f"the smallest p is {ingredients.macro_f1_p.min():.2f} and {ingredients.macro_f1_holm.min():.2f} by Holm",
        f"({memory.top1_difference:.1f} points, {memory.top1_holm:.3f})",
    ):
        assert part in text, part
    assert ((ingredients.macro_f1_low < 0) & (ingredients.macro_f1_high > 0)).all()


def test_few_shots():
    text = words_of("experiments/06_tables")
    table = results("sim-shots")
    names = table.loss + table.loss_args.fillna("")
    at = {(name, shots): value for name, shots, value in zip(names, table.shots, table.macro_f1)}
    whole = 'agcacl{"prior": 1.0}'
    pairs = pd.read_csv(RESULTS / "sim-shots" / "pairs.csv")
    pairs["holm"] = holm(pairs.p)
    pairs = pairs.set_index(["loss", "against", "shots"])
    scaled = pairs.assign(**100 * pairs[["difference", "low", "high"]])
    default = scaled.loc[("agcacl", "ce", 1)]
    equal = {shots: scaled.loc[("agcacl, whole prior", "ce+la", shots)] for shots in (1, 10, 20)}
    assert [index for index, p in pairs.holm.items() if p < 0.05] == [
        ("agcacl", "ce", 1), ("agcacl, whole prior", "ce+la", 1)]
    for part in (
        f"`ce+la` {at['ce+la', 1]:.0f} %, AGCACL with the whole prior {at[whole, 1]:.0f}",
        f"by {-equal[1].difference:.1f} points ({-equal[1].high:.1f} to {-equal[1].low:.1f})",
        f"plain cross-entropy by {-default.difference:.1f} ({-default.high:.1f} to {-default.low:.1f})",
        f"left after Holm ({default.holm:.3f})",
        f"with none have {at['ce+la', 10]:.1f} and {at['ce', 10]:.1f} %",
        f"the whole prior is last ({at[whole, 10]:.1f}; {-equal[10].difference:.1f} behind `ce+la`, "
        f"{-equal[10].high:.1f} to {-equal[10].low:.1f}, {equal[10].holm:.2f} by Holm)",
        f"is last ({at['ce+la', 20]:.1f} %)",
        f"ahead by {equal[20].difference:.1f} ({equal[20].low:.1f} to {equal[20].high:.1f}), "
        f"at the very edge after Holm ({equal[20].holm:.3f})",
    ):
        assert part in text, part
    five = [value for (_, shots), value in at.items() if shots == 5]
    assert 48 <= round(min(five)) and max(five) <= 54
    last = {shots: min((value, name) for (name, k), value in at.items() if k == shots)[1] for shots in (10, 20)}
    assert last == {10: whole, 20: "ce+la"}


def test_networks_modalities_fusion_and_disturbances():
    text = words_of("experiments/06_tables")
    networks = comparisons("mitdb-networks")
    peer = networks[networks.network == "resnet"].iloc[0]
    plain = networks[(networks["model.periodicity"] == False) & (networks.loss == "agcacl")].iloc[0]  # noqa: E712
    loss = networks[(networks["model.periodicity"] == True) & (networks.loss == "ce")].iloc[0]  # noqa: E712
    modalities, fusion = comparisons("sim-modalities").iloc, comparisons("sim-fusion").set_index("model.fusion").loc
    noise = comparisons("sim-robustness").set_index("condition").loc["noise 0 dB"]
    table = results("mitdb-networks")
    top1 = table.top1[table.network == "resnet"].iloc[0]
    for part in (
        f"{peer.macro_f1_difference:.1f} points of macro-F1 above the *one* peer",
        f"({peer.macro_f1_low:.1f} to {peer.macro_f1_high:.1f}, {peer.macro_f1_holm:.3f} by Holm)",
        f"worth {ahead(plain).replace(' (', ' points (')[:-1]}, {plain.macro_f1_holm:.3f} by Holm)",
        f"the loss is worth {ahead(loss)[:-1]}, {loss.macro_f1_holm:.2f})",
        f"its top-1 of {top1:.1f} %",
        f"falls by {ahead(modalities[0]).replace(' (', ' points (')[:-1]}, {modalities[0].macro_f1_holm:.3f} by Holm)",
        f"stands after Holm ({fusion['early'].macro_f1_holm:.3f})",
        f"ahead by {ahead(noise)[:-1]}, p {noise.macro_f1_p:.3f})",
        f"counted ({noise.macro_f1_holm:.2f} by Holm)",
    ):
        assert part in text, part
    checks = results("mitdb-permuted")
    honest = checks[checks.permute.isna()].set_index("split").macro_f1
    assert f"{honest['random']:.1f} % on random windows and {honest['patient']:.1f} % on new patients" in text
    assert f"{honest['random'] - honest['patient']:.0f} points, and since" in text
    assert not (comparisons("sim-robustness").macro_f1_holm < 0.05).any()
    assert not (comparisons("sim-transformer").macro_f1_holm < 0.05).any()


@pytest.mark.parametrize("notebook", ["experiments/05_study", "experiments/06_tables"])
def test_pages_of_results_say_how_they_came_about(notebook):
    "Age of the grids, steps, seeds, repeats, and choices that were not nested; nothing that was refuted."
    text = words_of(notebook)
    for part in ("callout-warning", "older than the code beside them", "optimiser steps", "seed", "repeat",
                 "choices were not nested", "test patient of another fold", "Holm"):
        assert part in text, part
    for refuted in ("best peer", "nothing else.", "tidy geometry", "proof that nothing", "tidiest"):
        assert refuted not in text, refuted


def test_the_tutorial_on_leakage():
    "Its figures come from slow cells, whose saved output stands on the page."
    file = ROOT / "nbs" / "tutorials" / "leakage.ipynb"
    text, printed = words_of("tutorials/leakage"), []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            printed += "".join(output.get("data", {}).get("text/plain", "")).splitlines()
    figures = {}
    for line in printed:
        found = [float(value) for value in re.findall(r"(\d\.\d{3}) \[", line)]
        if found:
            figures.setdefault(line.split("  ")[0].strip(), []).extend(found)
    macro_f1 = {name: values[3::5] for name, values in figures.items()}  # the fourth of five figures
    forest, forest_new = (macro_f1[f"forest, {way}"][0] for way in ("random windows", "patient-wise"))
    (network, simulated), (network_new, simulated_new) = (
        macro_f1[f"network, {way}"] for way in ("random windows", "patient-wise"))
    for part in (
        f"forest's macro-F1 of {forest:.2f}, three quarters are gone when the patients are new ({forest_new:.2f})",
        f"of the network's {network:.2f}, half ({network_new:.2f})",
        f"ahead of the network ({forest:.2f} against {network:.2f})",
        f"reversed ({forest_new:.2f} against {network_new:.2f})",
        f"macro-F1 {simulated:.2f} on random windows, above the paper's 0.93, and {simulated_new:.2f} patient-wise",
    ):
        assert part in text, part


@pytest.mark.parametrize("name", ["demo", "mitdb"])
def test_the_first_page_gives_the_saved_runs(name):
    "Top-1 and macro-F1 of both splits, with their intervals, stand in the README as in `metrics.json`."
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for split, figures in json.loads((RESULTS / "runs" / name / "metrics.json").read_text()).items():
        for key in ("top1", "macro_f1"):
            low, high = (100 * edge for edge in figures["ci95"][key])
            assert f"{100 * figures[key]:.1f} % ({low:.1f}–{high:.1f})" in page, (name, split, key)


def test_the_first_page_names_the_members_that_are_as_good_alone():
    "Those whose difference to all members together may be zero on new patients of mitdb, each with its figures."
    page = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    floors = json.loads((RESULTS / "runs" / "mitdb" / "metrics.json").read_text())["patient"]["floors"]
    [words] = re.findall(r"\*\*Three members alone cannot be told (.*?\)\.) ", page + " ")
    unclear = {name: floors[name] for name in ALONE if floors[name]["difference"]["macro_f1"]["ci95"][0] <= 0}
    assert len(unclear) == 3
    for figures in unclear.values():
        difference = figures["difference"]["macro_f1"]
        low, high = difference["ci95"]
        shown = f"{100 * difference['difference']:+.1f}, {100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")
        assert f"{100 * figures['macro_f1']:.1f} %" in words and shown in words, shown


def test_the_first_page_gives_the_study_on_simulated_people():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for figures in json.loads((RESULTS / "mitdb-people" / "figures.json").read_text()).values():
        assert f"{100 * figures['macro_f1']:.1f} %" in page


def saved_answers(name):
    return pd.read_csv(RESULTS / name / "predictions.csv.gz", dtype=str, keep_default_na=False)


def paired(answers, one, other):
    "The difference of two columns of saved answers in macro-F1."
    labels = sorted(answers.truth.unique())
    parts = [answers.assign(prediction=answers[column]) for column in (one, other)]
    return compare(*parts, labels)["macro_f1"]


def test_the_first_page_gives_the_losses_with_equal_chances():
    "Order, figures and what Holm leaves after 200 and after 1,000 steps, from the saved answers."
    page = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    answers = saved_answers("equal-chances").assign(split="patient")
    left, order = {}, {}
    for epochs in (10, 48):
        names = [column for column in answers if column.endswith(f", {epochs} epochs")]
        mine, labels = f"AGCACL, {epochs} epochs", sorted(answers.truth.unique())
        order[epochs] = sorted(names, key=lambda name: -scores(answers.truth, answers[name], labels)["macro_f1"])
        others = [name for name in names if name != mine]
        found = [paired(answers, mine, name) for name in others]
        adjusted = holm([row["p"] for row in found])
        left[epochs] = {name.split(",")[0]: 100 * row["difference"]
                        for name, row, p in zip(others, found, adjusted) if p < 0.05}
        if epochs == 48:
            best = scores(answers.truth, answers[mine], labels)["macro_f1"]
            low, high = intervals(answers.assign(prediction=answers[mine]), labels)["macro_f1"]
            assert f"first with {100 * best:.1f} % ({100 * low:.1f}–{100 * high:.1f})" in page
    assert order[48][0] == "AGCACL, 48 epochs" and order[10].index("AGCACL, 10 epochs") == 2
    assert set(left[10]) == {"PaCo with a queue"}
    assert set(left[48]) == {"logit adjustment", "BCL", "PaCo with a queue"}
    adjustment, balanced, queue = (left[48][name] for name in ("logit adjustment", "BCL", "PaCo with a queue"))
    assert (f"logit adjustment ({adjustment:.1f} points), balanced contrastive loss ({balanced:.1f}) "
            f"and PaCo ({queue:.1f})") in page


def test_the_first_page_gives_permuted_names_and_the_block():
    page = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    checks = results("mitdb-permuted")
    by_patient = checks[checks.permute == "patients"].set_index("split").macro_f1
    assert f"{by_patient['random']:.1f} % on random windows, and {by_patient['patient']:.1f} % on new patients" in page
    for place, words in (("mitdb", "it has {} there"), ("demo", "and {} on twelve simulated patients")):
        found = paired(saved_answers(f"periodicity-{place}"), "with", "without")
        points, low, high = (f"{100 * value:+.1f}" for value in (found["difference"], *found["ci95"]))
        points = points if place == "demo" else f"{points} points"
        assert words.format(f"{points} ({low} to {high.strip('+')})").replace("-", "−") in page, place


# ── references ──

KEY = re.compile(r"(?<![\w`/.])@([a-z]+\d{4}[a-z]*)")
PAGES = sorted(page for ending in ("ipynb", "qmd", "md") for page in (ROOT / "nbs").rglob(f"*.{ending}")
               if not {".ipynb_checkpoints", "_proc", "_docs", "results"} & set(page.parts))


def prose_of(page):
    "What a reader reads of a page, code cells left out."
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    return " ".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def entries():
    "Key of each reference → its fields."
    bibliography = (ROOT / "nbs" / "references.bib").read_text(encoding="utf-8")
    found = re.findall(r"^@\w+\{(\w+),(.*)\}$", bibliography, re.M)
    assert len(found) == len(re.findall(r"^@", bibliography, re.M)), "one entry per line"
    keys = [key for key, _ in found]
    assert len(keys) == len(set(keys)), "a key stands twice"
    return dict(found)


def test_every_citation_resolves_and_every_reference_is_cited():
    "A key without an entry prints as `?` on the site; an entry that nobody cites is not printed at all."
    known, cited = entries(), {}
    for page in PAGES:
        for key in KEY.findall(prose_of(page)):
            cited.setdefault(key, page.name)
    assert {key: page for key, page in cited.items() if key not in known} == {}
    assert set(known) - set(cited) == set()


def test_references_are_whole():
    "Each has a title and a year, the year of its key, and says where it appeared."
    for key, fields in entries().items():
        year = re.search(r"year=\{(\d{4})\}", fields)
        assert year and year.group(1) == re.search(r"\d{4}", key).group(), key
        assert "title={" in fields, key
        assert re.search(r"(booktitle|journal|publisher|institution|eprint)=\{", fields), key
        assert key.startswith("advancing") or "author={" in fields, key


# ── pages for readers ──

COURSE = sorted((ROOT / "nbs" / "course").glob("*.ipynb"))


def exercises_of(page):
    "Number of an exercise → whether it is a cell to run; the answers, which are folded, are left out."
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    text, after = "", False
    for cell in cells:
        source = "".join(cell["source"])
        after |= "## Exercises" in source
        if after and "Markdown(" not in source:
            text += source.partition("## Exercises")[2] or source
            text += "\n"
    text = re.sub(r"<details>.*?</details>", "", text, flags=re.S)
    found = re.findall(r"^\*\*(\d+)\.( \(to run\))?\*\*", text, re.M)
    return {int(number): bool(to_run) for number, to_run in found}


def test_more_than_half_of_the_exercises_of_the_course_are_cells_to_run():
    "As its first page says; each page has at least half."
    counts = {page.stem: list(exercises_of(page).values()) for page in COURSE if exercises_of(page)}
    assert len(counts) == 5
    for page, to_run in counts.items():
        assert 2 * sum(to_run) >= len(to_run), page
    every = sum(counts.values(), [])
    assert 2 * sum(every) > len(every)


def test_links_to_the_glossary_lead_to_one_of_its_sections():
    text = prose_of(ROOT / "nbs" / "course" / "glossary.ipynb")
    known = {re.sub(r"[^a-z0-9 -]", "", title.lower()).strip().replace(" ", "-")
             for title in re.findall(r"## (.+?)\n", text + "\n")}
    for page in PAGES:
        for anchor in re.findall(r"glossary\.ipynb#([\w-]+)", prose_of(page)):
            assert anchor in known, (page.name, anchor)
