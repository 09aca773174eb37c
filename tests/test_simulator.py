"""The simulator, judged from its written files by means that know nothing of its events."""
import filecmp
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, resample_poly, sosfiltfilt
from wfdb.processing import gqrs_detect

from pediatric_ecg.core import DataError
from pediatric_ecg.data import LEIPZIG, read_annotations, read_header, segments
from pediatric_ecg.data.annotations import encode_annotations
from pediatric_ecg.data.headers import all_headers
from pediatric_ecg.sim import Renderer, simulate
from pediatric_ecg.sim.events import draw_patient
from pediatric_ecg.sim.files import Writer
from pediatric_ecg.sim.signals import Noise, Waves
from pediatric_ecg.sim.studies import OUTSIDE

pytestmark = pytest.mark.filterwarnings('ignore:The inplace keyword') # wfdb itself, on pandas 3
FS = 977
CS = ['CS12', 'CS34', 'CS56', 'CS78', 'CS90']
SURFACE = ['I', 'II', 'V1', 'V2', 'V3', 'V4', 'V5', 'V6']


def names_in(folder):
    "Names of the records of a database."
    return (folder/'RECORDS').read_text().split()


def notes_of(annotation):
    "Notes without the byte that wfdb leaves at their end."
    return [aux.strip('\0') for aux in annotation.aux_note]


class Read:
    "A record as anybody would read it, with the stretch of its rhythm at every beat."
    def __init__(self, path):
        self.record = wfdb.rdrecord(str(path))
        annotation = wfdb.rdann(str(path), 'atr')
        self.table = pd.DataFrame({
            'sample': annotation.sample,
            'symbol': annotation.symbol,
            'aux': notes_of(annotation),
        })
        self.table['rhythm'] = self.table.aux.where(self.table.symbol == '+').ffill()
        self.beats = self.table[~self.table.symbol.isin(['+', '~'])]

    def __getitem__(self, lead):
        return self.record.p_signal[:, self.record.sig_name.index(lead)]

    def of(self, aux):
        "Beats with this note that follow one of their own kind."
        beats = self.beats
        return beats['sample'][(beats.aux == aux) & (beats.aux.shift() == aux)].to_numpy()

    def cut(self, leads, at, before=.12, after=.30):
        "(beats, leads, time) around these samples."
        at = at[(at > before*FS) & (at < self.record.sig_len - after*FS)]
        signal = np.stack([self[lead] for lead in leads])
        return np.stack([signal[:, peak - int(before*FS):peak + int(after*FS)] for peak in at])


def qrs(read, at):
    "Start and end of the median QRS relative to the annotation, s: where the heart vector moves."
    beat = np.median(read.cut(SURFACE, at, .2, .25), axis=0)
    smooth = sosfiltfilt(butter(4, 45, fs=FS, output='sos'), beat)
    speed = np.linalg.norm(np.diff(smooth, axis=1), axis=0)
    centre = np.arange(len(speed))/FS - .2
    peak = np.argmax(np.where((centre > -.12) & (centre < .12), speed, 0))
    still = speed < .2*speed[peak]
    gap = int(.02*FS) # a notch shorter than this does not end the QRS
    start = next((i for i in range(peak, gap, -1) if still[i - gap:i].all()), 0)
    end = next((i for i in range(peak, len(still) - gap) if still[i:i + gap].all()), len(still) - 1)
    return centre[start], centre[end]


def atrium(read, at, start, until):
    "Time of the sharp local potential in each CS bipole after the QRS starts, s: median of beats."
    beats = read.cut(CS, at, .1, .3)
    sharp = np.abs(sosfiltfilt(butter(4, (60, 250), 'bandpass', fs=FS, output='sos'), beats))
    time = np.arange(sharp.shape[2])/FS - .1
    inside = (time > start) & (time < until)
    return np.median(time[inside][sharp[:, :, inside].argmax(2)], axis=0) - start


@pytest.fixture(scope='module')
def studies(tmp_path_factory):
    "Six children, AVRT and AVNRT in turn, two minutes each."
    return simulate(tmp_path_factory.mktemp('sim')/'db', patients=6, seconds=120, seed=7)


@pytest.fixture(scope='module')
def reads(studies):
    return {name: Read(studies/name) for name in names_in(studies)}


