"""RhythmNet beside networks of other packages, on the same batches and threads.

    python benchmarks/network.py [--threads 2]

Training (forward, backward, AdamW; batch 64) and inference (batch 1 and 64; p50 and p95) in windows a second, parameters,
multiply-adds, and the share of the machine's peak (the best rate of a large float32 matrix product in the same run) that
training reaches; RhythmNet by torch.compile too (needs a C++ compiler). Networks take turns, so a busy machine slows all of them alike. The peers need the `bench` extra;
without it only RhythmNet is measured. Inputs are random: this is about speed.
"""
import argparse
import time
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from _results import met, record, versions

from pediatric_ecg.nn.encoders import multiply_adds
from pediatric_ecg.nn.rhythmnet import RhythmNet, RhythmNetConfig

CASES = {'5 s, 1+1 leads': ({'lead1': 1, 'lead2': 1}, 1250), '2 s, 12+7 leads': ({'ecg': 12, 'iegm': 7}, 500)}
CLASSES = 9


class Stacked(torch.nn.Module):
    "A peer that takes all leads stacked in one tensor."

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        out = self.net(torch.cat(list(x.values()), 1))
        return out[0] if isinstance(out, tuple) else out


class Ours(torch.nn.Module):
    "RhythmNet with the logits alone."

    def __init__(self, leads, length):
        super().__init__()
        self.net = RhythmNet(RhythmNetConfig(leads, CLASSES, seconds=length / 250))

    def forward(self, x): return self.net(x).logits


def networks(leads, length):
    "Name to network; peers only where they are installed."
    n, nets = sum(leads.values()), {'RhythmNet': Ours(leads, length), 'RhythmNet, compiled': torch.compile(Ours(leads, length))}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            from deepecgkit.models import CRNN, InceptionTime1D, ResNet1D  # TransformerECG attends over single samples: gigabytes for 64 windows
            for cls in (ResNet1D, InceptionTime1D, CRNN): nets[f'deepecgkit {cls.__name__}'] = Stacked(cls(input_channels=n, output_size=CLASSES))
        except ImportError as e: print(f'deepecgkit is not there ({e}): pip install -e .[bench]')
        try:
            from torch_ecg.models import ECG_CRNN
            nets['torch_ecg ECG_CRNN'] = Stacked(ECG_CRNN(classes=[str(c) for c in range(CLASSES)], n_leads=n))
        except ImportError as e: print(f'torch_ecg is not there ({e}); it needs pandas < 3: pip install torch_ecg in an environment of its own')
    return nets


def timed(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def trainer(net, x, y):
    opt = torch.optim.AdamW(net.parameters(), fused=True)

    def step():
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        opt.step()
    return step


def measure(nets, x, rounds, train):
    "Seconds of each network, measured in turns: name to (rounds,) array."
    y = torch.zeros(len(next(iter(x.values()))), dtype=torch.long)
    steps = {name: trainer(net.train(), x, y) if train else (lambda net=net.eval(): net(x)) for name, net in nets.items()}
    with torch.set_grad_enabled(train):
        for step in steps.values(): step()   # compiled, caches filled
        first = {name: timed(step) for name, step in steps.items()}
        quick = {name: step for name, step in steps.items() if first[name] < 3}   # the others keep their first time
        times = [{name: timed(step) for name, step in quick.items()} for _ in range(rounds)]
    return {name: np.array([t[name] for t in times]) if name in quick else np.array([first[name]]) for name in nets}


def peak(n=1024, rounds=8):
    "Multiply-adds a second of the best of some large matrix products."
    a = torch.randn(n, n)
    return n**3 / min(timed(lambda: a @ a) for _ in range(rounds))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--threads', type=int, default=2)
    args.add_argument('--rounds', type=int, default=10)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    top, used = peak(), versions('torch', 'deepecgkit', 'torch_ecg')
    print(f'{args.threads} threads, peak of a matrix product {top/1e9:.0f} G multiply-adds a second')
    for case, (leads, length) in CASES.items():
        torch.manual_seed(0)
        batch = {m: torch.randn(64, k, length) for m, k in leads.items()}
        one, nets = {m: v[:1] for m, v in batch.items()}, networks(leads, length)
        training, many, single = measure(nets, batch, args.rounds, True), measure(nets, batch, args.rounds, False), measure(nets, one, 3*args.rounds, False)
        print(f'\n{case}\n{"network":28}{"params":>9}{"M mult-adds":>12}{"train/s":>9}{"of peak":>9}{"infer/s":>9}{"B=64 p50, p95 ms":>19}{"B=1 p50, p95 ms":>18}')
        rate = {}
        for name, net in nets.items():
            try: work = multiply_adds(getattr(net, '_orig_mod', net), one)['Global']
            except (RuntimeError, TypeError): work = float('nan')   # a network that the counter cannot follow
            rate[name] = 64 / np.median(training[name])
            p = [1e3*np.percentile(t[name], q) for t in (many, single) for q in (50, 95)]
            print(f'{name:28}{sum(q.numel() for q in net.parameters()):9,}{work/1e6:12.1f}{rate[name]:9.0f}{3*work*rate[name]/top:9.0%}'
                  f'{64/np.median(many[name]):9.0f}{p[0]:10.1f}{p[1]:9.1f}{p[2]:9.1f}{p[3]:9.1f}')
        record(f'network: training windows a second, {case}, compiled', rate['RhythmNet, compiled'], rate['RhythmNet'], 1., 'higher', 'windows/s', 'the same network, eager', used)
        for peer in ('deepecgkit ResNet1D', 'deepecgkit InceptionTime1D'):
            if peer in rate:
                row = record(f'network: training windows a second, {case}, against {peer}', rate['RhythmNet'], rate[peer], 5., 'higher', 'windows/s', peer, used)
                print(f"{peer}: {row['ratio']}x, target 5x: {'met' if met(row) else 'missed'}")


if __name__ == '__main__': main()
