"""The simulator, judged from its written files by means that know nothing of its events."""
import filecmp
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, resample_poly, sosfiltfilt
from wfdb.processing import gqrs_detect

from pediatric_ecg.core import DataError
from pediatric_ecg.data.rhythms import segments
from pediatric_ecg.sim.files import encode_annotations
from pediatric_ecg.sim.studies import OUTSIDE
from pediatric_ecg.sim.simulator import simulate

pytestmark = pytest.mark.filterwarnings('ignore:The inplace keyword')   # wfdb itself, on pandas 3
FS = 977
CS = ['CS12', 'CS34', 'CS56', 'CS78', 'CS90']
SURFACE = ['I', 'II', 'V1', 'V2', 'V3', 'V4', 'V5', 'V6']


class Read:
    "A record as anybody would read it, with the stretch of its rhythm at every beat"
    def __init__(self, path):
        self.rec, ann = wfdb.rdrecord(str(path)), wfdb.rdann(str(path), 'atr')
        self.table = pd.DataFrame({'sample': ann.sample, 'symbol': ann.symbol, 'aux': [a.strip('\0') for a in ann.aux_note]})
        self.table['rhythm'] = self.table.aux.where(self.table.symbol == '+').ffill()
        self.beats = self.table[~self.table.symbol.isin(['+', '~'])]

    def __getitem__(self, lead): return self.rec.p_signal[:, self.rec.sig_name.index(lead)]

    def of(self, aux):
        "Beats with this note that follow one of their own kind"
        b = self.beats
        return b['sample'][(b.aux == aux) & (b.aux.shift() == aux)].to_numpy()

    def cut(self, leads, at, before=.12, after=.30):
        at = at[(at > before*FS) & (at < self.rec.sig_len - after*FS)]
        x = np.stack([self[c] for c in leads])
        return np.stack([x[:, s - int(before*FS):s + int(after*FS)] for s in at])  # (beats, leads, time)


def qrs(read, at):
    "Start and end of the median QRS relative to the annotation, s: where the heart vector moves"
    x = np.median(read.cut(SURFACE, at, .2, .25), axis=0)
    speed = np.linalg.norm(np.diff(sosfiltfilt(butter(4, 45, fs=FS, output='sos'), x), axis=1), axis=0)
    centre = np.arange(len(speed))/FS - .2
    peak = np.argmax(np.where((centre > -.12) & (centre < .12), speed, 0))
    still = speed < .2*speed[peak]
    gap = int(.02*FS)    # a notch shorter than this does not end the QRS
    start = next((i for i in range(peak, gap, -1) if still[i - gap:i].all()), 0)
    end = next((i for i in range(peak, len(still) - gap) if still[i:i + gap].all()), len(still) - 1)
    return centre[start], centre[end]


def atrium(read, at, start, until):
    "Time of the sharp local potential in each CS bipole after the QRS starts, s, median over beats"
    x = read.cut(CS, at, .1, .3)
    y = np.abs(sosfiltfilt(butter(4, (60, 250), 'bandpass', fs=FS, output='sos'), x))
    t = np.arange(y.shape[2])/FS - .1
    y = y[:, :, (t > start) & (t < until)]
    return np.median(t[(t > start) & (t < until)][y.argmax(2)], axis=0) - start


@pytest.fixture(scope='module')
def studies(tmp_path_factory):
    "Six children, AVRT and AVNRT in turn, two minutes each"
    return simulate(tmp_path_factory.mktemp('sim')/'db', patients=6, seconds=120, seed=7)


@pytest.fixture(scope='module')
def reads(studies): return {r: Read(studies/r) for r in (studies/'RECORDS').read_text().split()}


@pytest.fixture(scope='module')
def table(studies): return pd.read_csv(studies/'children-subject-info.csv', dtype=str, keep_default_na=False).set_index('file_name')


def near(x, y): return np.abs(np.asarray(x)[:, None] - np.asarray(y)).min(1) < .075*FS