@pytest.fixture(scope='module')
def table(studies):
    children = pd.read_csv(studies/'children-subject-info.csv', dtype=str, keep_default_na=False)
    return children.set_index('file_name')


def near(samples, others):
    "Which of the samples have one of the others within 75 ms."
    return np.abs(np.asarray(samples)[:, None] - np.asarray(others)).min(1) < .075*FS


@pytest.mark.parametrize('rhythm', ['(N', '(AVNRT'])
def test_r_peaks(reads, rhythm):
    "gqrs, which knows nothing of the events, finds the annotated beats in lead II."
    seen, beats, true, found = 0, 0, 0, 0
    for read in reads.values():
        # it marks the start of the QRS; 280 ms between beats, its default, are too long for a child's tachycardia
        least = .2 if rhythm == '(AVNRT' else .28
        detected = 4*gqrs_detect(resample_poly(read['II'], 1, 4), fs=FS/4, RRmin=least) + .035*FS
        annotated = read.beats['sample'].to_numpy()
        noise = read.table['sample'][read.table.symbol == '~'].to_numpy().reshape(-1, 2)
        marks = read.table[read.table.symbol == '+']
        ends = [*marks['sample'][1:], read.record.sig_len]
        for start, end, marker in zip(marks['sample'], ends, marks.aux, strict=True):
            if marker != rhythm:
                continue
            ours = annotated[(annotated >= start) & (annotated < end)]
            theirs = []
            for peak in detected:
                unreadable = any(first <= peak <= last for first, last in noise)
                if start <= peak < end - .1*FS and not unreadable:
                    theirs.append(peak)
            seen += near(ours, detected).sum()
            beats += len(ours)
            true += near(np.array(theirs), annotated).sum()
            found += len(theirs)
    assert beats > 150
    assert seen/beats >= .98
    assert true/found >= .98


def test_va_time_and_coronary_sinus(reads, table):
    "Under 70 ms and CS90 first in AVNRT; over 70 ms in AVRT, from where the pathway inserts."
    for name, read in reads.items():
        kind = table.diagnosis[name].split('-')[0]
        location = table.ap_loacation[name]
        at = read.of(kind)
        va = atrium(read, at, qrs(read, at)[0], .28 if kind == 'AVRT' else .15)
        first = 'CS12' if location == 'left lateral' else 'CS90'
        assert (va.min() < .070) == (kind == 'AVNRT'), (name, va)
        if kind == 'AVNRT' or 'septal' in location or first == 'CS12':
            assert CS[va.argmin()] == first, (name, va)


def test_qrs_width(tmp_path):
    """Narrow in sinus, over 120 ms from a paced or automatic ventricular focus.

    A focus in a fascicle finds the fast fibres at once: its QRS is the narrowest, the fast part of it over 70 ms."""
    db = simulate(tmp_path/'db', patients=12, seconds=60, seed=5, rhythms=('N', '/V', 'VT'))
    children = pd.read_csv(db/'children-subject-info.csv', dtype=str)
    adults = pd.read_csv(db/'adults-subject-info.csv', dtype=str)
    people = pd.concat([children, adults]).set_index('file_name')
    for name in people.index[people.age.astype(float) > 11]:
        read = Read(db/name)
        for aux in '/V', 'VT':
            start, end = qrs(read, read.of(aux))
            fascicle = aux == 'VT' and read.record.comments[-1].endswith('fascicle')
            assert end - start > (.07 if fascicle else .12), (name, aux, end - start)
        unmarked = (read.beats.symbol == 'N') & (read.beats.aux == '')
        normal = read.beats['sample'][unmarked].to_numpy()
        if len(normal):
            assert np.diff(qrs(read, normal)) < .115, name


@pytest.mark.parametrize('aux, rhythm, low, high', [('AFIB', '(AFIB', .15, 1), ('', '(N', 0, .12)])
def test_irregularity(reads, aux, rhythm, low, high):
    "RR intervals of successive beats vary in fibrillation, and hardly in sinus rhythm."
    for read in reads.values():
        beats = read.beats
        ours = beats[(beats.aux == aux) & beats.symbol.isin(['N', 'X']) & (beats.rhythm == rhythm)]
        intervals = [[]]
        for _, run in ours.groupby(ours.index - np.arange(len(ours))):
            intervals.append(np.diff(run['sample']))
        rr = np.concatenate(intervals)[1:]
        if len(rr) > 10:
            assert low < np.std(rr)/np.mean(rr) < high, read.record.record_name


