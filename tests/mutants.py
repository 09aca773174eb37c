"""Mutation tests: the package is changed in one place, and the tests must notice.

    python tests/mutants.py                      # `make mutants`: 40 mutants for each group, each time the same ones
    python tests/mutants.py --only splits,audit  # some groups
    python tests/mutants.py --again              # once more those that survived, after tests were added
    python tests/mutants.py --table              # only the table of what is known

A mutant is a comparison, an operator, a number, a truth value, a boundary of a slice, a condition, a returned value or
a called statement that is another one. Texts, figures and messages of errors are left alone. The tests are collected
once, in a process that computes nothing. Each mutant is a fork of it: there the code object of one function is
exchanged in place, and the tests that call this function run, the quick ones first, then the examples of its notebook.
A failed test, a crash and a time limit kill the mutant. `tests/mutants.csv` keeps each result, with the reason
why a survivor may live; a result holds as long as the source of its function stays what it was.
"""
import argparse
import ast
import builtins
import copy
import hashlib
import importlib
import inspect
import json
import os
import pickle
import resource
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("mutants.csv")
COLUMNS = ["group", "module", "function", "source", "change", "number", "before", "after", "result", "reason"]
KEY = ["module", "function", "source", "change", "number"]
TARGET = 0.85  # of the mutants of each group are killed
GROUPS = {  # modules, and the test files that are about them
    "losses": (
        ["losses.geometry", "losses.logits", "losses.contrastive", "losses.agcacl", "losses.agcacl_patients",
         "losses.objectives"], ["losses", "agcacl"]),
    "splits": (["splits.folds", "splits._assign", "splits.split"], ["splits", "audit"]),
    "audit": (["splits.audit"], ["audit", "splits"]),
    "rhythms": (["data.rhythms"], ["rhythms", "annotations", "cases"]),
    "windows": (
        ["windows._resample", "windows.signals", "windows.quality", "windows.store", "windows.views", "windows.leads",
         "windows.copies", "windows.flow", "windows.prepare"], ["windows", "signals", "copies", "numerics"]),
    "scores": (["evaluate.scores"], ["evaluation", "calibration"]),
}
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.And: ast.Or,
    ast.Or: ast.And, ast.Break: ast.Continue, ast.Continue: ast.Break}


# ── mutants ──


@dataclass(frozen=True)
class Mutant:
    "One change of one function."

    group: str
    module: str  # without the name of the package
    function: str  # qualified name of the outermost function
    source: str  # short hash of its source
    change: str  # kind
    number: int  # of its kind in the function
    before: str
    after: str

    @property
    def key(self):
        return tuple(str(getattr(self, name)) for name in KEY)


