"The signal path: whatever the rates, lengths, offsets and gaps, pieces equal the whole and nothing moves in time."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from pediatric_ecg.core import DataError
from pediatric_ecg.windows import Preprocess
from pediatric_ecg.windows._resample import ceil_div, ratio, taps
from pediatric_ecg.windows.quality import quality
from pediatric_ecg.windows.signals import apply, design, n_out, needed, overlap, process

RATES = st.sampled_from([977., 360., 1000., 250., 128., 257., 500., 199.8, 2000.])
quick = settings(deadline=None, max_examples=15)


def wander(n, leads=2, seed=0, offset=0.):
    "A random walk with beats on it, so that no part of the band is empty."
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(size=(n, leads)), 0)*.02 + .05*rng.normal(size=(n, leads)) + offset
    x[::200] += 1.
    return x


def plain(x, fs, pre):
    "The same steps by SciPy on the whole record."
    up, down = ratio(fs, pre.fs)
    ends, n = max(round(pre.pad*fs), ceil_div(down, up) + 1), len(x)
    turns = ceil_div(ends + 10*max(up, down)//up + 2, down)  # whole turns, so that output 0 stays in its place
    resampled = np.pad(x, ((turns*down, turns*down), (0, 0)), mode='reflect', reflect_type='odd')
    if up != down:
        resampled = signal.resample_poly(resampled, up, down, axis=0, window=taps(up, down))
    resampled = resampled[turns*up - ends*up//down:turns*up + (n - 1 + ends)*up//down + 1]
    filtered = signal.sosfiltfilt(design(pre), resampled, axis=0, padlen=0)
    return filtered[ends*up//down:][:n_out(n, fs, pre)]


def in_blocks(x, fs, seconds, pre=Preprocess()):
    "The output of `process` in blocks, each from the samples that it needs."
    total, length = n_out(len(x), fs, pre), max(1, round(seconds*pre.fs))
    blocks = []
    for lo in range(0, total, length):
        hi = min(lo + length, total)
        start, stop = needed(len(x), fs, pre, lo, hi)
        blocks.append(apply(np.ascontiguousarray(x[start:stop].T), start, fs, pre, lo, hi).T)
    return np.concatenate(blocks)


@quick
@given(fs=RATES, n=st.integers(2, 9000), order=st.integers(1, 3), seed=st.integers(0, 99))
def test_whole_record_equals_scipy(fs, n, order, seed):
    pre = Preprocess(order=order)
    x = wander(n, seed=seed)
    got = process(x, fs, pre)
    assert got.shape == (n_out(n, fs, pre), 2) and got.dtype == np.float32
    np.testing.assert_allclose(got, plain(x, fs, pre), atol=1e-5, rtol=1e-6)


@quick
@given(fs=RATES, seconds=st.floats(25, 70), block=st.floats(.7, 30), seed=st.integers(0, 99),
       offset=st.sampled_from([0., -3e3, 1e4]))
def test_blocks_equal_the_whole(fs, seconds, block, seed, offset):
    x = wander(int(fs*seconds), seed=seed, offset=offset)
    whole = process(x, fs)
    blocks = in_blocks(x, fs, block)
    assert blocks.shape == whole.shape
    # 1e-6 mV where float32 can hold it, that is below 4 mV
    assert np.abs(blocks - whole).max() <= 1e-6*max(1, np.abs(whole).max()/4)


@quick
@given(data=st.data(), fs=st.sampled_from([977., 360., 250.]))
def test_blocks_equal_the_whole_across_gaps(data, fs):
    n = int(fs*60)
    x = wander(n, leads=3)
    for _ in range(data.draw(st.integers(1, 5))):
        lead, start = data.draw(st.integers(0, 2)), data.draw(st.integers(0, n - 1))
        length = data.draw(st.sampled_from([1, 5, 40, 500, 9000]))
        x[start:start + length, lead] = np.nan
    whole = process(x, fs)
    blocks = in_blocks(x, fs, data.draw(st.sampled_from([3., 11.3])))
    assert np.array_equal(np.isnan(whole), np.isnan(blocks))
    assert np.nanmax(np.abs(whole - blocks), initial=0) <= 1e-6


@quick
@given(gap=st.integers(1, 300), at=st.integers(2000, 5000))
def test_short_gaps_are_bridged_and_long_ones_stay_missing(gap, at):
    x, pre = wander(8000, 1), Preprocess(max_gap=.1)
    x[at:at + gap] = np.nan
    missing = np.isnan(process(x, 1000, pre)[:, 0])
    if gap <= 100:
        assert not missing.any()
    else:
        assert np.array_equal(np.flatnonzero(missing), np.arange((at - 1)//4 + 1, ceil_div(at + gap, 4)))


@quick
@given(fs=RATES, hz=st.floats(2, 40), phase=st.floats(-3, 3))
def test_a_sine_keeps_its_phase(fs, hz, phase):
    sine = np.cos(2*np.pi*hz*np.arange(int(40*fs))/fs + phase)
    y = process(sine[:, None], fs, Preprocess(notch=None))[:, 0]
    samples = np.arange(2500, 7500)
    found = (np.hanning(len(samples))*y[samples]*np.exp(-2j*np.pi*hz*samples/250)).sum()
    late = np.angle(found*np.exp(-1j*phase))/(2*np.pi*hz)*250
    assert abs(late) < .02  # samples at 250 Hz; half a sample would do for the annotations


@pytest.mark.parametrize('pre', [Preprocess(), Preprocess(order=3), Preprocess(band=(.05, 40.), notch=60.),
                                 Preprocess(band=(None, 40.)), Preprocess(band=None)])
def test_overlap_bounds_what_lies_beyond(pre):
    reach = overlap(pre)
    x = np.zeros(2*reach + 4001)
    x[reach + 2000] = 1
    kernel = np.abs(signal.sosfiltfilt(design(pre), x, padlen=0))
    assert 2*kernel[2*reach + 2001:].sum() < 2e-10
    if reach > 10:
        assert 2*kernel[reach + 2000 + reach//2:].sum() > 1e-10  # and it is no wild overestimate


def test_needed_is_within_the_record_and_enough():
    pre = Preprocess()
    x = wander(360*120)
    whole = process(x, 360., pre)
    for lo, hi in ((0, 10), (10000, 10500), (29000, 30000)):
        start, stop = needed(len(x), 360., pre, lo, hi)
        assert 0 <= start < stop <= len(x)
        piece = apply(np.ascontiguousarray(x[start:stop].T), start, 360., pre, lo, hi).T
        np.testing.assert_allclose(piece, whole[lo:hi], atol=1e-6)


def test_dc_never_reaches_the_output():
    y = process(np.full((977*20, 1), 5e3), 977)
    assert np.abs(y).max() < 1e-6


def test_quality_of_overlapping_windows_is_that_of_each():
    rng = np.random.default_rng(5)
    x = np.round(rng.normal(size=(3, 5000)).cumsum(1), 2)
    x[0, 1000:2200], x[1, 3000:3020], x[2, 4000:4003] = x[0, 1000], x[1].max() + 3, np.nan
    starts = np.arange(0, 4000, 300)
    together = quality(x, 500., starts, starts + 1000)
    for window, start in enumerate(starts):
        alone = quality(x[:, start:start + 1000], 500., [0], [1000])
        # a plateau that runs across the window's edge cannot be judged from inside
        alone['clipped'][0, 0] = together['clipped'][window, 0]
        for kind in together:
            np.testing.assert_array_equal(together[kind][window], alone[kind][0], err_msg=f'{kind} of window {window}')
    assert together['flat'][:, 0].any() and together['clipped'][:, 1].any() and together['missing'][:, 2].any()


@pytest.mark.parametrize('wrong', [{'fs': 0.}, {'band': (0., 40.)}, {'band': (40., 1.)}, {'notch': 300.}, {'order': 0},
                                   {'pad': -1.}])
def test_contradictions_are_refused(wrong):
    with pytest.raises(DataError, match='Preprocess'):
        Preprocess(**wrong)
