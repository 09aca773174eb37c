"From records to a store of windows: the same windows by every road, the published counts, and whatever may go wrong on the way."
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.data.databases import LEIPZIG, MITDB, Database
from pediatric_ecg.core import DataError
from pediatric_ecg.data.records import read_annotations, read_signals, record_paths
from pediatric_ecg.data.headers import read_header
from pediatric_ecg.data.rhythms import all_segments, segments
from pediatric_ecg.windows import Preprocess, View, Windows, WindowStore, cut, prepare
from pediatric_ecg.windows.signals import n_out, process
from pediatric_ecg.windows.store import StoreWriter, code_files, content_hashes

pytestmark = pytest.mark.filterwarnings('ignore:The inplace keyword:DeprecationWarning')  # wfdb's writer on newest pandas
quick = settings(deadline=None, max_examples=30)
windows_module = import_module('pediatric_ecg.windows.prepare')  # `pediatric_ecg.windows.prepare` names the function


def content(store): return {f.name: f.read_bytes() for f in Path(store).iterdir()}


def some(simdb, n=3): return [p.name for p in record_paths(simdb, LEIPZIG)[:n]]


def run(code, *argv):
    "A process of its own. Warnings are errors there, too, except those of wfdb's import."
    return subprocess.Popen([sys.executable, '-c', textwrap.dedent(code), *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, 'OMP_NUM_THREADS': '1'})


# --- cutting -----------------------------------------------------------------------------------------------------------------

spans = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 9000)), min_size=1, max_size=8)


@quick
@given(spans=spans, fs=st.sampled_from([977., 360., 250.5]), seconds=st.floats(.2, 6), stride=st.one_of(st.none(), st.floats(.1, 8)))
def test_cut_stays_inside_and_leaves_no_room(spans, fs, seconds, stride):
    rows, at = [], 0
    for k, (gap, length) in enumerate(spans):
        rows.append(('r', f'(R{k}', at + gap, at + gap + length))
        at += gap + length
    s = pd.DataFrame(rows, columns=['record', 'rhythm', 'start', 'end'])
    w = cut(s, fs, seconds, stride)
    T, step = round(seconds*fs), (stride or seconds)*fs
    assert ((w.end - w.start) == T).all()
    for r in s.itertuples():
        mine = w[w.rhythm == r.rhythm]
        k = np.arange(len(mine))
        assert (mine.start.to_numpy() == r.start + np.rint(k*step)).all() and (mine.end <= r.end).all()
        assert r.start + round(len(mine)*step) + T > r.end # one more would not fit


def test_cut_keeps_columns_and_takes_a_rate_for_each_record():
    s = pd.DataFrame({'record': ['a', 'b'], 'rhythm': ['(N', '(N'], 'start': [0, 10], 'end': [1000, 1010], 'beats': [3, 4]})
    w = cut(s, {'a': 100., 'b': 250.}, 2.)
    assert w.record.value_counts().to_dict() == {'a': 5, 'b': 2} and list(w.columns) == list(s.columns)
    assert len(cut(s[:0], 100., 2.)) == 0
    with pytest.raises(DataError, match="no sampling rate given for record 'b'"): cut(s, {'a': 100.}, 2.)
    with pytest.raises(DataError, match='must be positive'): cut(s, 100., 0.)


def test_published_windows_of_x0010(shared):
    s = segments(shared/'leipzig/x0010', LEIPZIG, unusable='report')
    want = {1: (246, 40, 12, 6), 2: (123, 18, 2, 3), 3: (81, 9, 0, 1), 5: (48, 3, 0, 0), 10: (23, 0, 0, 0)}
    for seconds, counts in want.items():
        got = cut(s, 977., seconds).rhythm.value_counts()
        assert tuple(int(got.get(r, 0)) for r in ('(AVNRT', '(/A', '(N', '(/V')) == counts


