"From records to a store of windows: by every road the same, the published counts, and what may go wrong on the way."
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pediatric_ecg.core import DataError
from pediatric_ecg.data import (
    LEIPZIG,
    MITDB,
    Database,
    all_segments,
    read_annotations,
    read_header,
    read_signals,
    segments,
)
from pediatric_ecg.data.headers import record_paths
from pediatric_ecg.data.rhythms import window_samples
from pediatric_ecg.splits import audit, evaluable, patient_folds, random_folds
from pediatric_ecg.windows import Preprocess, View, Windows, WindowStore, cut, prepare
from pediatric_ecg.windows._resample import ratio
from pediatric_ecg.windows.flow import Flow, flow_of, flow_text
from pediatric_ecg.windows.leads import Leads, window_length
from pediatric_ecg.windows.quality import noise
from pediatric_ecg.windows.signals import n_out, process
from pediatric_ecg.windows.store import StoreWriter, code_files, content_hashes

# wfdb's writer on newest pandas
pytestmark = pytest.mark.filterwarnings('ignore:The inplace keyword:DeprecationWarning')
quick = settings(deadline=None, max_examples=30)
windows_module = import_module('pediatric_ecg.windows.prepare')  # `pediatric_ecg.windows.prepare` names the function


def content(store):
    return {file.name: file.read_bytes() for file in Path(store).iterdir()}


def some(simdb, count=3):
    "Names of the first records."
    return [path.name for path in record_paths(simdb, LEIPZIG)[:count]]


def never(*_, **__):
    raise AssertionError('worked again')


def run(code, *argv):
    "A process of its own. Warnings are errors there, too, except those of wfdb's import."
    command = [sys.executable, '-c', textwrap.dedent(code), *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, 'OMP_NUM_THREADS': '1'})


# --- cutting ------------------------------------------------------------------------------------------------

spans = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 9000)), min_size=1, max_size=8)
RATES = [977., 360., 250.5, 512.01, 976.5625, 600.614990234375]


@quick
@given(spans=spans, fs=st.sampled_from(RATES), seconds=st.one_of(st.floats(.2, 6), st.sampled_from([1.7, .3333])),
       stride=st.one_of(st.none(), st.floats(.1, 8)))
@example(spans=[(0, 501)], fs=250.5, seconds=1/3, stride=None)
@example(spans=[(0, 9000)], fs=977., seconds=1.7, stride=None)
def test_cut_is_in_whole_samples_and_leaves_no_room(spans, fs, seconds, stride):
    rows, at = [], 0
    for number, (gap, length) in enumerate(spans):
        rows.append(('r', f'(R{number}', at + gap, at + gap + length))
        at += gap + length
    marked = pd.DataFrame(rows, columns=['record', 'rhythm', 'start', 'end'])
    windows = cut(marked, fs, seconds, stride)
    length, hop = int(np.ceil(seconds*fs - 1e-6)), int(np.ceil((stride or seconds)*fs - 1e-6))
    for segment in marked.itertuples():  # one by one
        mine = windows[windows.rhythm == segment.rhythm]
        expected = range(segment.start, segment.end - length + 1, hop)
        assert mine.start.tolist() == list(expected) and (mine.end - mine.start == length).all()
    if hop >= length:
        assert (windows.start.to_numpy()[1:] >= windows.end.to_numpy()[:-1]).all()
        # nor do they share an output
        up, down = ratio(fs, 250.)
        first = (2*windows.start.to_numpy()*up + down)//(2*down)
        assert (np.diff(first) >= window_length(seconds, 250.)).all()


def test_whole_products_are_cut_as_before():
    marked = pd.DataFrame({'record': 'a', 'rhythm': '(N', 'start': [17], 'end': [100_000]})
    for fs, seconds in ((360, 5.), (977, 2.), (977, 1.), (250, .5)):
        starts = 17 + np.rint(np.arange(10_000)*seconds*fs).astype(int)
        assert cut(marked, fs, seconds).start.tolist() == starts[starts + round(seconds*fs) <= 100_000].tolist()


def test_cut_keeps_columns_and_takes_a_rate_for_each_record():
    marked = pd.DataFrame({'record': ['a', 'b'], 'rhythm': '(N', 'start': [0, 10], 'end': [1000, 1010]})
    marked['beats'] = [3, 4]
    windows = cut(marked, {'a': 100., 'b': 250.}, 2.)
    assert windows.record.value_counts().to_dict() == {'a': 5, 'b': 2}
    assert list(windows.columns) == list(marked.columns)
    assert len(cut(marked[:0], 100., 2.)) == 0
    with pytest.raises(DataError, match="no sampling rate given for record 'b'"):
        cut(marked, {'a': 100.}, 2.)
    with pytest.raises(DataError, match='must be positive'):
        cut(marked, 100., 0.)


