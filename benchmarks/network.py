"""RhythmNet beside networks of other packages, on the same batches and threads.

    python benchmarks/network.py [--threads 2]

Training (forward, backward, AdamW; batch 64) and inference (batch 1 and 64; p50 and p95) in windows per second,
parameters, multiply-adds, and the share of the machine's peak (the best rate of a large float32 matrix product in the
same run) that training reaches; RhythmNet by torch.compile too (needs a C++ compiler). Networks take turns, so a busy
machine slows all of them alike. The peers need the `bench` extra; without it only RhythmNet is measured. Inputs are
random: this is about speed.
"""
import argparse
import time
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from _results import met, record, versions

from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
from pediatric_ecg.nn.encoders import multiply_adds

CASES = {
    '5 s, 1+1 leads': ({'lead1': 1, 'lead2': 1}, 1250),
    '2 s, 12+7 leads': ({'ecg': 12, 'iegm': 7}, 500),
}
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
        self.net = RhythmNet(RhythmNetConfig(leads, CLASSES, seconds=length/250))

    def forward(self, x):
        return self.net(x).logits


def networks(leads, length):
    "Name to network; peers only where they are installed."
    num_leads = sum(leads.values())
    nets = {'RhythmNet': Ours(leads, length), 'RhythmNet, compiled': torch.compile(Ours(leads, length))}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            # TransformerECG is left out: it attends over single samples, which takes gigabytes for 64 windows
            from deepecgkit.models import CRNN, InceptionTime1D, ResNet1D
            for peer in (ResNet1D, InceptionTime1D, CRNN):
                nets[f'deepecgkit {peer.__name__}'] = Stacked(peer(input_channels=num_leads, output_size=CLASSES))
        except ImportError as error:
            print(f'deepecgkit is not there ({error}): pip install -e .[bench]')
        try:
            from torch_ecg.models import ECG_CRNN
            classes = [str(number) for number in range(CLASSES)]
            nets['torch_ecg ECG_CRNN'] = Stacked(ECG_CRNN(classes=classes, n_leads=num_leads))
        except ImportError as error:
            print(f'torch_ecg is not there ({error}); it needs pandas < 3: '
                  'pip install torch_ecg in an environment of its own')
    return nets


def timed(function):
    "Seconds of one call."
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def trainer(net, x, labels):
    "A training step of a network, as a function of nothing."
    net.train()
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)

    def step():
        optimiser.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimiser.step()
    return step


def predictor(net, x):
    "A forward pass of a network, as a function of nothing."
    net.eval()

    def step():
        net(x)
    return step


def measure(nets, x, rounds, train):
    "Seconds of each network, measured in turns: name to (rounds,) array."
    labels = torch.zeros(len(next(iter(x.values()))), dtype=torch.long)
    steps = {name: trainer(net, x, labels) if train else predictor(net, x) for name, net in nets.items()}
    with torch.set_grad_enabled(train):
        for step in steps.values():   # compiled, caches filled
            step()
        times = {name: [timed(step)] for name, step in steps.items()}
        quick = [name for name in steps if times[name][0] < 3]   # the others keep their first time
        for name in quick:
            times[name] = []
        for _ in range(rounds):
            for name in quick:
                times[name].append(timed(steps[name]))
    return {name: np.array(seconds) for name, seconds in times.items()}


def peak(size=1024, rounds=8):
    "Multiply-adds per second of the best of some large matrix products."
    matrix = torch.randn(size, size)
    return size**3/min(timed(lambda: matrix @ matrix) for _ in range(rounds))


def work_of(net, window):
    "Multiply-adds of one window; nan for a network that the counter cannot follow."
    try:
        return multiply_adds(getattr(net, '_orig_mod', net), window)['Global']
    except (RuntimeError, TypeError):
        return float('nan')


def compare(case, leads, length, rounds, top):
    "Measure all networks on one kind of windows and print a table; training windows per second, by name."
    torch.manual_seed(0)
    batch = {name: torch.randn(64, num_leads, length) for name, num_leads in leads.items()}
    one = {name: windows[:1] for name, windows in batch.items()}
    nets = networks(leads, length)
    training = measure(nets, batch, rounds, True)
    many = measure(nets, batch, rounds, False)
    single = measure(nets, one, 3*rounds, False)
    print(f'\n{case}\n{"network":28}{"params":>9}{"M mult-adds":>12}{"train/s":>9}{"of peak":>9}{"infer/s":>9}'
          f'{"B=64 p50, p95 ms":>19}{"B=1 p50, p95 ms":>18}')
    rates = {}
    for name, net in nets.items():
        work = work_of(net, one)
        parameters = sum(parameter.numel() for parameter in net.parameters())
        rates[name] = 64/np.median(training[name])
        many_50, many_95 = 1e3*np.percentile(many[name], [50, 95])
        single_50, single_95 = 1e3*np.percentile(single[name], [50, 95])
        print(f'{name:28}{parameters:9,}{work/1e6:12.1f}{rates[name]:9.0f}{3*work*rates[name]/top:9.0%}'
              f'{64/np.median(many[name]):9.0f}{many_50:10.1f}{many_95:9.1f}{single_50:9.1f}{single_95:9.1f}')
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    top, used = peak(), versions('torch', 'deepecgkit', 'torch_ecg')
    print(f'{args.threads} threads, peak of a matrix product {top/1e9:.0f} G multiply-adds per second')
    for case, (leads, length) in CASES.items():
        rates = compare(case, leads, length, args.rounds, top)
        # names of the rows as they stand in results.json
        row_name = f'network: training windows a second, {case}'
        record(f'{row_name}, compiled', rates['RhythmNet, compiled'], rates['RhythmNet'], 1., 'higher', 'windows/s',
               'the same network, eager', used)
        for peer in ('deepecgkit ResNet1D', 'deepecgkit InceptionTime1D'):
            if peer in rates:
                row = record(f'{row_name}, against {peer}', rates['RhythmNet'], rates[peer], 5., 'higher', 'windows/s',
                             peer, used)
                print(f"{peer}: {row['ratio']}x, target 5x: {'met' if met(row) else 'missed'}")


if __name__ == '__main__':
    main()