def test_published_windows_of_mitdb(shared):
    want = {'(N': (12415, 42), '(AFIB': (1543, 8), '(P': (1290, 4), '(B': (368, 10), '(SBR': (361, 1), '(T': (185, 10), '(AFL': (139, 3), '(PREX': (97, 1),
            '(BII': (138, 1), '(NOD': (36, 3), '(VT': (19, 2), '(SVTA': (31, 3), '(IVR': (27, 2), '(VFL': (26, 1), '(AB': (16, 1)}
    w = cut(all_segments(shared/'mitdb', MITDB), 360., 5.)
    got = w.groupby('rhythm').record.agg(['size', 'nunique'])
    assert {r: tuple(map(int, v)) for r, v in zip(got.index, got.to_numpy(), strict=True)} == want


# --- one window by three roads -----------------------------------------------------------------------------------------------

def test_windows_are_those_of_the_whole_record(simdb, simstore):
    pre, t = Preprocess(notch=LEIPZIG.mains), simstore.table
    for path in record_paths(simdb, LEIPZIG)[:3]:
        rows, h = t.index[t.record == path.name].to_numpy(), read_header(path)
        whole = process(read_signals(path), h.fs, pre)
        x, present = simstore.batch(rows)
        for mod, slots in simstore.modalities.items():
            for k, slot in enumerate(slots):
                if slot not in h.leads: assert not present[mod][:, k].any() and not x[mod][:, k].any(); continue
                y = whole[:, h.leads.index(slot)]
                for i, row in enumerate(rows):
                    at = round(t.start[row]*250/h.fs)
                    piece = y[at:at + simstore.length]
                    if present[mod][i, k]: assert (np.abs(x[mod][i, k, :len(piece)] - piece) <= np.maximum(np.abs(piece)/2048, 3e-8) + 1e-6).all()
                    else: assert not x[mod][i, k].any()


def test_float32_is_the_whole_record_to_a_millionth(simdb, tmp_path):
    s = prepare(simdb, tmp_path/'s', dtype='float32', records=some(simdb, 1), stride=.7, block_seconds=20., progress=False)
    path = record_paths(simdb, LEIPZIG)[0]
    whole, at = process(read_signals(path, leads=list(range(12))), 977., Preprocess()), np.rint(s.table.start*250/977).astype(int)
    for i, a in enumerate(at): np.testing.assert_allclose(s.arrays['ecg'][i], whole[a:a + 500].T, atol=1e-6)
    assert (np.diff(s.table.start) < 2*977).any() # they overlap


def test_labels_are_those_of_the_annotation_at_every_sample(simdb, simstore):
    for path in record_paths(simdb, LEIPZIG):
        a = read_annotations(path, LEIPZIG)
        marks = a[a.symbol == '+']
        rhythm = np.full(read_header(path).n_samples, '', object)
        for s, m in zip(marks['sample'], marks.aux, strict=True): rhythm[s:] = m
        noise = a['sample'][a.symbol == '~'].tolist()
        for s, e in zip(noise[::2], noise[1::2], strict=True): rhythm[s:e] = ''
        for row in simstore.table[simstore.table.record == path.name].itertuples():
            assert set(rhythm[row.start:row.end]) == {row.rhythm} and LEIPZIG.grouping()[row.rhythm] == row.label


def test_labelled_time_is_conserved(simdb, simstore):
    s, covered = all_segments(simdb, LEIPZIG), simstore.table.end - simstore.table.start
    inside = s.assign(length=s.end - s.start)
    tails = (inside.length % 1954).sum() # what does not fill a window of 2 s
    lost = simstore.manifest['excluded']
    assert covered.sum() + tails + 1954*(lost['windows of rhythms outside the grouping'] + lost['windows without a usable lead']) == inside.length.sum()
    assert abs(simstore.manifest['seconds_total']['labelled'] - inside.length.sum()/977) < .01


