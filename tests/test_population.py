"""Simulated people in the form of a database: same seed, same bytes, and a round trip through check and prepare."""
import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.core import DataError
from pediatric_ecg.data import LEIPZIG, MITDB, Database, check, read_annotations, read_signals
from pediatric_ecg.sim import Heart, Population, simulate_people, simulated_form, stand_ins
from pediatric_ecg.sim.population import SIMULATED_LEADS, SOURCES, draw_person, lead_weights
from pediatric_ecg.sim.rhythms import BEATS, PATTERNS
from pediatric_ecg.sim.signals import Noise, NoiseSource
from pediatric_ecg.windows import prepare

SNOMED = {
    "426177001": "sinus bradycardia",
    "426783006": "Sinus Rhythm",
    "427084000": "sinus tachycardia",
    "164889003": "atrial fibrillation",
    "59118001": "right bundle branch block",
    "10370003": "pacing rhythm",
    "164931005": "st elevation",
}
CODED = {
    "name": "coded",
    "modalities": {"ecg": ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]},
    "markers": SNOMED,
    "label_source": "record",
    "several_labels": "first",
    "fs": 500,
}


def round_trip(database, folder, patients, seconds, **choices):
    "Simulate, check, prepare; the report of the check and the store."
    people = simulate_people(folder / "people", database, patients, seconds, **choices)
    form = simulated_form(database)
    report = check(people, form)
    assert [finding.text for finding in report.findings if finding.severity == "error"] == []
    assert report.summary["simulated"] == patients
    grouping = choices.get("grouping", "default")
    return report, prepare(people, folder / "store", form, grouping=grouping, n_jobs=1, progress=False)


@pytest.mark.parametrize("database, patients, seconds", [(MITDB, 20, 60), (LEIPZIG, 12, 60)], ids=["mitdb", "leipzig"])
def test_round_trip(database, patients, seconds, tmp_path):
    "Every class of a database comes back as windows, from several people, each person a subject."
    report, store = round_trip(database, tmp_path, patients, seconds)
    classes = set(database.grouping().values())
    assert set(store.table.label) == classes
    assert store.table.subject.nunique() == patients
    assert set(store.table.record) == set(store.table.subject)
    signals, present = store.batch(np.arange(len(store)))
    for modality, slots in database.modalities.items():
        assert present[modality].mean() > .85
        assert np.isfinite(signals[modality]).all() and signals[modality].shape[1] == len(slots)


def test_round_trip_of_codes_for_whole_records(tmp_path):
    "A database given as JSON, with SNOMED codes as markers and one label per record."
    (tmp_path / "coded.json").write_text(json.dumps(CODED))
    database = Database.from_json(tmp_path / "coded.json")
    found = stand_ins(database)
    assert found.rhythms["426783006"] == ("sinus rhythm",) and "164931005" not in found.rhythms
    assert len(found.missing) == 1 and "164931005" in found.missing[0]
    _, store = round_trip(database, tmp_path, 12, 30)
    assert set(store.table.rhythm) == set(SNOMED) - {"164931005"}


def test_sinus_rhythm_keeps_its_rate_where_it_is_told_apart(tmp_path):
    "Where a database tells bradycardia from sinus rhythm, hardly an adult's sinus rhythm is slow."
    database = Database.from_dict(CODED, "here")
    people = simulate_people(tmp_path / "people", database, 24, 30)
    rates = []
    for number in range(1, 25):
        name = people / f"simulated-{number:05d}"
        notes = read_notes(name, database)
        marker = notes.aux.where(notes.symbol == "+").ffill()
        beats = notes[(marker == "426783006") & (notes.symbol != "+")]
        age = float(name.with_suffix(".hea").read_text().split("age ")[1].split()[0])
        if age >= 12 and len(beats) > 5:
            rates.append(60/np.median(np.diff(beats["sample"])/500))
    assert len(rates) > 5 and 55 < np.median(rates) < 100
    assert np.mean([54 < rate < 106 for rate in rates]) > .6


def read_notes(name, database):
    "Annotations of a simulated record."
    return read_annotations(name, simulated_form(database))