def test_published_windows_of_x0010(shared):
    marked = segments(shared/'leipzig/x0010', LEIPZIG, unusable='report')
    published = {1: (246, 40, 12, 6), 2: (123, 18, 2, 3), 3: (81, 9, 0, 1), 5: (48, 3, 0, 0), 10: (23, 0, 0, 0)}
    for seconds, counts in published.items():
        found = cut(marked, 977., seconds).rhythm.value_counts()
        assert tuple(int(found.get(rhythm, 0)) for rhythm in ('(AVNRT', '(/A', '(N', '(/V')) == counts


def test_published_windows_of_mitdb(shared):
    published = {  # windows and records
        '(N': (12415, 42), '(AFIB': (1543, 8), '(P': (1290, 4), '(B': (368, 10), '(SBR': (361, 1), '(T': (185, 10),
        '(AFL': (139, 3), '(PREX': (97, 1), '(BII': (138, 1), '(NOD': (36, 3), '(VT': (19, 2), '(SVTA': (31, 3),
        '(IVR': (27, 2), '(VFL': (26, 1), '(AB': (16, 1)}
    windows = cut(all_segments(shared/'mitdb', MITDB), 360., 5.)
    found = windows.groupby('rhythm').record.agg(['size', 'nunique'])
    assert {rhythm: tuple(map(int, counts)) for rhythm, counts in zip(found.index, found.to_numpy())} == published


# --- one window by three roads ------------------------------------------------------------------------------

def test_windows_are_those_of_the_whole_record(simdb, simstore):
    pre, table = Preprocess(notch=LEIPZIG.mains), simstore.table
    for path in record_paths(simdb, LEIPZIG)[:3]:
        rows, header = table.index[table.record == path.name].to_numpy(), read_header(path)
        whole = process(read_signals(path), header.fs, pre)
        x, present = simstore.batch(rows)
        for modality, slots in simstore.modalities.items():
            for number, slot in enumerate(slots):
                stored, there = x[modality][:, number], present[modality][:, number]
                assert not stored[~there].any()
                if slot not in header.leads:
                    assert not there.any()
                    continue
                lead = whole[:, header.leads.index(slot)]
                for window, row in zip(stored[there], rows[there], strict=True):
                    at = round(table.start[row]*250/header.fs)
                    piece = lead[at:at + simstore.length]
                    bound = np.maximum(np.abs(piece)/2048, 3e-8) + 1e-6
                    assert (np.abs(window[:len(piece)] - piece) <= bound).all()


def test_float32_is_the_whole_record_to_a_millionth(simdb, tmp_path):
    store = prepare(simdb, tmp_path/'s', dtype='float32', records=some(simdb, 1), stride=.7, block_seconds=20.,
                    progress=False)
    whole = process(read_signals(record_paths(simdb, LEIPZIG)[0], leads=list(range(12))), 977., Preprocess())
    for row, at in enumerate(np.rint(store.table.start*250/977).astype(int)):
        np.testing.assert_allclose(store.arrays['ecg'][row], whole[at:at + 500].T, atol=1e-6)
    assert (np.diff(store.table.start) < 2*977).any()  # they overlap


def test_leads_read_by_and_by_are_the_leads_read_together(simdb, monkeypatch):
    "A record of many leads at a high rate is read in groups of leads; the windows do not tell."
    leads = Leads(record_paths(simdb, LEIPZIG)[0], LEIPZIG, Preprocess())
    at = np.arange(0, 2000, 500)
    starts = (at * leads.header.fs / 250).astype(int)
    asked = at, starts, starts + window_samples(2, leads.header.fs), 500
    together, _, flags = leads.windows(*asked)
    for most in (1, 20_000):  # one lead at a time, some at a time
        monkeypatch.setattr("pediatric_ecg.windows.leads._MOST_VALUES", most)
        by_and_by, _, same_flags = leads.windows(*asked)
        np.testing.assert_array_equal(by_and_by, together)
        for kind, values in flags.items():
            np.testing.assert_array_equal(same_flags[kind], values)


def test_each_lead_has_its_own_noise():
    rng = np.random.default_rng(0)
    quiet, loud = 0.01 * rng.normal(size=(3, 500)), rng.normal(size=(3, 500))
    both = noise(np.stack([quiet, loud], axis=1), 250)
    assert both.shape == (3, 2)
    assert noise(np.zeros((3, 2, 3)), 250).tolist() == 3 * [[0, 0]]  # too short for any noise
    np.testing.assert_array_equal(both, np.stack([noise(quiet, 250), noise(loud, 250)], axis=1))
    assert (both[:, 0] < 0.02).all() and (both[:, 1] > 0.5).all()