def test_order_of_records_changes_only_the_order_of_rows(simdb, simstore, tmp_path):
    names = some(simdb, 3)
    s = prepare(simdb, tmp_path/'s', records=names[::-1], n_jobs=2, progress=False)
    assert list(dict.fromkeys(s.table.record)) == names[::-1]
    for name in names:
        here, there = s.table.index[s.table.record == name], simstore.table.index[simstore.table.record == name]
        pd.testing.assert_frame_equal(s.table.loc[here].drop(columns='window').reset_index(drop=True), simstore.table.loc[there].drop(columns='window').reset_index(drop=True))
        for mod in s.arrays: assert s.arrays[mod][here[0]:here[-1] + 1].tobytes() == simstore.arrays[mod][there[0]:there[-1] + 1].tobytes()


def test_store_says_what_it_is(simstore):
    m, t = simstore.manifest, simstore.table
    assert simstore.simulated and 'simulated' in simstore.title.lower() and len(simstore) == m['windows'] == len(t)
    assert (t.window == np.arange(len(t))).all() and simstore.length == 500 and simstore.fs == 250.
    assert [simstore.classes[i] for i in simstore.labels] == t.label.tolist()
    assert all(len(s) == 64 for r in m['records'] for s in r['sources'].values()) and {'numpy', 'scipy', 'wfdb'} <= set(m['versions'])
    assert not list(simstore.path.parent.glob('*.partial'))
    x, present = simstore.batch([5, 0])
    assert x['ecg'].shape == (2, 12, 500) and x['ecg'].dtype == np.float32 and present['iegm'].dtype == bool
    np.testing.assert_array_equal(x['iegm'][1], simstore.arrays['iegm'][0])
    assert len(pickle.dumps(simstore)) < 500 and len(pickle.loads(pickle.dumps(simstore))) == len(simstore)


# --- again, interrupted, together --------------------------------------------------------------------------------------------

def test_unchanged_is_recognised_and_changed_is_refused(simdb, simstore, tmp_path, monkeypatch):
    def never(*_, **__): raise AssertionError('worked again')
    before = content(simstore.path)
    monkeypatch.setattr(windows_module, '_prepare_record', never)
    assert len(prepare(simdb, simstore.path, progress=False)) == len(simstore)
    for change, name in (({'seconds': 3.}, 'seconds: 2.0, now 3.0'), ({'pre': Preprocess(band=(1., 100.))}, 'preprocess.band'), ({'dtype': 'float32'}, 'dtype'),
                         ({'label': 'beats'}, 'label'), ({'records': some(simdb)}, 'records')):
        with pytest.raises(DataError, match=name): prepare(simdb, simstore.path, progress=False, **change)
    assert content(simstore.path) == before
    copy = tmp_path/'db'
    shutil.copytree(simdb, copy)
    name = some(simdb, 1)[0]
    dat = bytearray((copy/f'{name}.dat').read_bytes())
    dat[100] ^= 1
    (copy/f'{name}.dat').write_bytes(dat)
    with pytest.raises(DataError, match=f'other files of record {name}'): prepare(copy, simstore.path, progress=False)


def test_killed_and_started_again_ends_with_the_same_bytes(simdb, tmp_path):
    names = some(simdb, 4)
    whole = prepare(simdb, tmp_path/'whole', records=names, progress=False)
    code = '''
        import os, signal, sys, itertools
        from importlib import import_module
        windows = import_module('pediatric_ecg.windows.prepare')
        folder, out, *names = sys.argv[1:]
        calls, write = itertools.count(), windows._write
        def dying(*a, **k): # in the middle of the third record, with its files open
            result = write(*a, **k)
            if next(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)
            return result
        windows._write = dying
        windows.prepare(folder, out, records=names, n_jobs=1, progress=False)'''
    p = run(code, simdb, tmp_path/'s', *names)
    p.communicate(timeout=60)
    assert p.returncode == -9 and not (tmp_path/'s').exists()
    with pytest.raises(DataError, match='was not finished; run prepare again'): WindowStore(tmp_path/'s')
    done = {f: f.stat().st_mtime_ns for f in (tmp_path/'s.partial/parts').glob('*.json')}
    assert len(done) == 2
    with pytest.raises(DataError, match='s.partial: made with other parameters .*seconds'): prepare(simdb, tmp_path/'s', records=names, seconds=5., progress=False)
    kept = []
    original = windows_module._prepare_record
    windows_module._prepare_record = lambda part, *a, **k: (kept.append(part), original(part, *a, **k))[1]
    try: prepare(simdb, tmp_path/'s', records=names, n_jobs=1, progress=False)
    finally: windows_module._prepare_record = original
    assert len(kept) == 2 # the other two were not touched
    assert content(tmp_path/'s') == content(whole.path) and not (tmp_path/'s.partial').exists()


