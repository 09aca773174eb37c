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

from pediatric_ecg.losses import AGCACL, BCL, PaCo, PatientAGCACL

DIM, PATIENTS = 128, 30
UNIT = 'ms forward+backward'
NAMES = ['AGCACL', 'patients', 'CE', 'ProxyAnchor', 'BCL', 'PaCo', 'SupCon', 'Circle']


def long_tail(n_classes: int, n: int, seed: int):
    "Counts that fall from 10,000 to 100, and labels drawn from them."
    counts = torch.logspace(4, 2, n_classes).round()
    return counts, torch.multinomial(counts, n, replacement=True, generator=torch.Generator().manual_seed(seed))


def rivals(counts, device) -> dict:
    "Name → a function of (z, y) that returns the loss; each in training mode."
    n_classes = len(counts)
    head, paco, by_patient = torch.nn.Linear(DIM, n_classes), PaCo(counts, DIM), PatientAGCACL(counts, DIM, PATIENTS)
    patient = torch.arange(1024, device=device) % PATIENTS
    losses = {
        'AGCACL': AGCACL(counts, DIM),
        'BCL': BCL(counts, DIM),
        'ProxyAnchor': pml.ProxyAnchorLoss(n_classes, DIM),
        'SupCon': pml.SupConLoss(temperature=.1),
        'Circle': pml.CircleLoss(),
    }
    for loss in [*losses.values(), head, paco, by_patient]:
        loss.to(device)

    def cross_entropy(z, y):
        return torch.nn.functional.cross_entropy(head(z.float()), y)

    def patients(z, y):
        return by_patient(z, y, patient=patient[:len(y)])

    def with_logits(z, y):
        return paco(head(z.float()), z, y)

    return {**losses, 'patients': patients, 'CE': cross_entropy, 'PaCo': with_logits}


def step(loss, z, y, wait) -> float:
    "Seconds of one forward and backward."
    clock = time.perf_counter if z.is_cuda else time.process_time
    z = z.detach().requires_grad_()
    wait()
    start = clock()
    loss(z, y).backward()
    wait()
    return clock() - start


def measure(n_classes: int, batch: int, turns: int, device: str) -> dict[str, float]:
    "Median milliseconds of each loss."
    counts, y = long_tail(n_classes, batch, seed=batch)
    torch.manual_seed(0)
    z = torch.randn(batch, DIM, device=device, dtype=torch.bfloat16 if device == 'cuda' else torch.float32)
    y = y.to(device)
    wait = torch.cuda.synchronize if device == 'cuda' else lambda: None
    losses = rivals(counts, device)
    for loss in losses.values():
        step(loss, z, y, wait)
        step(loss, z, y, wait)
    times = {name: [] for name in losses}
    for _ in range(turns):
        for name, loss in losses.items():
            times[name] += [step(loss, z, y, wait) for _ in range(3)][1:]
    return {name: 1e3*statistics.median(values) for name, values in times.items()}


def record_rows(ms: dict[str, float], n_classes: int, batch: int, where: str, found: dict) -> None:
    "Ours beside ProxyAnchor at every size, beside SupCon at a batch of 256."
    at = f'C {n_classes}, B {batch}{where}'
    rows = [
        ('AGCACL', 'AGCACL', 'ProxyAnchor', 1),
        ('PatientAGCACL', 'patients', 'ProxyAnchor', 1),
    ]
    if batch == 256:
        rows.append(('AGCACL', 'AGCACL', 'SupCon', .3))
    for title, ours, peer, target in rows:
        record(f'{title} vs {peer}, {at}', ms[ours], ms[peer], target, 'lower', UNIT,
               f'pytorch-metric-learning {peer}Loss', found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='fewer turns, nothing recorded')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = versions('torch', 'pytorch-metric-learning')
    found |= {'threads': str(torch.get_num_threads()), 'device': options.device}
    print(json.dumps(found))
    print('median ms    C     B ' + ''.join(f'{name:>12s}' for name in NAMES))
    where = '' if options.device == 'cpu' else f' {options.device} bf16'
    for n_classes in (9, 100):
        for batch in (32, 64, 128, 256, 512, 1024):
            turns = 3 if options.quick else 30 if batch < 512 else 12
            ms = measure(n_classes, batch, turns, options.device)
            row = ''.join(f'{ms[name]:12.3f}' for name in NAMES)
            print(f'          {n_classes:4d} {batch:5d} {row}', flush=True)
            if not options.quick:
                record_rows(ms, n_classes, batch, where, found)


if __name__ == '__main__':
    main()