@pytest.mark.parametrize('rhythm', ['(N', '(AVNRT'])
def test_r_peaks(reads, rhythm):
    "gqrs, which knows nothing of the events, finds the annotated beats in lead II"
    seen, beats, true, found = 0, 0, 0, 0
    for r in reads.values():
        q = 4*gqrs_detect(resample_poly(r['II'], 1, 4), fs=FS/4) + .035*FS     # it marks the start of the QRS
        everything = r.beats['sample'].to_numpy()
        noise = r.table['sample'][r.table.symbol == '~'].to_numpy().reshape(-1, 2)
        marks = r.table[r.table.symbol == '+']
        for a, b, m in zip(marks['sample'], [*marks['sample'][1:], r.rec.sig_len], marks.aux, strict=True):
            if m != rhythm: continue
            mine = everything[(everything >= a) & (everything < b)]
            theirs = np.array([x for x in q if a <= x < b - .1*FS and not any(c <= x <= d for c, d in noise)])
            seen, beats = seen + near(mine, q).sum(), beats + len(mine)
            true, found = true + near(theirs, everything).sum(), found + len(theirs)
    assert beats > 150
    assert seen/beats >= .98 and true/found >= .98


def test_va_time_and_coronary_sinus(reads, table):
    "Under 70 ms and CS90 first in AVNRT; over 70 ms in AVRT, and the atrium starts where the pathway inserts"
    for name, r in reads.items():
        kind = table.diagnosis[name].split('-')[0]
        at = r.of(kind)
        va = atrium(r, at, qrs(r, at)[0], .28 if kind == 'AVRT' else .15)
        first = {'left lateral': 'CS12'}.get(table.ap_loacation[name], 'CS90')
        assert (va.min() < .070) == (kind == 'AVNRT'), (name, va)
        if kind == 'AVNRT' or 'septal' in table.ap_loacation[name] or first == 'CS12': assert CS[va.argmin()] == first, (name, va)


def test_qrs_width(tmp_path):
    "Narrow in sinus, over 120 ms from a paced or automatic ventricular focus; a bundle block lies between"
    db = simulate(tmp_path/'db', patients=12, seconds=60, seed=5, rhythms=('N', '/V', 'VT'))
    people = pd.concat([pd.read_csv(db/f'{n}-subject-info.csv', dtype=str) for n in ('children', 'adults')]).set_index('file_name')
    for name in people.index[people.age.astype(float) > 11]:
        r = Read(db/name)
        for aux in '/V', 'VT':
            a, b = qrs(r, r.of(aux))
            assert b - a > .120, (name, aux, b - a)
        n = r.beats[(r.beats.symbol == 'N') & (r.beats.aux == '')]['sample'].to_numpy()
        if len(n): assert np.diff(qrs(r, n)) < .115, name


def test_irregularity(reads):
    for r in reads.values():
        for aux, low, high in (('AFIB', .15, 1), ('', 0, .12)):
            b = r.beats
            run = b[(b.aux == aux) & b.symbol.isin(['N', 'X']) & (b.rhythm == {'AFIB': '(AFIB', '': '(N'}[aux])]
            rr = np.concatenate([np.diff(x['sample']) for _, x in run.groupby(run.index - np.arange(len(run)))] or [[]])[1:]
            if len(rr) > 10: assert low < np.std(rr)/np.mean(rr) < high, (r.rec.record_name, aux)


def test_einthoven(studies):
    x = wfdb.rdrecord(str(studies/'x001'), physical=False)
    d = dict(zip(x.sig_name, x.d_signal.T.astype(int), strict=False))
    ok = np.all([np.abs(v) < 20480 for v in d.values()], axis=0)
    for lead, sum_ in (('III', d['II'] - d['I']), ('aVR', -(d['I'] + d['II'])/2), ('aVL', d['I'] - d['II']/2), ('aVF', d['II'] - d['I']/2)):
        assert np.abs(d[lead] - sum_)[ok].max() <= 1


