"""Files as nobody meant them, the short form: the same cases each time, and all that the longer form once found."""

import time

import fuzz
import pytest
import toy
from hypothesis import HealthCheck, given, settings

CASES = {
    "headers": 250,
    "signals": 80,
    "annotations": 200,
    "records": 100,
    "tables": 80,
    "specifications": 120,
    "stores": 80,
    "runs": 15,
    "unfinished": 25,
    "networks": 25,
    "edf": 60,
    "folders": 15,
}


@pytest.fixture(scope="module", autouse=True)
def warm():
    fuzz.warm_up()


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_result_or_one_line(tmp_path_factory, name):
    "Within 5 s and 1 GB, and nothing outside of the folder."
    where = tmp_path_factory.mktemp(name)

    @settings(
        max_examples=CASES[name],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(fuzz.TARGETS[name].cases)
    def search(case):
        fuzz.try_case(name, case, where)

    search()


@pytest.mark.parametrize(
    "name, case", fuzz.FOUND, ids=[f"{name}-{number}" for number, (name, _) in enumerate(fuzz.FOUND)]
)
def test_what_was_found(tmp_path, name, case):
    "Each was a traceback, a loop, or a wrong result."
    fuzz.try_case(name, case, tmp_path)


def waits(room):
    time.sleep(60)


def loops(room):
    while True:
        pass


def explodes(room):
    bytearray(3 * fuzz.BYTES)


def says_nothing(room):
    raise fuzz.PediatricECGError("wrong")


def says_too_much(room):
    raise fuzz.PediatricECGError(f"{room}: wrong\nat line 1")


def leaves(room):
    (room.parent / "beside.txt").write_text("x")


def looks_around(room):
    (room / ".." / "outside.hea").read_text()


def fails(room):
    raise KeyError("a")


@pytest.mark.parametrize(
    "call, says",
    [
        (loops, "longer than"),
        (waits, "longer than"),
        (explodes, "MemoryError"),
        (says_nothing, "neither file nor key"),
        (leaves, "leaves its folder"),
        (says_too_much, "no single short line"),
        (looks_around, "leaves its folder"),
        (fails, "KeyError"),
    ],
)
def test_the_fuzzer_sees(tmp_path, call, says):
    "What it must not overlook."
    toy.write(tmp_path, {"outside.hea": "", "room/p1.hea": ""})
    with pytest.raises(fuzz.Fault, match=says):
        fuzz.attempt(call, tmp_path / "room", 0.1)
