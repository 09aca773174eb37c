"""Killed, interrupted, without room or permission: the short form of `make test-faults` (tests/faults.py)."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = "simulate download prepare experiment run annotate report".split()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the commands run in forks")
def test_nothing_is_lost():
    "Each command is killed at a rename and started again, and ends with the files of one that was not killed."
    script = Path(__file__).with_name("faults.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, "-X", "faulthandler", script, "--short"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stdout}{done.stderr}"
    assert [line.partition(":")[0] for line in lines[:-1]] == COMMANDS
    assert lines[-1] == "nothing was lost"