def test_leads_by_position(tmp_path):
    "Slots without names are drawn from what the database says of them; signal i is slot i."
    markers = {"(N": "sinus rhythm", "(VT": "ventricular tachycardia"}
    database = Database("holter", "Made up", {"ecg": ("#0", "#1")}, markers)
    object.__setattr__(database, "simulated_leads", {"#0": ("aVR",), "#1": ("II",)})
    _, store = round_trip(database, tmp_path, 6, 30)
    assert set(store.table.label) == {"N", "VT"}
    negative = 0
    for number in range(1, 7):
        signal = read_signals(tmp_path / f"people/simulated-{number:05d}", 0, 5000, ["aVR", "II"])
        negative += np.corrcoef(signal.T)[0, 1] < -.5
    assert negative >= 4


def test_same_seed_same_bytes_and_any_number_of_processes(tmp_path):
    "The bytes depend on the seed alone; the first people of a larger population are the same ones."
    def content(name, patients, **choices):
        made = simulate_people(tmp_path / name, LEIPZIG, patients, 12, **choices)
        return {file.name: file.read_bytes() for file in made.iterdir() if file.name != "RECORDS"}

    one = content("one", 4, seed=7)
    assert one == content("two", 4, seed=7, n_jobs=2)
    assert one != content("other", 4, seed=8)
    more = content("more", 6, seed=7)
    assert one == {name: more[name] for name in one}


def test_nothing_can_stand(tmp_path):
    "One line, before anything is made."
    pressure = Database("pressure", "Made up", {"pressure": ("ABP",)}, {"(N": "sinus rhythm"})
    moods = Database("moods", "Made up", {"ecg": ("II",)}, {"calm": "calm", "ST": "ST elevation"})
    for database in (pressure, moods):
        with pytest.raises(DataError, match="no simulated .* stands for any") as error:
            simulate_people(tmp_path / "people", database, 3, 20)
        assert "\n" not in str(error.value) and database.name in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert len(stand_ins(pressure).missing) == 1 and len(stand_ins(moods).missing) == 2


def test_what_a_database_says_itself_must_exist():
    "A lead or rhythm that the simulator lacks is refused with the known ones."
    database = Database("odd", "Made up", {"ecg": ("II",)}, {"x": "calm"})
    object.__setattr__(database, "simulated_rhythms", {"x": ("waltz",)})
    with pytest.raises(DataError, match="waltz.*sinus rhythm"):
        stand_ins(database)
    object.__setattr__(database, "simulated_rhythms", {"x": ("sinus rhythm", "sinus tachycardia")})
    assert stand_ins(database).rhythms == {"x": ("sinus rhythm", "sinus tachycardia")}
    object.__setattr__(database, "simulated_leads", {"II": ("V9",)})
    with pytest.raises(DataError, match="V9"):
        stand_ins(database)


def test_every_range_has_its_source():
    "Each field of the population names a reference, or says that it is our choice."
    for entry in fields(Population):
        assert entry.metadata["source"].removeprefix("our choice, after ") in {*SOURCES, "our choice"}, entry.name
    named = {entry.metadata["source"].removeprefix("our choice, after ") for entry in fields(Population)}
    assert named >= set(SOURCES)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), age=st.floats(0, 90))
def test_people_lie_within_the_ranges(seed, age):
    "Whatever the age: times are positive, the way round leaves the node time, ranges are kept."
    person = draw_person(np.random.default_rng(seed), age=age)
    patient, population = person.patient, person.population
    assert patient.age == age
    assert .3 < patient.sinus < 1.5
    assert patient.ah_tachy > .06 and patient.slow > patient.ah
    for name in ("hv", "vt", "flutter", "av_erp", "ectopic", "junction"):
        low, high = getattr(population, name)
        assert low <= getattr(patient, name) <= high
    assert abs(person.sizes["t"]) <= population.t_size[1]
    assert all(abs(shift) < 1 for shift in person.placement)
    for name in ("high_pass", "low_pass", "gain", "rail"):
        assert getattr(person, name) in getattr(population, name)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_leads_obey_einthoven(seed):
    "I + III = II and aVR + aVL + aVF = 0, with the arms exchanged too."
    person = draw_person(np.random.default_rng(seed))
    of = {lead: lead_weights(lead, person) for lead in SIMULATED_LEADS}
    np.testing.assert_allclose(of["I"] + of["III"], of["II"], atol=1e-12)
    np.testing.assert_allclose(of["aVR"] + of["aVL"] + of["aVF"], 0, atol=1e-12)
    for lead in ("V1", "V6"):
        assert of[lead].sum() == pytest.approx(person.sizes["chest"])