def test_einthoven(studies):
    record = wfdb.rdrecord(str(studies/'x001'), physical=False)
    units = dict(zip(record.sig_name, record.d_signal.T.astype(int), strict=False))
    in_range = np.all([np.abs(values) < 20480 for values in units.values()], axis=0)
    one, two = units['I'], units['II']
    expected = {'III': two - one, 'aVR': -(one + two)/2, 'aVL': one - two/2, 'aVF': two - one/2}
    for lead, values in expected.items():
        assert np.abs(units[lead] - values)[in_range].max() <= 1


def test_header(studies):
    "Checksums and first values as wfdb computes them; format, gain and names as in the database."
    for name in names_in(studies):
        record = wfdb.rdrecord(str(studies/name), physical=False)
        assert [total % 65536 for total in record.calc_checksum()] == record.checksum
        assert record.init_value == list(record.d_signal[0])
        assert set(record.fmt) == {'24'}
        assert set(record.adc_gain) == {2000.}
        assert set(record.units) == {'mV'}
        assert record.fs == FS
        without_ablation = name in ('x002', 'x005')
        catheters = ['RVA12', *CS] if without_ablation else ['ABL12', 'RVA12', *CS]
        assert record.sig_name[12:] == catheters
        assert any('simulated' in comment for comment in record.comments)
        assert np.abs(record.d_signal).max() <= 20480


def test_markers(reads):
    "0.1 to 0.6 s ahead of the first beat, never after it."
    for read in reads.values():
        table = read.table[read.table.symbol != '~'].reset_index(drop=True)
        markers = table.index[table.symbol == '+']
        sample = table['sample']
        lead = (sample[markers + 1].to_numpy() - sample[markers].to_numpy())/FS
        assert lead.min() > .09
        assert lead.max() < .61
        assert read.table['sample'].diff().min() > 0


def test_disagreement(tmp_path):
    "The share of AVRT beats outside AVRT segments is near the published 28 %."
    db = simulate(tmp_path/'db', patients=10, seconds=900, seed=2, signals=False)
    inside = everywhere = 0
    for name in names_in(db):
        annotation = wfdb.rdann(str(db/name), 'atr')
        rhythm = ''
        for symbol, aux in zip(annotation.symbol, annotation.aux_note, strict=False):
            if symbol == '+':
                rhythm = aux
            elif aux == 'AVRT':
                everywhere += 1
                inside += rhythm == '(AVRT'
    assert abs(1 - inside/everywhere - OUTSIDE['AVRT']) < .04


def test_every_common_rhythm_is_held_by_three(tmp_path):
    db = simulate(tmp_path/'db', patients=6, seconds=60, signals=False)
    found = pd.concat([segments(db/name) for name in names_in(db)])
    found['windows'] = ((found.end - found.start)/FS/2).astype(int)
    held = found.groupby(['rhythm', 'record']).windows.sum()
    for marker in ('(N', '(/A', '(/V', '(AVNRT', '(AVRT', '(AFIB'):
        assert (held[marker] >= 3).sum() >= 3, (marker, held[marker])
    assert not set(held['(AVRT'].index) & set(held['(AVNRT'].index)


def test_same_seed_same_bytes(tmp_path):
    def make(name, seed, n_jobs):
        return simulate(tmp_path/name, patients=2, seconds=20, seed=seed, n_jobs=n_jobs)

    once, again, other = make('once', 3, 1), make('again', 3, 2), make('other', 4, 1)
    names = sorted(file.name for file in once.iterdir())
    assert names == sorted(file.name for file in again.iterdir())
    assert filecmp.cmpfiles(once, again, names, shallow=False) == (names, [], [])
    assert 'x001.dat' in filecmp.cmpfiles(once, other, names, shallow=False)[1]


def test_annotations_byte_for_byte(shared):
    "Our writer, given what wfdb reads from the one real annotation file, writes that file."
    real = wfdb.rdann(str(shared/'leipzig/x0010'), 'atr')
    written = encode_annotations(real.sample, real.symbol, real.aux_note, LEIPZIG.symbols, FS)
    assert written == (shared/'leipzig/x0010.atr').read_bytes()