def test_two_processes_and_one_folder(simdb, simstore, tmp_path):
    code = '''
        import sys
        from pediatric_ecg.windows.prepare import prepare
        print(len(prepare(sys.argv[1], sys.argv[2], n_jobs=1, progress=False)))'''
    both = [run(code, simdb, tmp_path/'s') for _ in range(2)]
    for p in both:
        out, err = p.communicate(timeout=120)
        assert p.returncode == 0 and int(out) == len(simstore), err
    assert content(tmp_path/'s') == content(simstore.path)


def test_processes_write_the_same_bytes_as_threads(simdb, simstore, tmp_path):
    with joblib.parallel_config(backend='loky', n_jobs=2): prepare(simdb, tmp_path/'s', n_jobs=2, progress=False)
    assert content(tmp_path/'s') == content(simstore.path)


def test_dask_cluster(simdb, simstore, tmp_path):
    distributed = pytest.importorskip('distributed', reason='distributed is not installed')
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path/'dask')) as cluster, \
         distributed.Client(cluster), joblib.parallel_config(backend='dask'):
        prepare(simdb, tmp_path/'s', n_jobs=2, progress=False)
    assert content(tmp_path/'s') == content(simstore.path)


def test_full_disk_keeps_what_was_finished(simdb, tmp_path, monkeypatch):
    names, write, calls = some(simdb, 3), windows_module._write, []
    def full(*a, **k):
        calls.append(1)
        if len(calls) == 2: raise OSError(errno.ENOSPC, 'No space left on device')
        return write(*a, **k)
    monkeypatch.setattr(windows_module, '_write', full)
    with pytest.raises(DataError, match='the disk is full; make room and run prepare again'): prepare(simdb, tmp_path/'s', records=names, n_jobs=1, progress=False)
    assert not (tmp_path/'s').exists() and len(list((tmp_path/'s.partial/parts').glob('*.json'))) == 1
    assert len(prepare(simdb, tmp_path/'s', records=names, n_jobs=1, progress=False)) and len(calls) == 4