def test_noise_is_the_one_of_the_signals(tmp_path):
    "A person without waves and noise is silent; each level of `Noise` makes its own disturbance, at any rate."
    silent = Noise(0., 0., 0., 0., 0.)
    for fs in (128., 250., 360., 976.5625):
        for name in ("muscle", "white", "wander", "electrode_motion"):
            source = NoiseSource(replace(silent, **{name: .02}), [False], np.random.default_rng(0), .25, fs)
            stretch = source.next()
            assert stretch.shape == (16*round(fs), 1) and .004 < stretch.std() < .2
        assert np.abs(NoiseSource(silent, [False], np.random.default_rng(0), .25, fs).next()).max() == 0


def junctional_heart(seed, **known):
    "A heart of the population after a minute of junctional rhythm, and its person."
    person = draw_person(np.random.default_rng(seed), age=60., **known)
    heart = Heart(person.patient, np.random.default_rng(seed))
    while heart.last_v < 60:
        BEATS["J"](heart)
        heart.previous_kind = "J"
    return heart, person.patient


def test_junctional_rhythm_has_no_sinus_p_wave_that_should_have_been_conducted():
    "Where the sinus node waits, each P wave comes from the junction; before, in or after QRS, each in some people."
    places = []
    for seed in range(40):
        heart, patient = junctional_heart(seed, sinus_waits=True, va_conducts=True)
        atria = [event for event in heart.events if event.what == "A" and event.time > 2]
        ventricles = np.array([event.time for event in heart.events if event.what == "V"])
        assert {event.origin[0][0] for event in atria} == {"avn"}
        assert 38 < 60/np.diff(ventricles).mean() < 112
        places.append(np.median([event.time - ventricles[np.abs(ventricles - event.time).argmin()] for event in atria]))
    places = np.array(places)
    assert places.min() > -.12 # PR below 120 ms
    assert (places < -.04).sum() > 5 and (places > .07).sum() > 5 and (np.abs(places - .02) < .03).sum() > 5


def test_flutter_is_conducted_as_in_people():
    "Regular in some, irregular in others; a wave that gets stuck makes RR no whole number of waves; no beat too early."
    variation, waves_off = [], []
    for seed in range(60):
        person = draw_person(np.random.default_rng(seed), age=60.)
        heart = Heart(person.patient, np.random.default_rng(seed))
        while heart.last_v < 60:
            BEATS["AFL"](heart)
        rr = np.diff([event.time for event in heart.events if event.what == "V"])[1:]
        waves = np.diff([event.time for event in heart.events if event.what == "F"])
        assert rr.min() > .2 and 35 < 60/rr.mean() < 190
        assert 220 < 60/waves.mean() < 460
        variation.append(rr.std()/rr.mean())
        ratio = rr/person.patient.flutter
        waves_off.append(np.abs(ratio - ratio.round()).mean())
    assert np.mean(np.array(variation) < .1) > .2 and np.mean(np.array(variation) > .15) > .1
    assert np.mean(np.array(waves_off) > .15) > .2


def test_names_of_rhythms_are_known():
    "What mitdb and the Leipzig database call their rhythms is found; each simulated rhythm is a pattern."
    for database in (MITDB, LEIPZIG):
        found = stand_ins(database)
        assert found.missing == () and set(found.rhythms) == set(database.markers)
        assert {rhythm for rhythms in found.rhythms.values() for rhythm in rhythms} <= set(PATTERNS)