def test_labels_are_those_of_the_annotation_at_every_sample(simdb, simstore):
    for path in record_paths(simdb, LEIPZIG):
        annotations = read_annotations(path, LEIPZIG)
        marks = annotations[annotations.symbol == '+']
        rhythm = np.full(read_header(path).n_samples, '', object)
        for start, mark in zip(marks['sample'], marks.aux, strict=True):
            rhythm[start:] = mark
        noisy = annotations['sample'][annotations.symbol == '~'].tolist()
        for start, end in zip(noisy[::2], noisy[1::2], strict=True):
            rhythm[start:end] = ''
        for row in simstore.table[simstore.table.record == path.name].itertuples():
            assert set(rhythm[row.start:row.end]) == {row.rhythm}
            assert LEIPZIG.grouping()[row.rhythm] == row.label


def test_labelled_time_is_conserved(simdb, simstore):
    marked = all_segments(simdb, LEIPZIG)
    length = marked.end - marked.start
    covered = (simstore.table.end - simstore.table.start).sum()
    tails = (length % 1954).sum()  # what does not fill a window of 2 s
    excluded = simstore.manifest['excluded']
    lost = excluded['windows of rhythms outside the grouping'] + excluded['windows without a usable lead']
    assert covered + tails + 1954*lost == length.sum()
    assert abs(simstore.manifest['seconds_total']['labelled'] - length.sum()/977) < .01


def test_order_of_records_changes_only_the_order_of_rows(simdb, simstore, tmp_path):
    names = some(simdb, 3)
    store = prepare(simdb, tmp_path/'s', records=names[::-1], n_jobs=2, progress=False)
    assert list(dict.fromkeys(store.table.record)) == names[::-1]
    for name in names:
        one, other = (seen.table[seen.table.record == name] for seen in (store, simstore))
        pd.testing.assert_frame_equal(one.drop(columns='window').reset_index(drop=True),
                                      other.drop(columns='window').reset_index(drop=True))
        for modality in store.arrays:
            here, there = store.arrays[modality][one.index], simstore.arrays[modality][other.index]
            assert here.tobytes() == there.tobytes()


def test_store_says_what_it_is(simstore):
    manifest, table = simstore.manifest, simstore.table
    assert simstore.simulated and 'simulated' in simstore.title.lower()
    assert len(simstore) == manifest['windows'] == len(table)
    assert (table.window == np.arange(len(table))).all() and simstore.length == 500 and simstore.fs == 250.
    assert [simstore.classes[code] for code in simstore.labels] == table.label.tolist()
    assert all(len(checksum) == 64 for record in manifest['records'] for checksum in record['sources'].values())
    assert {'numpy', 'scipy', 'wfdb'} <= set(manifest['versions'])
    assert not list(simstore.path.parent.glob('*.partial'))
    x, present = simstore.batch([5, 0])
    assert x['ecg'].shape == (2, 12, 500) and x['ecg'].dtype == np.float32 and present['iegm'].dtype == bool
    np.testing.assert_array_equal(x['iegm'][1], simstore.arrays['iegm'][0])
    assert len(pickle.dumps(simstore)) < 500 and len(pickle.loads(pickle.dumps(simstore))) == len(simstore)


# --- again, interrupted, together ---------------------------------------------------------------------------

def test_unchanged_is_recognised_and_changed_is_refused(simdb, simstore, tmp_path, monkeypatch):
    before = content(simstore.path)
    monkeypatch.setattr(windows_module, '_prepare_record', never)
    assert len(prepare(simdb, simstore.path, progress=False)) == len(simstore)
    changes = {'seconds: 2.0, now 3.0': {'seconds': 3.}, 'preprocess.band': {'pre': Preprocess(band=(1., 100.))},
               'dtype': {'dtype': 'float32'}, 'label': {'label': 'beats'}, 'records': {'records': some(simdb)}}
    for message, change in changes.items():
        with pytest.raises(DataError, match=message):
            prepare(simdb, simstore.path, progress=False, **change)
    assert content(simstore.path) == before
    copy = tmp_path/'db'
    shutil.copytree(simdb, copy)
    name = some(simdb, 1)[0]
    signal = bytearray((copy/f'{name}.dat').read_bytes())
    signal[100] ^= 1
    (copy/f'{name}.dat').write_bytes(signal)
    with pytest.raises(DataError, match=f'other files of record {name}'):
        prepare(copy, simstore.path, progress=False)


