from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from frtrain.signals import STOP_SIGNALS, StopRequest, orderly_end


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_stop_signal_leaves_a_note(number: signal.Signals):
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.signal == number


@pytest.fixture
def _ctrl_c_interrupts() -> Iterator[None]:
    """As in a terminal: a process started in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_interrupts")
def test_a_second_ctrl_c_interrupts_at_once():
    with StopRequest():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_same_request_on_another_way_changes_nothing():
    with StopRequest(echo_seconds=60) as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM


@pytest.mark.usefixtures("_ctrl_c_interrupts")
def test_a_second_ctrl_c_that_is_no_echo_interrupts():
    with StopRequest(echo_seconds=1e-9):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGUSR1, 0)])
def test_only_ctrl_c_ends_with_an_error(number: signal.Signals, status: int):
    with StopRequest() as stop:
        signal.raise_signal(number)
    assert stop.exit_status == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_outside_the_loop_still_cleans_up(number: signal.Signals):
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(True)

    with orderly_end(), pytest.raises(SystemExit) as end:
        work()
    assert end.value.code == 128 + number
    assert cleaned


def test_handlers_are_as_before_afterwards():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with orderly_end(), StopRequest():
        signal.raise_signal(signal.SIGTERM)
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before
