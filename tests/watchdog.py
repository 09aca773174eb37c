"A watchdog: what must end, ends. It counts processor time, so that a busy machine fails no test."
import signal
from contextlib import contextmanager


@contextmanager
def ends(
    seconds=5,  # Processor time after which the body is stopped; what these tests run takes a small part of it
):
    "Stops the body and fails the test where it does not end by itself."

    def stop(*_):
        raise AssertionError(f"still running after {seconds} s of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