def test_killed_and_started_again_ends_with_the_same_bytes(simdb, tmp_path, monkeypatch):
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
            if next(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        windows._write = dying
        windows.prepare(folder, out, records=names, n_jobs=1, progress=False)'''
    process_of_its_own = run(code, simdb, tmp_path/'s', *names)
    process_of_its_own.communicate(timeout=60)
    assert process_of_its_own.returncode == -9 and not (tmp_path/'s').exists()
    with pytest.raises(DataError, match='was not finished; run prepare again'):
        WindowStore(tmp_path/'s')
    assert len(list((tmp_path/'s.partial/parts').glob('*.json'))) == 2
    with pytest.raises(DataError, match='s.partial: made with other parameters .*seconds'):
        prepare(simdb, tmp_path/'s', records=names, seconds=5., progress=False)
    made, original = [], windows_module._prepare_record

    def counted(part, *a, **k):
        made.append(part)
        return original(part, *a, **k)

    monkeypatch.setattr(windows_module, '_prepare_record', counted)
    prepare(simdb, tmp_path/'s', records=names, n_jobs=1, progress=False)
    assert len(made) == 2  # the other two were not touched
    assert content(tmp_path/'s') == content(whole.path) and not (tmp_path/'s.partial').exists()


def test_two_processes_and_one_folder(simdb, simstore, tmp_path):
    code = '''
        import sys
        from pediatric_ecg.windows.prepare import prepare
        print(len(prepare(sys.argv[1], sys.argv[2], n_jobs=1, progress=False)))'''
    both = [run(code, simdb, tmp_path/'s') for _ in range(2)]
    for one in both:
        out, err = one.communicate(timeout=120)
        assert one.returncode == 0 and int(out) == len(simstore), err
    assert content(tmp_path/'s') == content(simstore.path)


def test_processes_write_the_same_bytes_as_threads(simdb, simstore, tmp_path):
    with joblib.parallel_config(backend='loky', n_jobs=2):
        prepare(simdb, tmp_path/'s', n_jobs=2, progress=False)
    assert content(tmp_path/'s') == content(simstore.path)


def test_dask_cluster(simdb, simstore, tmp_path):
    distributed = pytest.importorskip('distributed', reason='distributed is not installed')
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None,
                                       local_directory=str(tmp_path/'dask'))
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend='dask'):
        prepare(simdb, tmp_path/'s', n_jobs=2, progress=False)
    assert content(tmp_path/'s') == content(simstore.path)


def test_full_disk_keeps_what_was_finished(simdb, tmp_path, monkeypatch):
    names, write, calls = some(simdb, 3), windows_module._write, []

    def full(*a, **k):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return write(*a, **k)

    monkeypatch.setattr(windows_module, '_write', full)
    with pytest.raises(DataError, match='the disk is full; make room and run prepare again'):
        prepare(simdb, tmp_path/'s', records=names, n_jobs=1, progress=False)
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

    monkeypatch.setattr(windows_module, '_prepare_record', never)
    prepare(simdb, tmp_path/'s', records=names, progress=False)
    assert content(tmp_path/'s') == content(whole.path) and not (tmp_path/'s.partial').exists()


def test_the_code_of_a_store_is_what_prepare_imports():
    files = code_files()
    assert {'windows/prepare.py', 'windows/signals.py', 'windows/_resample.py', 'windows/store.py'} <= set(files)
    assert {'data/records.py', 'data/_decode.py'} <= set(files)
    assert not {'data/download.py', 'windows/views.py', 'windows/__init__.py'} & set(files)
    assert not [file for file in files if file.split('/')[0] not in ('core.py', 'surroundings.py', 'data', 'windows')]


# --- one contract -------------------------------------------------------------------------------------------

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
    assert (seen.path, seen.title, seen.simulated) == (simstore.path, simstore.title, True)
    assert seen.manifest == simstore.manifest and seen.database == simstore.database
    with pytest.raises(AttributeError):
        _ = seen.lock  # nothing is forwarded that is not written out


def test_a_view_travels_to_another_process(simstore):
    seen = View(simstore, labels=simstore.table.label.to_numpy()[::-1].copy(), modalities=['iegm'])
    there = pickle.loads(pickle.dumps(seen))
    assert (there.labels == seen.labels).all() and list(there.arrays) == ['iegm'] and len(there) == len(seen)
    np.testing.assert_array_equal(there.batch([5])[0]['iegm'], simstore.batch([5])[0]['iegm'])


# --- bad input ----------------------------------------------------------------------------------------------

def test_folders_that_are_no_store(simdb, simstore, tmp_path):
    (tmp_path/'thesis').mkdir()
    (tmp_path/'thesis/chapter1.tex').write_text('years of work')
    with pytest.raises(DataError, match='thesis: exists and is not a window store; choose another folder'):
        prepare(simdb, tmp_path/'thesis', progress=False)
    with pytest.raises(DataError, match='thesis: is not a window store'):
        WindowStore(tmp_path/'thesis')
    assert (tmp_path/'thesis/chapter1.tex').read_text() == 'years of work'
    assert not (tmp_path/'thesis.partial').exists()
    (tmp_path/'file').write_text('x')
    with pytest.raises(DataError, match='is a file'):
        prepare(simdb, tmp_path/'file', progress=False)
    (tmp_path/'run').mkdir()
    (tmp_path/'run/manifest.json').write_text('{"title": "a run folder"}')
    with pytest.raises(DataError, match='not that of a window store'):
        prepare(simdb, tmp_path/'run', progress=False)


def test_a_folder_beside_the_store_is_not_taken_for_its_parts(simdb, tmp_path):
    (tmp_path/'s.partial').mkdir()
    (tmp_path/'s.partial/manifest.json').write_text('{"title": "a run folder"}')
    with pytest.raises(DataError, match='not that of a window store'):
        prepare(simdb, tmp_path/'s', progress=False)
    (tmp_path/'s.partial/manifest.json').rename(tmp_path/'s.partial/notes.json')
    with pytest.raises(DataError, match='was not begun by prepare; move it away'):
        prepare(simdb, tmp_path/'s', progress=False)
    assert (tmp_path/'s.partial/notes.json').is_file()


def test_stores_of_another_format_and_broken_ones(simdb, simstore, tmp_path):
    old = tmp_path/'old'
    shutil.copytree(simstore.path, old)
    manifest = json.loads((old/'manifest.json').read_text())
    (old/'manifest.json').write_text(json.dumps({**manifest, 'format': 0}))
    for attempt in (lambda: WindowStore(old), lambda: prepare(simdb, old, progress=False)):
        with pytest.raises(DataError, match='a store of format 0, this version reads format'):
            attempt()
    broken = tmp_path/'broken'
    shutil.copytree(simstore.path, broken)
    with open(broken/'ecg.npy', 'r+b') as file:
        file.truncate(5000)
    with pytest.raises(DataError, match='ecg.npy'):
        WindowStore(broken)


PLAIN = Database('plain', 'Three leads', {'surface': ('I', 'II'), 'inside': ('CS',)},
                 {'(N': 'sinus', '(T': 'tachycardia'}, fs=None)


def rename_record(path, name):
    "A record under a name that wfdb's writer refuses."
    for file in list(path.parent.glob(f'{path.name}.*')):
        content = file.read_bytes()
        if file.suffix == '.hea':
            content = content.replace(path.name.encode(), name.encode())
        file.unlink()
        (path.parent/(name + file.suffix)).write_bytes(content)


def write_record(
    folder, name, fs=360, seconds=30, leads=('I', 'II', 'CS'), units='mV', gain=200., marks=((0, '(N'), (.5, '(T')),
    change=None,
):
    "A record of noise with rhythm markers at shares of its length."
    samples, rng = int(fs*seconds), np.random.default_rng(len(name))
    x = .2*rng.normal(size=(samples, len(leads)))
    digital = np.rint(x*gain*{'mV': 1, 'uV': 1e3}[units]).astype(int)
    if change:
        digital = change(digital)
    wfdb.wrsamp(name, fs=fs, units=[units]*len(leads), sig_name=list(leads), d_signal=digital, fmt=['16']*len(leads),
                adc_gain=[gain]*len(leads), baseline=[0]*len(leads), write_dir=str(folder))
    at = np.array([max(1, int(samples*share)) for share, _ in marks])
    rhythms = [rhythm for _, rhythm in marks]
    wfdb.wrann(name, 'atr', at, symbol=['+']*len(marks), aux_note=rhythms, write_dir=str(folder))
    return Path(folder)/name


def test_different_rates_units_and_missing_leads_in_one_database(tmp_path):
    db = tmp_path/'db'
    db.mkdir()
    write_record(db, 'a')
    write_record(db, 'bb', fs=1000, leads=('CS', 'I'))
    write_record(db, 'ccc', fs=128, leads=('II', 'X'), units='uV', gain=.2)
    store = prepare(db, tmp_path/'s', PLAIN, seconds=2., progress=False)
    table = store.table
    by_record = table.groupby('record')
    assert by_record.size().to_dict() == {'a': 14, 'bb': 14, 'ccc': 14} and store.length == 500
    assert by_record.fs.first().to_dict() == {'a': 360., 'bb': 1000., 'ccc': 128.}
    assert by_record.present_surface.first().to_dict() == {'a': '11', 'bb': '10', 'ccc': '01'}
    assert set(table.present_inside[table.record == 'ccc']) == {'0'}
    assert [record['passband'][1] for record in store.manifest['records']] == [100., 100., 53.76]
    for record in ('a', 'bb', 'ccc'):
        x, _ = store.batch(table.index[table.record == record].to_numpy())
        assert .05 < x['surface'].std(axis=(0, 2)).max() < .3  # the record in µV too


def test_missing_samples_and_flat_leads(tmp_path):
    db = tmp_path/'db'
    db.mkdir()
    missing = -1 << 15

    def holes(digital):
        digital[360*4 + 100:360*4 + 110, 0] = missing  # 28 ms: bridged
        digital[360*8 + 1:360*9, 0] = missing  # one second: the lead is absent in that window
        digital[:, 1] = 7  # flat throughout
        digital[360*20 + 1:360*24] = missing  # nothing at all for two windows
        return digital

    write_record(db, 'a', marks=((0, '(N'),), change=holes)
    store = prepare(db, tmp_path/'s', PLAIN, seconds=2., progress=False)
    table = store.table.set_index(np.rint(store.table.start/720).astype(int))
    assert not {10, 11} & set(table.index) and len(table) == 12
    assert store.manifest['excluded']['windows without a usable lead'] == 2
    assert table.gap_surface[2] == '10' and table.present_surface[2] == '10'
    assert table.present_surface[4] == '00' and table.present_inside[4] == '1'
    assert set(table.present_surface.drop(4)) == {'10'} and set(table.flat_surface) == {'01'}
    assert all(np.isfinite(array).all() for array in store.arrays.values())


def fresh(folder, **changes):
    "A database of a good record and one that is changed."
    folder.mkdir()
    write_record(folder, 'good')
    return folder, write_record(folder, 'wrong', **changes)


def ramp(digital):
    return digital*0 + np.arange(len(digital))[:, None] % 90


@pytest.mark.parametrize('changes, message', [
    ({'leads': ('a', 'b')}, 'wrong.hea.*none of the leads'),
    ({'marks': ((0, '(WHAT'),)}, r'wrong.atr.*\(WHAT'),
])
def test_bad_records_are_named(tmp_path, changes, message):
    db, _ = fresh(tmp_path/'db', **changes)
    with pytest.raises(DataError, match=message):
        prepare(db, tmp_path/'s', PLAIN, progress=False)
    assert not (tmp_path/'s').exists()


def test_a_record_of_absurd_samples_has_no_window_and_is_named(tmp_path):
    "More millivolts than half precision holds are unusable time, as gaps are; the other record is prepared."
    db, _ = fresh(tmp_path/'db', units='mV', gain=1e-4, change=ramp)
    store = prepare(db, tmp_path/'s', PLAIN, progress=False)
    records = {record['record']: record for record in store.manifest['records']}
    assert set(store.table.record) == {'good'} and records['wrong']['windows'] == 0
    assert records['wrong']['excluded']['windows without a usable lead'] == records['good']['windows'] > 0


def test_damaged_files_are_named(tmp_path):
    db, path = fresh(tmp_path/'short')
    Path(f'{path}.dat').write_bytes(Path(f'{path}.dat').read_bytes()[:1000])
    with pytest.raises(DataError, match='wrong.dat.*download it again'):
        prepare(db, tmp_path/'s1', PLAIN, progress=False)
    assert not (tmp_path/'s1').exists()
    db, path = fresh(tmp_path/'empty')
    header = Path(f'{path}.hea')
    header.write_text(header.read_text().replace('wrong.dat', 'lost.dat'))
    with pytest.raises(DataError, match='lost.dat: missing'):
        prepare(db, tmp_path/'s2', PLAIN, progress=False)


def test_requests_that_leave_nothing(tmp_path):
    db, _ = fresh(tmp_path/'db')
    with pytest.raises(DataError, match='no window of 500 s in any record'):
        prepare(db, tmp_path/'s1', PLAIN, seconds=500., records=['good'], progress=False)
    with pytest.raises(DataError, match='nosuch: no such annotated record'):
        prepare(db, tmp_path/'s2', PLAIN, records=['nosuch'], progress=False)
    with pytest.raises(DataError, match="dtype 'int8'; choose float16 or float32"):
        prepare(db, tmp_path/'s3', PLAIN, dtype='int8', progress=False)


def test_annotations_out_of_order(tmp_path, monkeypatch):
    db = tmp_path/'db'
    db.mkdir()
    write_record(db, 'a')
    read = windows_module.read_annotations
    def backwards(*a, **k):
        return read(*a, **k).iloc[::-1].reset_index(drop=True)

    monkeypatch.setattr(windows_module, 'read_annotations', backwards)
    with pytest.raises(DataError, match='a.atr: annotation 1 at sample 1 lies before its predecessor; sort the file'):
        prepare(db, tmp_path/'s', PLAIN, progress=False)


def test_window_at_the_very_end(tmp_path):
    "Rounding may ask for one sample more than the resampled record holds."
    db = tmp_path/'db'
    db.mkdir()
    write_record(db, 'a', fs=977, seconds=10.0005, marks=((0, '(N'),))
    for seconds in (.5, 1.999, 3.333):
        store = prepare(db, tmp_path/f's{seconds}', PLAIN, seconds=seconds, progress=False)
        at = np.rint(store.table.start*250/977)
        assert (store.table.end <= 9770).all()
        assert at.iloc[-1] + store.length <= n_out(9770, 977., Preprocess()) + 1
        assert all(np.abs(array[-1]).max() < 3 for array in store.arrays.values())


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_length_that_is_no_number_is_one_line(simdb, tmp_path, seconds):
    with pytest.raises(DataError, match="give the length as a number of seconds"):
        prepare(simdb, tmp_path / "store", seconds=seconds, progress=False)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("cell", ["1", "", "2" * 12])
def test_a_damaged_mask_of_leads_is_one_line(simstore, tmp_path, cell):
    folder = shutil.copytree(simstore.path, tmp_path / "store")
    table = pd.read_csv(folder / "windows.csv", dtype=str, keep_default_na=False)
    table.loc[0, "present_ecg"] = cell
    table.to_csv(folder / "windows.csv", index=False)
    with pytest.raises(DataError, match="present_ecg is damaged; prepare the store again"):
        WindowStore(folder)


def test_a_whole_store_of_other_parameters_is_not_renamed(simdb, simstore, tmp_path):
    aside = shutil.copytree(simstore.path, tmp_path / "store.partial")
    with pytest.raises(DataError, match="made with other parameters"):
        prepare(simdb, tmp_path / "store", seconds=1, n_jobs=1, progress=False)
    assert (aside / "windows.csv").exists() and not (tmp_path / "store").exists()


# --- lengths, strides and rates ---------------------------------------------------------------------------------

@pytest.mark.parametrize("fs", [512.01, 976.5625, 600.614990234375, 999.9999, 977])
@pytest.mark.parametrize("seconds", [1.7, .3333, 2.])
def test_windows_of_any_length_at_any_rate_share_nothing(tmp_path, fs, seconds):
    (tmp_path/'db').mkdir()
    for name in ('a', 'bb', 'ccc'):
        write_record(tmp_path/'db', name, fs=fs, seconds=20)
    store = prepare(tmp_path/'db', tmp_path/'s', PLAIN, seconds=seconds, progress=False)
    assert store.length == int(seconds*250 + 1e-9)
    folds = random_folds(store.table, 3)
    assert set(audit(store.table, folds, allow=('subject',)).verdict) <= {'clean', 'allowed', 'not checked'}
    for record in ('a', 'bb', 'ccc'):  # each sample is that of the whole record
        rows = store.table.index[store.table.record == record]
        whole = process(read_signals(tmp_path/'db'/record, leads=['I', 'II']), fs, Preprocess())
        for row in rows[:5]:
            at = int(np.floor(store.table.start[row]*250/fs + .5))
            expected = whole[at:at + store.length].T
            stored = store.batch([row])[0]['surface'][0][:, :expected.shape[1]]
            assert (np.abs(stored - expected) <= np.abs(expected)/2048 + 1e-5).all()


@pytest.mark.parametrize("choice", [
    {'seconds': 0}, {'seconds': -1}, {'seconds': 1e12}, {'stride': 0}, {'stride': -2.}, {'stride': float('nan')},
    {'stride': 1e12}, {'seconds': .005}, {'block_seconds': float('nan')}, {'block_seconds': 0}, {'noisy_mv': -1},
    {'label': 'nonsense'}, {'grouping': 'nonsense'}, {'dtype': 'int8'}])
def test_absurd_choices_are_one_line(simdb, tmp_path, choice):
    with pytest.raises(DataError) as error:
        prepare(simdb, tmp_path/'s', progress=False, **choice)
    assert '\n' not in str(error.value) and not any(tmp_path.iterdir())


@pytest.mark.parametrize("fs", [1., 3e5])
def test_very_slow_and_very_fast_records_end(tmp_path, fs):
    (tmp_path/'db').mkdir()
    write_record(tmp_path/'db', 'a', fs=fs, seconds=max(2., 60/fs))
    try:
        store = prepare(tmp_path/'db', tmp_path/'s', PLAIN, seconds=.5, progress=False)
    except DataError as error:
        assert 'no window' in str(error) or 'a' in str(error)
    else:
        assert np.isfinite(store.arrays['surface']).all()


def test_overlapping_windows_run_through_both_splits(simdb, tmp_path):
    store = prepare(simdb, tmp_path/'s', stride=1., progress=False)
    assert (store.table.end.to_numpy()[:-1] > store.table.start.to_numpy()[1:]).any()
    folds = random_folds(store.table, 4)
    assert 'allowed' in set(audit(store.table, folds, allow=('subject',)).verdict)
    assert (np.sort(np.concatenate([fold.test for fold in folds])) == np.arange(len(store))).all()
    rows = store.table.label.map(evaluable(store.table)).to_numpy()
    assert set(audit(store.table, patient_folds(store.table, 3, rows=rows)).verdict) == {'clean', 'not checked'}


# --- what is lost on the way --------------------------------------------------------------------------------------

def test_every_record_without_a_window_is_named(tmp_path):
    db = tmp_path/'db'
    db.mkdir()
    write_record(db, 'good')
    rename_record(write_record(db, 'brief', seconds=3), 'brief one')
    write_record(db, 'level', change=lambda digital: digital*0)
    write_record(db, "unmarked")
    (db/'unmarked.atr').unlink()
    rename_record(write_record(db, 'left'), 'left out, by name')
    spec = replace(PLAIN, skip={'left*': 'withdrawn'})
    store = prepare(db, tmp_path/'s', spec, seconds=2., progress=False)
    records = store.manifest['flow']['records']
    assert records['skipped'] == {'left out, by name': 'withdrawn'}
    assert records['without_window'] == {
        'brief one': 'no segment is as long as a window of 2 s', 'level': 'no usable lead',
        'unmarked': 'no annotations'}
    assert (records['here'], records['annotated'], records['labelled']) == (5, 3, 3)
    segments = store.manifest['flow']['segments']
    assert segments['(N'] == {'segments': 3, 'seconds': 31.492, 'patients': 3, 'shorter': 1}
    assert 'each record is counted as one patient' in store.manifest['subject_notes'][0]
    printed = flow_text(Flow.from_dict(flow_of(store), 'manifest.json'))
    assert 'no window from level: no usable lead' in printed and 'withdrawn' in printed


def test_names_with_blanks_commas_and_letters_of_all_kinds(tmp_path):
    db = tmp_path/'Ordner mit Umlaut ä'
    db.mkdir()
    names = ['a, b', 'é ü', 'x"y', "it's", '数据1']
    for name in names:
        rename_record(write_record(db, 'temporary'[:len(name)]), name)
    try:
        paths = record_paths(db, PLAIN)
    except DataError:
        pytest.skip('names of this kind are not read')
    store = prepare(db, tmp_path/'Speicher, groß', PLAIN, seconds=2., progress=False)
    kept = set(store.table.record) | set(store.manifest['flow']['records']['copies'])
    assert kept == {path.name for path in paths} == set(names)


def test_a_file_that_differs_from_the_list_is_refused(simdb, tmp_path):
    db = shutil.copytree(simdb, tmp_path/'db')
    name = some(db, 1)[0]
    (db/'SHA256SUMS.txt').write_text(f'{"0"*64}  {name}.dat\n')
    with pytest.raises(DataError, match=f'{name}.dat: differs from SHA256SUMS.txt; download it again'):
        prepare(db, tmp_path/'s', progress=False)
    assert not (tmp_path/'s').exists()


def test_what_the_header_says_of_its_samples_is_compared(tmp_path):
    (tmp_path/'db').mkdir()
    path = write_record(tmp_path/'db', 'a')
    samples = np.fromfile(f'{path}.dat', '<i2')
    samples.byteswap().tofile(f'{path}.dat')
    with pytest.raises(DataError, match='lead I: its samples add up to .*, and the header says'):
        prepare(tmp_path/'db', tmp_path/'s', PLAIN, progress=False)


def test_leads_of_several_rates(tmp_path):
    "Two surface leads at 250 Hz beside a catheter at 1000 Hz, in frames: each as if it were alone."
    db = tmp_path/'db'
    db.mkdir()
    rng = np.random.default_rng(0)
    slow, fast = np.cumsum(rng.normal(size=(2, 5000)), 1).round(), np.cumsum(rng.normal(size=20000)).round()
    frames = np.concatenate([slow[:1].T, slow[1:].T, fast.reshape(5000, 4)], 1)
    (db/'m.dat').write_bytes(frames.astype('<i2').tobytes())
    lines = ['m 3 250 5000', 'm.dat 16 200 16 0 0 0 0 I', 'm.dat 16 200 16 0 0 0 0 II', 'm.dat 16x4 200 16 0 0 0 0 CS']
    (db/'m.hea').write_text('\n'.join(lines) + '\n')
    wfdb.wrann('m', 'atr', np.array([1]), symbol=['+'], aux_note=['(N'], write_dir=str(db))
    store = prepare(db, tmp_path/'s', PLAIN, seconds=2., dtype='float32', progress=False)
    expected = {'surface': process(slow.T/200, 250.), 'inside': process(fast[:, None]/200, 1000.)}
    x, present = store.batch(np.arange(len(store)))
    assert len(store) == 9 and all(mask.all() for mask in present.values())
    for modality, whole in expected.items():
        for window, start in zip(x[modality], store.table.start, strict=True):
            at = int(np.floor(start/4 + .5))
            np.testing.assert_allclose(window[:, :len(whole) - at], whole[at:at + 500].T, atol=1e-5)