STEPS = st.integers(1, 200000)
SYMBOLS = st.sampled_from('N+~X/bVQ')
NOTES = st.sampled_from(['', '(N', 'AVNRT', '/A'])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(STEPS, SYMBOLS, NOTES), min_size=1, max_size=30))
def test_annotations_survive(tmp_path_factory, rows):
    steps, symbols, aux = map(list, zip(*rows, strict=False))
    file = tmp_path_factory.mktemp('ann')/'r.atr'
    file.write_bytes(encode_annotations(np.cumsum(steps), symbols, aux, LEIPZIG.symbols, FS))
    back = wfdb.rdann(str(file.with_suffix('')), 'atr')
    assert list(back.sample) == list(np.cumsum(steps))
    assert back.symbol == symbols
    assert notes_of(back) == aux


def test_replay(shared, tmp_path):
    "All 39 sequences exactly; x0010 lasts, rhythm by rhythm, what the real one lasts."
    labels = shared/'leipzig/annotations.csv'
    real = pd.read_csv(labels, dtype=str, keep_default_na=False)
    db = simulate(tmp_path/'db', labels=labels, signals=False)
    counts = {}
    for name, rows in real.groupby('record'):
        annotation = wfdb.rdann(str(db/name), 'atr')
        assert annotation.symbol == rows.symbol.tolist(), name
        assert notes_of(annotation) == rows.aux_note.tolist(), name
        for marker, beats in segments(db/name).groupby('rhythm').beats.sum().items():
            counts[marker] = counts.get(marker, 0) + beats
    published = {'(AVRT': 13121, '(AVNRT': 8546, '(/A': 12645, '(VT': 3076, '(AFL': 107}
    assert {marker: counts[marker] for marker in published} == published
    found = segments(db/'x0010')
    seconds = ((found.end - found.start)/FS).groupby(found.rhythm).sum()
    for marker, expected in {'(AVNRT': 247.23, '(/A': 45.22, '(N': 16.86, '(/V': 7.33}.items():
        assert abs(seconds[marker]/expected - 1) < .15, marker


def test_hours(shared, tmp_path):
    source = shared/'leipzig'
    labels = pd.read_csv(source/'annotations.csv', dtype=str, keep_default_na=False)
    labels.groupby('record').head(60).to_csv(tmp_path/'labels.csv', index=False)
    for group in 'children', 'adults':
        shutil.copy(source/f'{group}-subject-info.csv', tmp_path)
    db = simulate(tmp_path/'db', labels=tmp_path/'labels.csv', hours=.05, seed=1)
    headers = [wfdb.rdheader(str(file.with_suffix(''))) for file in db.glob('*.hea')]
    assert len(headers) == 39
    assert sum(header.sig_len for header in headers)/FS == pytest.approx(180, rel=.01)
    assert len({tuple(header.sig_name) for header in headers}) == 6 # the six layouts
    # with the mistakes of the original
    assert '.14.3' in (db/'children-subject-info.csv').read_text()
    assert np.ptp(wfdb.rdrecord(str(db/'x0027')).p_signal[:, 12]) == 0 # the flat catheter


BAD = [
    dict(patients=0),
    dict(patients=-3),
    dict(patients=2.5),
    dict(patients=float('nan')),
    dict(patients=10**12),
    dict(patients=10_000, seconds=1_000_000),
    dict(seconds=-1),
    dict(seconds=0),
    dict(seconds=1e-9),
    dict(seconds=10**12),
    dict(seconds=float('inf')),
    dict(seconds=float('nan')),
    dict(seconds='300'),
    dict(seed=-1),
    dict(seed=.5),
    dict(n_jobs=0),
    dict(hours=0),
    dict(hours=-1),
    dict(hours=float('nan')),
    dict(rhythms='AVNRT'),
    dict(layout='upside down'),
    dict(rhythms=['Twist']),
    dict(rhythms=[]),
    dict(labels='nowhere.csv'),
]


@pytest.mark.parametrize('bad', BAD)
def test_bad_input(tmp_path, bad):
    with pytest.raises(DataError) as error:
        simulate(tmp_path/'db', **bad)
    assert '\n' not in str(error.value)
    assert not list(tmp_path.iterdir())