def test_header(studies):
    "Checksums and first values as wfdb computes them; format, gain, rate and names as in the database; simulated by its own word"
    for name in (studies/'RECORDS').read_text().split():
        x = wfdb.rdrecord(str(studies/name), physical=False)
        assert [c % 65536 for c in x.calc_checksum()] == x.checksum and x.init_value == list(x.d_signal[0])
        assert set(x.fmt) == {'24'} and set(x.adc_gain) == {2000.} and x.fs == FS and set(x.units) == {'mV'}
        assert x.sig_name[12:] == (['RVA12', *CS] if name in ('x002', 'x005') else ['ABL12', 'RVA12', *CS])
        assert any('simulated' in c for c in x.comments) and np.abs(x.d_signal).max() <= 20480


def test_markers(reads):
    "0.1 to 0.6 s ahead of the first beat, never after it"
    for r in reads.values():
        t = r.table[r.table.symbol != '~'].reset_index(drop=True)
        i = t.index[(t.symbol == '+')]
        lead = (t['sample'][i + 1].to_numpy() - t['sample'][i].to_numpy())/FS
        assert lead.min() > .09 and lead.max() < .61
        assert r.table['sample'].diff().min() > 0


def test_disagreement(tmp_path):
    "The share of AVRT beats outside AVRT segments is near the published 28 %"
    db = simulate(tmp_path/'db', patients=10, seconds=900, seed=2, signals=False)
    inside = everywhere = 0
    for name in (db/'RECORDS').read_text().split():
        ann = wfdb.rdann(str(db/name), 'atr')
        rhythm = ''
        for s, a in zip(ann.symbol, ann.aux_note, strict=False):
            if s == '+': rhythm = a
            elif a == 'AVRT': everywhere, inside = everywhere + 1, inside + (rhythm == '(AVRT')
    assert abs(1 - inside/everywhere - OUTSIDE['AVRT']) < .04


def test_every_common_rhythm_is_held_by_three(tmp_path):
    db = simulate(tmp_path/'db', patients=6, seconds=60, signals=False)
    seg = pd.concat([segments(db/r) for r in (db/'RECORDS').read_text().split()])
    seg['windows'] = ((seg.end - seg.start)/FS/2).astype(int)
    held = seg.groupby(['rhythm', 'record']).windows.sum()
    for m in ('(N', '(/A', '(/V', '(AVNRT', '(AVRT', '(AFIB'): assert (held[m] >= 3).sum() >= 3, (m, held[m])
    assert not set(held['(AVRT'].index) & set(held['(AVNRT'].index)


def test_same_seed_same_bytes(tmp_path):
    a, b, c = (simulate(tmp_path/n, patients=2, seconds=20, seed=s, n_jobs=j) for n, s, j in (('a', 3, 1), ('b', 3, 2), ('c', 4, 1)))
    names = sorted(f.name for f in a.iterdir())
    assert names == sorted(f.name for f in b.iterdir()) and filecmp.cmpfiles(a, b, names, shallow=False) == (names, [], [])
    assert 'x001.dat' in filecmp.cmpfiles(a, c, names, shallow=False)[1]


def test_annotations_byte_for_byte(shared):
    "Our writer, given what wfdb reads from the one real annotation file, writes that file"
    real = wfdb.rdann(str(shared/'leipzig/x0010'), 'atr')
    assert encode_annotations(real.sample, real.symbol, real.aux_note) == (shared/'leipzig/x0010.atr').read_bytes()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 200000), st.sampled_from('N+~X/bVQ'), st.sampled_from(['', '(N', 'AVNRT', '/A'])), min_size=1, max_size=30))
def test_annotations_survive(tmp_path_factory, rows):
    steps, symbols, aux = map(list, zip(*rows, strict=False))
    f = tmp_path_factory.mktemp('ann')/'r.atr'
    f.write_bytes(encode_annotations(np.cumsum(steps), symbols, aux))
    back = wfdb.rdann(str(f.with_suffix('')), 'atr')
    assert list(back.sample) == list(np.cumsum(steps)) and back.symbol == symbols and [a.strip('\0') for a in back.aux_note] == aux


