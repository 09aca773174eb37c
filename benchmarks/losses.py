"""Forward plus backward of AGCACL against its rivals: `python benchmarks/losses.py [--quick]`.

Every loss gets the same unit-free embeddings (float32, d = 128) and labels; a run is one forward and one backward
to the embeddings (and to the loss's own proxies, where it has some). The losses take turns, so that whatever else the
machine does meets all of them alike; a turn is three runs, of which the first fills the caches and is not counted, and
the median of the others is reported. On a CPU it is the processor time of one thread, which other processes do not
lengthen; on a GPU it is wall time, and the embeddings are bfloat16.
"""
import argparse
import json
import statistics
import time

import torch
from _results import record, versions
from pytorch_metric_learning import losses as pml

from pediatric_ecg.losses.agcacl import AGCACL
from pediatric_ecg.losses.contrastive import BCL, PaCo
from pediatric_ecg.losses.agcacl_patients import PatientAGCACL

DIM, PATIENTS = 128, 30


def long_tail(n_classes: int, n: int, seed: int):
    "Counts that fall from 10,000 to 100, and labels drawn from them."
    counts = torch.logspace(4, 2, n_classes).round()
    return counts, torch.multinomial(counts, n, replacement=True, generator=torch.Generator().manual_seed(seed))


def rivals(counts, device) -> dict:
    "Name → a function of (z, y) that returns the loss; each in training mode."
    C, proxy, circle, supcon = len(counts), pml.ProxyAnchorLoss(len(counts), DIM), pml.CircleLoss(), pml.SupConLoss(temperature=.1)
    head, paco = torch.nn.Linear(DIM, C), PaCo(counts, DIM)
    fs = {'AGCACL': AGCACL(counts, DIM), 'BCL': BCL(counts, DIM), 'ProxyAnchor': proxy, 'SupCon': supcon, 'Circle': circle}
    patients, who = PatientAGCACL(counts, DIM, PATIENTS), torch.arange(1024, device=device) % PATIENTS
    for f in [*fs.values(), head, paco, patients]: f.to(device)
    return {**fs, 'patients': lambda z, y: patients(z, y, patient=who[:len(y)]), 'CE': lambda z, y: torch.nn.functional.cross_entropy(head(z.float()), y),
            'PaCo': lambda z, y: paco(head(z.float()), z, y)}


def step(f, z, y, sync):
    "Seconds of one forward and backward."
    clock = time.perf_counter if z.is_cuda else time.process_time
    z = z.detach().requires_grad_()
    sync(); t = clock()
    f(z, y).backward()
    sync(); return clock() - t


def measure(n_classes: int, batch: int, turns: int, device: str) -> dict[str, float]:
    "Median milliseconds of each loss."
    counts, y = long_tail(n_classes, batch, seed=batch)
    torch.manual_seed(0)
    z, y = torch.randn(batch, DIM, device=device, dtype=torch.bfloat16 if device == 'cuda' else torch.float32), y.to(device)
    sync = torch.cuda.synchronize if device == 'cuda' else lambda: None
    fs = rivals(counts, device)
    for f in fs.values(): step(f, z, y, sync); step(f, z, y, sync)
    times = {k: [] for k in fs}
    for _ in range(turns):
        for k, f in fs.items(): times[k] += [step(f, z, y, sync) for _ in range(3)][1:]
    return {k: 1e3*statistics.median(v) for k, v in times.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--quick', action='store_true', help='fewer turns, nothing recorded')
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    a = p.parse_args()
    torch.set_num_threads(1)
    v = versions('torch', 'pytorch-metric-learning') | {'threads': str(torch.get_num_threads()), 'device': a.device}
    names = ['AGCACL', 'patients', 'CE', 'ProxyAnchor', 'BCL', 'PaCo', 'SupCon', 'Circle']
    print(json.dumps(v)); print('median ms    C     B ' + ''.join(f'{n:>12s}' for n in names))
    on = '' if a.device == 'cpu' else f' {a.device} bf16'
    for C in (9, 100):
        for B in (64, 128, 256, 512, 1024):
            ms = measure(C, B, 3 if a.quick else 30 if B < 512 else 12, a.device)
            print(f'          {C:4d} {B:5d} ' + ''.join(f'{ms[n]:12.3f}' for n in names), flush=True)
            if a.quick: continue
            at = f'C {C}, B {B}{on}'
            record(f'AGCACL vs ProxyAnchor, {at}', ms['AGCACL'], ms['ProxyAnchor'], 1, 'lower', 'ms forward+backward', 'pytorch-metric-learning ProxyAnchorLoss', v)
            record(f'PatientAGCACL vs ProxyAnchor, {at}', ms['patients'], ms['ProxyAnchor'], 1, 'lower', 'ms forward+backward', 'pytorch-metric-learning ProxyAnchorLoss', v)
            if B == 512: record(f'AGCACL vs SupCon, {at}', ms['AGCACL'], ms['SupCon'], .1, 'lower', 'ms forward+backward', 'pytorch-metric-learning SupConLoss', v)


if __name__ == '__main__': main()