def changes(node):
    "Kind and new node of each change that can be made to a node."
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield "comparison", ast.Compare(node.left, [COMPARISONS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield "operator", ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        yield "operator", ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value)
    elif isinstance(node, ast.BoolOp):
        yield "and, or", ast.BoolOp(OPERATORS[type(node.op)](), node.values)
    elif isinstance(node, ast.UnaryOp):
        yield "sign", node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "truth value", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield "number", ast.Constant(node.value + 1)
    elif isinstance(node, ast.Slice):
        for name in ("lower", "upper"):
            bound = getattr(node, name)
            if bound is not None and not isinstance(bound, ast.Constant):
                parts = {"lower": node.lower, "upper": node.upper, "step": node.step}
                yield "slice", ast.Slice(**{**parts, name: ast.BinOp(bound, ast.Add(), ast.Constant(1))})
    elif isinstance(node, (ast.If, ast.IfExp)):
        changed = copy.copy(node)
        changed.test = ast.UnaryOp(ast.Not(), node.test)
        yield "condition", changed
    elif isinstance(node, (ast.Break, ast.Continue)):
        yield "break, continue", OPERATORS[type(node)]()
    elif isinstance(node, ast.Return) and not (node.value is None or getattr(node.value, "value", 0) is None):
        yield "return", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "statement", ast.Pass()


def places(node):
    "Parent, field and index of every node inside a node, in order; no annotations, messages, decorators, docstrings."
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or isinstance(node, (ast.Raise, ast.JoinedStr)):
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                yield node, field, index if isinstance(value, list) else None
                yield from places(child)


def put(parent, field, index, new):
    "Replace a node in its parent."
    if index is None:
        setattr(parent, field, new)
    else:
        getattr(parent, field)[index] = new


def functions(tree, prefix=""):
    "Qualified name and node of each function of a module and of its classes; not those that draw or only describe."
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith(("plot", "__repr__", "_plot", "_repr")):
            yield prefix + node.name, node


def variants(function):
    "Kind, number, before, after and the changed function, for each change of a function."
    counts = {}
    for position, (parent, field, index) in enumerate(places(function)):
        node = getattr(parent, field) if index is None else getattr(parent, field)[index]
        for kind, new in changes(node):
            number = counts[kind] = counts.get(kind, 0) + 1
            changed = copy.deepcopy(function)
            where, place, at = list(places(changed))[position]
            put(where, place, at, copy.deepcopy(new))
            line = next(ast.unparse(part) for part in (node, parent, function) if hasattr(part, "lineno"))
            after = ast.unparse(ast.fix_missing_locations(new))
            yield kind, number, line.split("\n")[0], after.split("\n")[0], ast.fix_missing_locations(changed)


def source_of(module):
    "Syntax tree of a module of the package."
    return ast.parse((ROOT / "pediatric_ecg" / f"{module.replace('.', '/')}.py").read_text())


def mutants_of(group):
    "All mutants of a group, in the order in which they are drawn: that of a hash, so that more of them hold the fewer."
    found = []
    for module in GROUPS[group][0]:
        for name, function in functions(source_of(module)):
            source = hashlib.sha256(ast.unparse(function).encode()).hexdigest()[:8]
            for kind, number, before, after, _ in variants(function):
                found.append(Mutant(group, module, name, source, kind, number, before, after))
    return sorted(found, key=lambda mutant: hashlib.sha256(repr(mutant.key).encode()).digest())


# ── in a fork ──


def find(module, name):
    "The function of a qualified name, without what is wrapped around it; None where there is none."
    found = importlib.import_module(f"pediatric_ecg.{module}")
    for part in name.split("."):
        found = inspect.getattr_static(found, part, None)
    while not inspect.isfunction(found) or hasattr(found, "__wrapped__"):
        inner = [getattr(found, part, None) for part in ("fget", "__func__", "func", "__wrapped__")]
        found = next((one for one in inner if one is not None), None)
        if found is None:
            return None
    return found


def code_named(code, name):
    "The code object of a qualified name among those that a code object holds."
    for constant in code.co_consts:
        if inspect.iscode(constant):
            if constant.co_qualname == name:
                return constant
            found = code_named(constant, name)
            if found is not None:
                return found
    return None


def put_code(tree, module, names):
    "Put the code of a changed module into the place of that of its functions, for this process."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a changed comparison may be one that Python calls odd
        compiled = compile(ast.fix_missing_locations(tree), f"{module}.py", "exec")
    for name in names:
        find(module, name).__code__ = code_named(compiled, name)


def exchange(mutant):
    "Put the mutant into the place of its function."
    tree = source_of(mutant.module)
    function = dict(functions(tree))[mutant.function]
    changed = next(
        tree for kind, number, _, _, tree in variants(function) if (kind, number) == (mutant.change, mutant.number))
    defaults = [[node for node in each.args.defaults + each.args.kw_defaults if node is not None]
                for each in (function, changed)]
    function.body, function.args = changed.body, changed.args
    put_code(tree, mutant.module, [mutant.function])
    real = find(mutant.module, mutant.function)
    values = [*(real.__defaults__ or ()), *(real.__kwdefaults__ or {}).values()]
    for position, (before, after) in enumerate(zip(*defaults, strict=True)):
        if ast.dump(before) != ast.dump(after):
            values[position] = eval(ast.unparse(after), vars(sys.modules[real.__module__]))
    number = len(real.__defaults__ or ())
    real.__defaults__ = tuple(values[:number]) or None
    real.__kwdefaults__ = dict(zip(real.__kwdefaults__ or {}, values[number:], strict=True)) or None


def note_calls(modules):
    "Have every function of some modules note that it is called. Returns the set into which they write."
    called = set()
    for module in modules:
        tree = source_of(module)
        names = [name for name, _ in functions(tree) if find(module, name) is not None]
        for name, function in functions(tree):
            function.body[:0] = ast.parse(f"called_functions_.add(({module!r}, {name!r}))").body
        vars(importlib.import_module(f"pediatric_ecg.{module}"))["called_functions_"] = called
        put_code(tree, module, names)
    return called


def in_fork(work, seconds=None):
    "What `work` returns in a fork of this process; None where it ended in another way, or took too long."
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(read)
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(silence, stream)
            if seconds is not None:
                signal.signal(signal.SIGXCPU, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(int(8*seconds) + 60)  # where it waits for something
            result = pickle.dumps(work())
            with open(write, "wb") as stream:
                stream.write(result)
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as stream:
        result = stream.read()
    os.waitpid(pid, 0)
    return pickle.loads(result) if result else None


def run_items(items, stop=True, called=()):
    "Run tests. Returns name → (passed, seconds of processor time, functions called); stops at the first that fails."
    results, failed = {}, []

    class Listener:
        def pytest_runtest_logreport(self, report):
            if report.failed:
                failed.append(report.nodeid)

    items[0].config.pluginmanager.register(Listener())
    for item, following in zip(items, [*items[1:], None], strict=True):
        begin = time.process_time()
        if called:
            called.clear()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        results[item.nodeid] = (item.nodeid not in failed, time.process_time() - begin, set(called))
        if failed and stop:
            break
    return results


# ── the tests ──


class Mutants:
    "A plugin of pytest that runs the collected tests on mutants instead of once."

    def __init__(self, group, mutants, keep):
        self.group, self.mutants, self.keep = group, mutants, keep

    def pytest_configure(self, config):
        from hypothesis import Phase, settings  # pytest wants to be the first that imports it

        settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None, derandomize=True)
        settings.load_profile("mutants")

    def pytest_generate_tests(self, metafunc):
        if metafunc.function.__name__ == "test_examples_of":
            notebooks = [notebook_of(module) for module in GROUPS[self.group][0]]
            metafunc.parametrize("notebook", notebooks, ids=[notebook.stem for notebook in notebooks])

    def pytest_runtestloop(self, session):
        modules = GROUPS[self.group][0]
        whole = in_fork(lambda: run_items(session.items, stop=False, called=note_calls(modules)))
        assert whole is not None, "the tests end the process although nothing is changed"
        for name, (passed, seconds, _) in whole.items():
            if not passed:
                print(f"  left out, since it fails although nothing is changed: {name}", flush=True)
            elif seconds > 20:
                print(f"  {name} takes {seconds:.0f} s", flush=True)
        for mutant in self.mutants:
            concerned = []
            for item in session.items:
                passed, seconds, called = whole[item.nodeid]
                if passed and (mutant.module, mutant.function) in called:
                    concerned.append((item.originalname == "test_examples_of", item.path, seconds, item))
            by_file = pd.Series({}, dtype=float)
            for is_example, path, seconds, _ in concerned:
                by_file[path] = by_file.get(path, 0) + seconds
            concerned.sort(key=lambda one: (one[0], by_file[one[1]], str(one[1]), one[2]))
            begin = time.monotonic()
            result = self.fate([item for *_, item in concerned], 5*sum(one[2] for one in concerned) + 10, mutant)
            self.keep(mutant, result, time.monotonic() - begin)
        return True

    def fate(self, items, seconds, mutant):
        "How a mutant ends."
        if not items:
            return "survived: no test calls the function"

        def work():
            exchange(mutant)
            return run_items(items)

        results = in_fork(work, seconds)
        if results is None:
            return "killed: crash or time limit"
        killers = [name for name, (passed, *_) in results.items() if not passed]
        return f"killed: {killers[0].removeprefix('tests/')}" if killers else "survived"


def notebook_of(module):
    "The notebook from which a module is exported."
    line = (ROOT / "pediatric_ecg" / f"{module.replace('.', '/')}.py").read_text().partition("File to edit: ")[2]
    return ROOT / line.partition("nbs/")[1] / line.partition("nbs/")[2].splitlines()[0].rstrip(".").strip()


def test_examples_of(notebook, tmp_path, monkeypatch):
    "The cells of a notebook that are not exported, on the names of its module."
    cells = json.loads(notebook.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    default = next(source.split()[2] for source in sources if source.startswith("#| default_exp"))
    module = importlib.import_module(f"pediatric_ecg.{default}")
    names = {**vars(module), "__name__": module.__name__, "__builtins__": builtins, "display": lambda *_, **__: None}
    monkeypatch.chdir(notebook.parent)
    warnings.simplefilter("ignore")  # pytest sets it back; figures cannot be shown here
    for source in sources:
        directives = [line for line in source.splitlines() if line.startswith("#|")]
        if any(word in line for line in directives for word in ("export", "slow", "eval: false", "default_exp")):
            continue
        if "nbdev" in source or source.lstrip().startswith(("%", "!")):
            continue
        exec(compile(source, str(notebook), "exec"), names)


# ── all of it ──


def read_results():
    "The results that are kept."
    if not RESULTS.exists():
        return pd.DataFrame(columns=COLUMNS, dtype=str)
    return pd.read_csv(RESULTS, dtype=str, keep_default_na=False)


def table_of(results):
    "Per group: mutants, killed, share, survivors with a reason and without."
    rows = []
    for group, part in results.groupby("group", sort=False):
        killed = part.result.str.startswith("killed")
        explained = ~killed & (part.reason != "")
        rows.append({"group": group, "mutants": len(part), "killed": int(killed.sum()), "share": killed.mean(),
                     "explained": int(explained.sum()), "open": int((~killed & ~explained).sum())})
    return pd.DataFrame(rows, columns=["group", "mutants", "killed", "share", "explained", "open"])


def known(results, current):
    "The results whose mutants are still there."
    keys = {mutant.key for mutant in current}
    return results[[tuple(row) in keys for row in results[KEY].to_numpy()]] if len(results) else results


def run_group(group, number, again):
    "Run the mutants of a group that have no result yet. Returns how many were run."
    every = mutants_of(group)
    drawn = [mutant for mutant in every if find(mutant.module, mutant.function) is not None][:number]
    kept = read_results()
    kept = kept[kept.group.ne(group) | kept.index.isin(known(kept, every).index)]
    done = {tuple(row) for row in kept.loc[~(again & kept.result.str.startswith("survived")), KEY].to_numpy()}
    todo = [mutant for mutant in drawn if mutant.key not in done]
    if again:
        lived = {tuple(row) for row in kept.loc[kept.result.str.startswith("survived"), KEY].to_numpy()}
        todo = [mutant for mutant in every if mutant.key in lived]

    def keep(mutant, result, seconds):
        nonlocal kept
        same = (kept[KEY] == list(mutant.key)).all(axis=1)
        reason = "".join(kept.reason[same][:1]) if result.startswith("survived") else ""
        row = {**vars(mutant), "number": str(mutant.number), "result": result, "reason": reason}
        kept = pd.concat([kept[~same], pd.DataFrame([row], columns=COLUMNS)], ignore_index=True)
        kept.sort_values(["group", *KEY], ignore_index=True).to_csv(RESULTS, index=False, lineterminator="\n")
        print(f"{result.partition(':')[0]:8} {seconds:5.1f} s  {mutant.module}.{mutant.function}: "
              f"{mutant.before}  →  {mutant.after}", flush=True)

    if todo:
        files = [f"tests/test_{name}.py" for name in GROUPS[group][1]]
        pytest.main(
            ["-o", "addopts=", "--assert=plain", "-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:xdist",
             *files, "tests/mutants.py"],
            plugins=[Mutants(group, todo, keep)])
    return len(todo)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutants", type=int, default=40, help="mutants of each group")
    parser.add_argument("--only", default=",".join(GROUPS), help="groups, separated by commas")
    parser.add_argument("--again", action="store_true", help="run those that survived once more")
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    groups = options.only.split(",")
    if not options.table:
        for group in groups:  # each in a process of its own, which has imported everything and computed nothing
            pid = os.fork()
            if not pid:
                run_group(group, options.mutants, options.again)
                sys.stdout.flush()
                os._exit(0)
            os.waitpid(pid, 0)
    results = read_results()
    table = table_of(results[results.group.isin(groups)])
    print(table.to_string(index=False, formatters={"share": "{:.0%}".format}))
    survivors = results[results.group.isin(groups) & results.result.str.startswith("survived") & results.reason.eq("")]
    for _, row in survivors.iterrows():
        print(f"  {row.module}.{row.function}: {row.before}  →  {row.after}")
    return int((table.share < TARGET).any())


if __name__ == "__main__":
    sys.exit(main())
