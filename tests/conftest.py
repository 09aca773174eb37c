"""Fixtures that several test modules share: the real data beside the project, and one small simulated study."""
import ipaddress
import socket

import pytest

import pediatric_ecg.data  # noqa: F401  imports wfdb 4.3 without the warnings that pandas 3.1 gives on it
from pediatric_ecg.core import shared as shared_folder


def _on_this_machine(host):
    "Whether a name or an address means this machine."
    if host in ("localhost", "", None, socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def no_network():
    "A test that reaches for another machine fails, whatever the code does with the error."

    def guarded(call):
        def connect(self, address, *more):
            host = address[0] if isinstance(address, tuple) else ""  # a path is a socket of this machine
            if not _on_this_machine(host):
                pytest.fail(f"a test connects to {host}")
            return call(self, address, *more)

        return connect

    def resolve(host, *more, **names):
        if not _on_this_machine(host):
            pytest.fail(f"a test asks for the address of {host}")
        return resolver(host, *more, **names)

    resolver = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        patch.setattr(socket, "getaddrinfo", resolve)
        yield


@pytest.fixture(scope="session")
def shared():
    "Folder of real data; tests that need it are skipped where it is absent."
    folder = shared_folder()
    if folder is None:
        pytest.skip("no real data: ../shared is absent and PEDIATRIC_ECG_SHARED is not set")
    return folder


@pytest.fixture(scope="session")
def simdb(tmp_path_factory):
    "A small simulated database in Leipzig's form: 8 patients, 90 s each."
    from pediatric_ecg.sim import simulate

    return simulate(tmp_path_factory.mktemp("sim") / "database", patients=8, seconds=90, seed=3)


@pytest.fixture(scope="session")
def simstore(simdb, tmp_path_factory):
    "The windows of `simdb`."
    from pediatric_ecg.windows import prepare

    return prepare(simdb, tmp_path_factory.mktemp("store") / "store", n_jobs=1, progress=False)


@pytest.fixture(scope="module")
def small_floors():
    "A forest has few trees, regression stands for boosting, and simulated people are short: for tests of other things."
    from sklearn.ensemble import RandomForestClassifier

    from pediatric_ecg.evaluate import floors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pediatric_ecg.windows.people.SECONDS", 24.0)
        patch.setitem(floors.MODELS, "forest", lambda: RandomForestClassifier(8, min_samples_leaf=2, random_state=0))
        patch.setitem(floors.MODELS, "boosting", floors.MODELS["regression"])
        yield


@pytest.fixture(scope="module")
def unpainted():
    "No figure of a report is painted: for tests of words and of what stands in a run."
    from made_up_run import no_picture

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pediatric_ecg.report.render.data_uri", no_picture)
        yield


@pytest.fixture
def call(capfd):
    "Exit code, stdout and stderr of a command, in this process."
    from pediatric_ecg import cli

    def run(*args):
        code = cli.main([str(a) for a in args])
        out, err = capfd.readouterr()
        return code, out, err

    return run