def test_killed_between_the_manifest_and_the_name(simdb, tmp_path, monkeypatch):
    names = some(simdb, 2)
    whole = prepare(simdb, tmp_path/'whole', records=names, progress=False)

    def killed(writer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, '_take_name', killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(simdb, tmp_path/'s', records=names, progress=False)
    assert (tmp_path/'s.partial/manifest.json').is_file() and not (tmp_path/'s').exists()
    with pytest.raises(DataError, match='seconds: 2.0, now 3.0'):  # what was asked for first is kept
        prepare(simdb, tmp_path/'s', records=names, seconds=3., progress=False)

    def never(*_, **__):
        raise AssertionError('worked again')

    monkeypatch.setattr(windows_module, '_prepare_record', never)
    prepare(simdb, tmp_path/'s', records=names, progress=False)
    assert content(tmp_path/'s') == content(whole.path) and not (tmp_path/'s.partial').exists()


def test_the_code_of_a_store_is_what_prepare_imports():
    files = code_files()
    assert {'windows/prepare.py', 'windows/signals.py', 'windows/_resample.py', 'windows/store.py'} <= set(files)
    assert {'data/records.py', 'data/_decode.py'} <= set(files)
    assert not {'data/download.py', 'windows/views.py', 'windows/__init__.py'} & set(files)
    assert not [file for file in files if file.split('/')[0] not in ('core.py', 'data', 'windows')]


# --- one contract ------------------------------------------------------------------------------------------

def test_each_window_has_the_hash_of_what_is_stored(simstore):
    samples = [np.asarray(array) for array in simstore.arrays.values()]
    assert simstore.table.columns[-1] == 'hash' and simstore.table.hash.tolist() == content_hashes(samples)
    assert simstore.table.hash.is_unique


def test_a_store_of_before_the_hashes_is_read(simstore, tmp_path):
    old = shutil.copytree(simstore.path, tmp_path/'old')
    simstore.table.drop(columns='hash').to_csv(old/'windows.csv', index=False)
    assert 'hash' not in WindowStore(old).table


def test_codes_are_the_labels_in_any_list_of_classes(simstore):
    assert isinstance(simstore, Windows) and simstore.database == LEIPZIG
    some_classes = simstore.classes[:1:-1]
    names = np.array([*some_classes, 'none of these'])
    expected = simstore.table.label.where(simstore.table.label.isin(some_classes), 'none of these')
    assert names[simstore.codes(some_classes)].tolist() == expected.tolist()
    assert simstore.codes(some_classes).dtype == np.int64


def test_a_view_with_other_labels_has_them_everywhere(simstore):
    other = simstore.table.label.to_numpy()[::-1].copy()
    seen = View(simstore, labels=other)
    assert isinstance(seen, Windows) and seen.table.label.tolist() == other.tolist()
    assert np.array(seen.classes)[seen.labels].tolist() == other.tolist()
    assert np.array(simstore.classes)[seen.codes(simstore.classes)].tolist() == other.tolist()
    assert np.array(simstore.classes)[simstore.labels].tolist() == simstore.table.label.tolist()
    with pytest.raises(DataError, match="label 'nonsense' is not among the classes"):
        View(simstore, labels=np.full(len(simstore), 'nonsense'))


def test_a_view_of_one_modality_shows_no_other(simstore):
    seen = View(simstore, modalities=['ecg'])
    shown = (seen.modalities, seen.arrays, seen.present, *seen.batch([0, 3]))
    assert [list(part) for part in shown] == [['ecg']]*5
    assert (seen.arrays['ecg'][3] == simstore.arrays['ecg'][3]).all()
    assert (seen.path, seen.title, seen.manifest, seen.simulated) == (simstore.path, simstore.title, simstore.manifest, True)
    with pytest.raises(AttributeError):
        _ = seen.lock  # nothing is forwarded that is not written out


def test_a_view_travels_to_another_process(simstore):
    seen = View(simstore, labels=simstore.table.label.to_numpy()[::-1].copy(), modalities=['iegm'])
    there = pickle.loads(pickle.dumps(seen))
    assert (there.labels == seen.labels).all() and list(there.arrays) == ['iegm'] and len(there) == len(seen)
    np.testing.assert_array_equal(there.batch([5])[0]['iegm'], simstore.batch([5])[0]['iegm'])


# --- bad input ---------------------------------------------------------------------------------------------------------------

def test_folders_that_are_no_store(simdb, simstore, tmp_path):
    (tmp_path/'thesis').mkdir()
    (tmp_path/'thesis/chapter1.tex').write_text('years of work')
    with pytest.raises(DataError, match='thesis: exists and is not a window store; choose another folder'): prepare(simdb, tmp_path/'thesis', progress=False)
    with pytest.raises(DataError, match='thesis: is not a window store'): WindowStore(tmp_path/'thesis')
    assert (tmp_path/'thesis/chapter1.tex').read_text() == 'years of work' and not (tmp_path/'thesis.partial').exists()
    (tmp_path/'file').write_text('x')
    with pytest.raises(DataError, match='is a file'): prepare(simdb, tmp_path/'file', progress=False)
    (tmp_path/'run').mkdir()
    (tmp_path/'run/manifest.json').write_text('{"title": "a run folder"}')
    with pytest.raises(DataError, match='not that of a window store'): prepare(simdb, tmp_path/'run', progress=False)
    old = tmp_path/'old'
    shutil.copytree(simstore.path, old)
    m = json.loads((old/'manifest.json').read_text())
    (old/'manifest.json').write_text(json.dumps({**m, 'format': 0}))
    for attempt in (lambda: WindowStore(old), lambda: prepare(simdb, old, progress=False)):
        with pytest.raises(DataError, match='a store of format 0, this version reads format'): attempt()
    broken = tmp_path/'broken'
    shutil.copytree(simstore.path, broken)
    with open(broken/'ecg.npy', 'r+b') as f: f.truncate(5000)
    with pytest.raises(DataError, match='ecg.npy'): WindowStore(broken)


PLAIN = Database('plain', 'Three leads', {'surface': ('I', 'II'), 'inside': ('CS',)}, {'(N': 'sinus', '(T': 'tachycardia'}, fs=None)


def write_record(folder, name, fs=360, seconds=30, leads=('I', 'II', 'CS'), units='mV', gain=200., marks=((0, '(N'), (.5, '(T')), change=None, fmt='16'):
    n, rng = int(fs*seconds), np.random.default_rng(len(name))
    x = .2*rng.normal(size=(n, len(leads)))
    d = np.rint(x*gain*{'mV': 1, 'uV': 1e3}[units]).astype(int)
    if change: d = change(d)
    wfdb.wrsamp(name, fs=fs, units=[units]*len(leads), sig_name=list(leads), d_signal=d, fmt=[fmt]*len(leads), adc_gain=[gain]*len(leads), baseline=[0]*len(leads), write_dir=str(folder))
    wfdb.wrann(name, 'atr', np.array([max(1, int(n*a)) for a, _ in marks]), symbol=['+']*len(marks), aux_note=[m for _, m in marks], write_dir=str(folder))
    return Path(folder)/name


def test_different_rates_units_and_missing_leads_in_one_database(tmp_path):
    db = tmp_path/'db'
    db.mkdir()
    write_record(db, 'a')
    write_record(db, 'bb', fs=1000, leads=('CS', 'I'))
    write_record(db, 'ccc', fs=128, leads=('II', 'X'), units='uV', gain=.2)
    s = prepare(db, tmp_path/'s', PLAIN, seconds=2., progress=False)
    t = s.table
    assert t.groupby('record').size().to_dict() == {'a': 14, 'bb': 14, 'ccc': 14} and s.length == 500
    assert t.groupby('record').fs.first().to_dict() == {'a': 360., 'bb': 1000., 'ccc': 128.}
    assert t.groupby('record').present_surface.first().to_dict() == {'a': '11', 'bb': '10', 'ccc': '01'} and set(t.present_inside[t.record == 'ccc']) == {'0'}
    assert [r['passband'][1] for r in s.manifest['records']] == [100., 100., 53.76]
    spread = [s.batch(t.index[t.record == r].to_numpy())[0]['surface'].std(axis=(0, 2)).max() for r in ('a', 'bb', 'ccc')]
    assert all(.05 < v < .3 for v in spread) # the record in µV too


def test_missing_samples_and_flat_leads(tmp_path):
    db = tmp_path/'db'
    db.mkdir()
    gone = -1 << 15
    def holes(d):
        d[360*4 + 100:360*4 + 110, 0] = gone # 28 ms: bridged
        d[360*8 + 1:360*9, 0] = gone # one second: the lead is absent in that window
        d[:, 1] = 7 # flat throughout
        d[360*20 + 1:360*24] = gone # nothing at all for two windows
        return d
    write_record(db, 'a', marks=((0, '(N'),), change=holes)
    s = prepare(db, tmp_path/'s', PLAIN, seconds=2., progress=False)
    t = s.table.set_index(np.rint(s.table.start/720).astype(int))
    assert not {10, 11} & set(t.index) and len(t) == 12 and s.manifest['excluded']['windows without a usable lead'] == 2
    assert t.gap_surface[2] == '10' and t.present_surface[2] == '10' and t.present_surface[4] == '00' and t.present_inside[4] == '1'
    assert set(t.present_surface.drop(4)) == {'10'} and set(t.flat_surface) == {'01'}
    for x in s.arrays.values(): assert np.isfinite(x).all()


def test_bad_records_are_named(tmp_path):
    def fresh(name, **kw):
        db = tmp_path/name
        db.mkdir()
        write_record(db, 'good')
        return db, write_record(db, 'wrong', **kw)
    db, path = fresh('short')
    Path(f'{path}.dat').write_bytes(Path(f'{path}.dat').read_bytes()[:1000])
    with pytest.raises(DataError, match='wrong.dat.*download it again'): prepare(db, tmp_path/'s1', PLAIN, progress=False)
    assert not (tmp_path/'s1').exists()
    db, path = fresh('empty')
    hea = Path(f'{path}.hea').read_text().replace('360 10800', '360 0')
    Path(f'{path}.hea').write_text(hea)
    with pytest.raises(DataError, match='wrong.hea'): prepare(db, tmp_path/'s2', PLAIN, progress=False)
    db, path = fresh('unit', units='mV', gain=1e-4, change=lambda d: d*0 + np.arange(len(d))[:, None] % 90)
    with pytest.raises(DataError, match='does not fit into float16; correct the gain or the unit'): prepare(db, tmp_path/'s3', PLAIN, progress=False)
    db, path = fresh('leads', leads=('a', 'b'))
    with pytest.raises(DataError, match='wrong.hea.*none of the leads'): prepare(db, tmp_path/'s4', PLAIN, progress=False)
    db, path = fresh('marker', marks=((0, '(WHAT'),))
    with pytest.raises(DataError, match=r'wrong.atr.*\(WHAT'): prepare(db, tmp_path/'s5', PLAIN, progress=False)
    with pytest.raises(DataError, match='no window of 500 s in any record'): prepare(tmp_path/'short', tmp_path/'s6', PLAIN, seconds=500., records=['good'], progress=False)
    with pytest.raises(DataError, match='nosuch: no such annotated record'): prepare(tmp_path/'short', tmp_path/'s7', PLAIN, records=['nosuch'], progress=False)


def test_annotations_out_of_order(tmp_path, monkeypatch):
    db = tmp_path/'db'
    db.mkdir()
    write_record(db, 'a')
    read = windows_module.read_annotations
    monkeypatch.setattr(windows_module, 'read_annotations', lambda *a: read(*a).iloc[::-1].reset_index(drop=True))
    with pytest.raises(DataError, match='a.atr: annotation 1 at sample 1 lies before its predecessor; sort the file'): prepare(db, tmp_path/'s', PLAIN, progress=False)


def test_window_at_the_very_end(tmp_path):
    "Rounding may ask for one sample more than the resampled record holds."
    db = tmp_path/'db'
    db.mkdir()
    write_record(db, 'a', fs=977, seconds=10.0005, marks=((0, '(N'),))
    for seconds in (.5, 1.999, 3.333):
        s = prepare(db, tmp_path/f's{seconds}', PLAIN, seconds=seconds, progress=False)
        at = np.rint(s.table.start*250/977)
        assert (s.table.end <= 9770).all() and at.iloc[-1] + s.length <= n_out(9770, 977., Preprocess()) + 1
        assert all(np.abs(x[-1]).max() < 3 for x in s.arrays.values())