def test_replay(shared, tmp_path):
    "All 39 sequences exactly; x0010 lasts, rhythm by rhythm, what the real one lasts"
    labels = shared/'leipzig/annotations.csv'
    real = pd.read_csv(labels, dtype=str, keep_default_na=False)
    db = simulate(tmp_path/'db', labels=labels, signals=False)
    counts = {}
    for name, rows in real.groupby('record'):
        ann = wfdb.rdann(str(db/name), 'atr')
        assert ann.symbol == rows.symbol.tolist() and [a.strip('\0') for a in ann.aux_note] == rows.aux_note.tolist(), name
        for m, n in segments(db/name).groupby('rhythm').beats.sum().items(): counts[m] = counts.get(m, 0) + n
    assert {m: counts[m] for m in ('(AVRT', '(AVNRT', '(/A', '(VT', '(AFL')} == {'(AVRT': 13121, '(AVNRT': 8546, '(/A': 12645, '(VT': 3076, '(AFL': 107}
    seg = segments(db/'x0010')
    seconds = ((seg.end - seg.start)/FS).groupby(seg.rhythm).sum()
    for m, s in {'(AVNRT': 247.23, '(/A': 45.22, '(N': 16.86, '(/V': 7.33}.items(): assert abs(seconds[m]/s - 1) < .15, m


def test_hours(shared, tmp_path):
    source = shared/'leipzig'
    pd.read_csv(source/'annotations.csv', dtype=str, keep_default_na=False).groupby('record').head(60).to_csv(tmp_path/'labels.csv', index=False)
    for n in 'children', 'adults': shutil.copy(source/f'{n}-subject-info.csv', tmp_path)
    db = simulate(tmp_path/'db', labels=tmp_path/'labels.csv', hours=.05, seed=1)
    headers = [wfdb.rdheader(str(f.with_suffix(''))) for f in db.glob('*.hea')]
    assert len(headers) == 39 and sum(h.sig_len for h in headers)/FS == pytest.approx(180, rel=.01)
    assert len({tuple(h.sig_name) for h in headers}) == 6                      # the six layouts
    assert '.14.3' in (db/'children-subject-info.csv').read_text()             # warts and all
    assert np.ptp(wfdb.rdrecord(str(db/'x0027')).p_signal[:, 12]) == 0          # the flat catheter


@pytest.mark.parametrize('bad', [dict(patients=0), dict(seconds=-1), dict(seconds=float('nan')), dict(hours=0), dict(layout='upside down'), dict(rhythms=['Twist']),
                                 dict(rhythms=[]), dict(labels='nowhere.csv')])
def test_bad_input(tmp_path, bad):
    with pytest.raises(DataError) as e: simulate(tmp_path/'db', **bad)
    assert '\n' not in str(e.value) and not list(tmp_path.iterdir())


def test_bad_labels(tmp_path):
    for text, word in (('record,symbol\nx001,N\n', 'aux_note'), ('record,symbol,aux_note\n', 'no labels'), ('record,symbol,aux_note\nx001,+,(Z\n', '(Z'),
                       ('record,symbol,aux_note\nx001,%,\n', '%')):
        (tmp_path/'l.csv').write_text(text)
        with pytest.raises(DataError, match='l.csv') as e: simulate(tmp_path/'db', labels=tmp_path/'l.csv')
        assert word in str(e.value) and not (tmp_path/'db').exists()


def test_existing_folder(tmp_path):
    (tmp_path/'file').write_text('x')
    (tmp_path/'full').mkdir()
    (tmp_path/'full/mine').write_text('x')
    for name in 'file', 'full':
        with pytest.raises(DataError, match='exists already'): simulate(tmp_path/name)
    assert (tmp_path/'full/mine').read_text() == 'x'
    (tmp_path/'empty').mkdir()
    assert (simulate(tmp_path/'empty', patients=1, seconds=3)/'RECORDS').exists()


def test_full_disk(tmp_path):
    "A limit on the size of files stands in for a full disk"
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))
from pediatric_ecg.sim.simulator import DataError, simulate
try: simulate({str(tmp_path/'db')!r}, patients=1, seconds=30)
except DataError as e: print('DataError', e)
"""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert done.stdout.startswith('DataError') and 'cannot be written' in done.stdout and not list(tmp_path.iterdir()), done.stderr