BAD_LABELS = {
    'aux_note': 'record,symbol\nx001,N\n',
    'no labels': 'record,symbol,aux_note\n',
    '(Z': 'record,symbol,aux_note\nx001,+,(Z\n',
    '%': 'record,symbol,aux_note\nx001,%,\n',
    'is empty': '',
    'line 3 has 2 cells': 'record,symbol,aux_note\nx001,+,(N\nx001,N\n',
    'more than 255 bytes': 'record,symbol,aux_note\nx001,N,' + 'ä'*128 + '\n',
    'no name of a record': 'record,symbol,aux_note\na/b,+,(N\n',
    'is no name': 'record,symbol,aux_note\n,+,(N\n',
}


@pytest.mark.parametrize('word', BAD_LABELS)
def test_bad_labels(tmp_path, word):
    file = tmp_path/'l.csv'
    file.write_text(BAD_LABELS[word])
    with pytest.raises(DataError, match='l.csv') as error:
        simulate(tmp_path/'db', labels=file)
    assert word in str(error.value)
    assert not (tmp_path/'db').exists()


@pytest.mark.parametrize('table', ['evil.csv', 'evil2.csv'])
def test_record_names_that_leave_the_folder(shared, tmp_path, table):
    with pytest.raises(DataError, match=f'{table}: the name .*escape. leads out of the folder'):
        simulate(tmp_path/'a'/'b'/'db', labels=shared/'cases'/'35'/table)
    assert not list(tmp_path.iterdir())
    assert not Path('/abs').exists()


@pytest.mark.parametrize('name', ['..', '~root', '.x', 'a\\b', 'C:x', 'x'*300, 'a/b', 'a\x7f'])
def test_record_names_that_no_record_has(tmp_path, name):
    (tmp_path/'labels.csv').write_text(f'record,symbol,aux_note\n{name},+,(N\n{name},N,\n')
    with pytest.raises(DataError, match='labels.csv: '):
        simulate(tmp_path/'db', labels=tmp_path/'labels.csv')
    with pytest.raises(DataError, match='db'):
        Writer(tmp_path/'db', name, SURFACE)
    assert [file.name for file in tmp_path.iterdir()] == ['labels.csv']


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'latin-1'])
def test_record_names_in_every_alphabet(tmp_path, encoding):
    names = ['mein Kind 1', 'Zoë, zweite Studie', 'x001']
    rows = [f'"{name}",{symbol}' for name in names for symbol in ('+,(N', *['N,']*8)]
    text = '\n'.join(['record,symbol,aux_note', *rows])
    (tmp_path/'labels.csv').write_bytes(text.encode(encoding))
    db = simulate(tmp_path/'db', labels=tmp_path/'labels.csv')
    assert [record.name for record in all_headers(db)] == sorted(names)
    assert (db/'RECORDS').read_text(encoding='utf-8').splitlines() == names
    for name in names:
        notes = read_annotations(db/name, LEIPZIG)
        assert notes.symbol.tolist() == ['+', *['N']*8]
        assert read_header(db/name).n_samples > 5*FS


def test_bad_tables_of_subjects_beside_the_labels(tmp_path):
    (tmp_path/'labels.csv').write_text('record,symbol,aux_note\nx001,+,(N\nx001,N,\n')
    for content in (b'', b'a,b\n1,2\n', b'file_name,age\nx001\n', b'file_name,age\n"x001'):
        (tmp_path/'children-subject-info.csv').write_bytes(content)
        with pytest.raises(DataError, match='children-subject-info.csv: '):
            simulate(tmp_path/'db', labels=tmp_path/'labels.csv')
    clock = 'file_name,age,ecg_duration\nx001,1e999,99999999999:00:00\n'
    (tmp_path/'children-subject-info.csv').write_text(clock)
    db = simulate(tmp_path/'db', labels=tmp_path/'labels.csv')
    assert read_header(db/'x001').seconds < 10


def test_too_few_hours_for_the_labels(tmp_path):
    rows = [f'{record},{symbol}' for record in ('x001', 'x002') for symbol in ('+,(N', *['N,']*8)]
    (tmp_path/'labels.csv').write_text('\n'.join(['record,symbol,aux_note', *rows]))
    with pytest.raises(DataError, match='hours asked for, for 2 records: ask for more'):
        simulate(tmp_path/'db', labels=tmp_path/'labels.csv', hours=1e-9)
    simulate(tmp_path/'db', labels=tmp_path/'labels.csv', hours=10**12)


