"""A published rule for atrial fibrillation on the records of mitdb, and the reference as spans.

    python benchmarks/rr_rule.py RECORDS

The rule is that of Zhou, Ding, Wu and Zhang (2015), A real-time atrial fibrillation detection algorithm based on the
instantaneous state of heart rate, PLoS ONE 10(9): e0136544: heart rate in steps of 5 per minute, words of three beats,
Shannon entropy of 127 words, threshold 0.639. The authors chose the threshold on another database and report for the
MIT-BIH Arrhythmia Database a sensitivity of 97.83 %, a specificity of 87.41 % and a positive predictive value of
47.67 %, by beats; what the rule gives here is printed beside. No package that is kept up holds such a detector, so the
rule is written down here.

It is given the beats that cardiologists marked, which is the best case for it. Writes reference.csv
and rr_rule.csv into nbs/results/annotate/.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from pediatric_ecg.core import replacing
from pediatric_ecg.data.annotations import read_annotations
from pediatric_ecg.data.databases import MITDB
from pediatric_ecg.data.headers import read_header, record_paths
from pediatric_ecg.data.rhythms import all_segments, group

OUT = Path(__file__).resolve().parents[1] / "nbs/results/annotate"
WORDS = 127
THRESHOLD = 0.639
BEATS = set("NLRBAaJSVrFejnE/fQ?")


def entropies(intervals):
    "(n,) s → (n,) normalised entropy of the 127 words that end at each interval; NaN before there are so many."
    symbols = np.minimum(60 / np.asarray(intervals) // 5, 63).astype(int)
    words = symbols[:-2] * 4096 + symbols[1:-1] * 64 + symbols[2:]
    found = np.full(len(intervals), np.nan)
    for last in range(WORDS, len(words) + 1):
        _, counts = np.unique(words[last - WORDS : last], return_counts=True)
        share = counts / WORDS
        entropy = -(share * np.log2(share)).sum()
        found[last + 1] = len(counts) / (WORDS * np.log2(WORDS)) * entropy
    return found


def spans_of(times, is_af):
    "Runs of beats as spans; a span begins with its first beat and ends with the beat after its last."
    edges = np.flatnonzero(np.diff(np.r_[0, is_af.astype(int), 0]))
    return [(times[first], times[min(stop, len(times) - 1)]) for first, stop in zip(edges[::2], edges[1::2])]


def main(folder):
    folder = Path(folder)
    reference = group(all_segments(folder, MITDB), MITDB)
    fs = 360.0
    spans = reference.assign(start_s=(reference.start / fs).round(4), end_s=(reference.end / fs).round(4))
    columns = ["record", "subject", "start_s", "end_s", "label"]
    spans = spans[columns].rename(columns={"label": "rhythm"})
    rows, beats = [], []
    for path in record_paths(folder, MITDB):
        seconds = read_header(path).seconds
        marks = read_annotations(path, MITDB)
        times = marks["sample"][marks.symbol.isin(BEATS)].to_numpy() / fs
        entropy = entropies(np.maximum(np.diff(times), 1e-3))
        # the words end at an interval; their middle lies 64 beats earlier
        middle = np.full(len(times), np.nan)
        middle[: len(entropy) - WORDS // 2] = entropy[WORDS // 2 :]
        known = np.flatnonzero(np.isfinite(middle))
        filled = np.interp(np.arange(len(times)), known, (middle >= THRESHOLD)[known]) >= 0.5
        rows += [(path.name, seconds, *span) for span in spans_of(times, filled)]
        of_record = spans[spans.record == path.name]
        place = np.searchsorted(of_record.start_s.to_numpy(), times, side="right") - 1
        truth = of_record.rhythm.to_numpy()[np.maximum(place, 0)] == "AFIB"
        beats.append(pd.DataFrame({"truth": truth, "found": filled}))
    beats = pd.concat(beats)
    right = (beats.truth & beats.found).sum()
    print(f"by beats: sensitivity {right / beats.truth.sum():.2%}, specificity "
          f"{(~beats.truth & ~beats.found).sum() / (~beats.truth).sum():.2%}, "
          f"positive predictive value {right / beats.found.sum():.2%}; published 97.83, 87.41, 47.67 %")
    OUT.mkdir(parents=True, exist_ok=True)
    found = pd.DataFrame(rows, columns=["record", "seconds", "start_s", "end_s"]).round(4)
    for name, table in (("reference", spans), ("rr_rule", found)):
        with replacing(OUT / f"{name}.csv") as aside:
            table.to_csv(aside, index=False)


if __name__ == "__main__":
    main(sys.argv[1])