def test_a_disk_without_room(tmp_path, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda folder: SimpleNamespace(free=10**6))
    with pytest.raises(DataError, match='0.0 GB are free: ask for less'):
        simulate(tmp_path/'new'/'db', patients=1, seconds=60)
    assert not list(tmp_path.iterdir())


def test_existing_folder(tmp_path):
    (tmp_path/'file').write_text('x')
    (tmp_path/'full').mkdir()
    (tmp_path/'full/mine').write_text('x')
    for name in 'file', 'full':
        with pytest.raises(DataError, match='exists already'):
            simulate(tmp_path/name)
    assert (tmp_path/'full/mine').read_text() == 'x'
    (tmp_path/'empty').mkdir()
    assert (simulate(tmp_path/'empty', patients=1, seconds=3)/'RECORDS').exists()


def test_no_name(tmp_path, monkeypatch):
    "An empty folder cannot be made under the name '.'; nothing is left beside it."
    (tmp_path/'empty').mkdir()
    monkeypatch.chdir(tmp_path/'empty')
    with pytest.raises(DataError, match='no name'):
        simulate('.')
    assert [path.name for path in tmp_path.iterdir()] == ['empty']


def test_interrupted_run(tmp_path):
    "What an interrupted run has left does not get into the next one."
    left = tmp_path/'db.partial'
    left.mkdir()
    (left/'x009.dat').write_text('half a record')
    db = simulate(tmp_path/'db', patients=1, seconds=3)
    assert not (db/'x009.dat').exists()
    assert not left.exists()


FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))
from pediatric_ecg.core import DataError
from pediatric_ecg.sim import simulate
try:
    simulate({out!r}, patients=1, seconds=30)
except DataError as error:
    print('DataError', error)
"""


def test_full_disk(tmp_path):
    "A limit on the size of files stands in for a full disk."
    code = FULL_DISK.format(out=str(tmp_path/'db'))
    command = [sys.executable, '-W', 'ignore', '-c', code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith('DataError'), done.stderr
    assert 'cannot be written' in done.stdout
    assert not list(tmp_path.iterdir())


def test_face():
    "The package's name holds the function, and its import does not cost torch."
    code = """
import sys
from pediatric_ecg.sim import Heart, Renderer, simulate, simulator
assert simulator.simulate is simulate
assert 'torch' not in sys.modules
"""
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)


def still(seed, **levels):
    "Sixteen seconds without any beat, of a record with these levels of disturbance and no others: (samples, DRAWN)."
    waves = Waves(draw_patient(np.random.default_rng(1), age=30.), np.random.default_rng(1))
    none = dict(wander=0., muscle=0., mains=0., electrode_motion=0., white=0.)
    return Renderer(waves, np.random.default_rng(seed), noise=Noise(**{**none, **levels})).chunk()


@pytest.mark.parametrize('level, low, high', [
    ('wander', 0, .7), ('muscle', 10, 200), ('mains', 59, 61), ('electrode_motion', 0, 12), ('white', 40, 489),
])
def test_each_disturbance_stays_in_its_band(level, low, high):
    "Nine tenths of its power lie in the band, its size grows with its level, and without any the line is flat."
    assert np.abs(still(0)).max() == 0
    noise = still(3, **{level: .1}, mains_frequency=60.)
    assert np.allclose(still(3, **{level: .2}, mains_frequency=60.), 2*noise, atol=1e-4)
    power = (np.abs(np.fft.rfft(noise[:, :8]*np.hanning(len(noise))[:, None], axis=0))**2).sum(1)
    frequency = np.fft.rfftfreq(len(noise), 1/FS)
    inside = (frequency >= low) & (frequency <= high)
    assert power[inside].sum() > .9*power.sum()


def test_chunks_join_without_a_step():
    "Slow disturbances go on where the chunk before ended."
    waves = Waves(draw_patient(np.random.default_rng(1), age=30.), np.random.default_rng(1))
    slow = Noise(wander=.2, muscle=0., mains=0., electrode_motion=.05, white=0.)
    renderer = Renderer(waves, np.random.default_rng(2), noise=slow)
    chunks = [renderer.chunk() for _ in range(4)]
    for one, other in zip(chunks, chunks[1:], strict=False):
        usual = np.abs(np.diff(one, axis=0)).max(0)
        assert (np.abs(other[0] - one[-1]) <= 1.5*usual + 1e-6).all()
