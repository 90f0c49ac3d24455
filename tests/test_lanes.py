from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import pytest

from pipeline import lanes, shell
from pipeline.courier import Courier
from pipeline.errors import HubError, KilledError, ToolchainError


@pytest.fixture
def memory(monkeypatch):
    """`memory(size)` leaves so many bytes free."""
    return lambda size: monkeypatch.setattr(lanes.psutil, "virtual_memory", lambda: SimpleNamespace(available=size))


@pytest.mark.parametrize(
    ("cores", "free", "largest", "expected"),
    [
        (1, 64e9, 1e9, 1),
        (2, 64e9, 1e9, 2),
        (8, 64e9, 1e9, 2),
        (12, 64e9, 1e9, 3),
        (64, 640e9, 1e9, 4),
        (64, 12e9, 3e9, 2),
        (64, 3e9, 8e9, 1),
    ],
)
def test_as_many_lanes_as_cores_and_memory_allow(memory, cores, free, largest, expected):
    memory(int(free))
    assert lanes.count(int(largest), cores) == expected
    assert lanes.count(int(largest), cores, asked=7) == 7


def test_all_is_done_and_begun_in_order_with_the_cores_shared():
    both, begun, shares = threading.Barrier(2), [], []

    def work(one):
        begun.append(one)
        if one < 2:
            both.wait(10)  # so the first two are at work at the same time
            shares.append(lanes.sharing())
            both.wait(10)

    lanes.side_by_side(2, work, range(5))
    assert sorted(begun[:2]) == [0, 1]
    assert begun[2:] == sorted(begun[2:])
    assert sorted(begun) == list(range(5))
    assert shares == [2, 2]
    assert lanes.sharing() == 1


def test_who_works_on_after_the_others_are_done_has_their_cores():
    shares = []

    def work(one):
        if one == "long":
            deadline = time.monotonic() + 10
            while lanes.sharing() > 1 and time.monotonic() < deadline:
                time.sleep(0.005)
            shares.append(lanes.sharing())

    lanes.side_by_side(2, work, ["long", "short"])
    assert shares == [1]


@pytest.mark.parametrize(("lanes_", "many"), [(1, 3), (4, 1)])
def test_a_single_lane_is_no_thread(lanes_, many):
    threads = set()
    lanes.side_by_side(lanes_, lambda _: threads.add(threading.current_thread()), range(many))
    assert threads == {threading.main_thread()}


@pytest.mark.programs
def test_a_failure_ends_the_programs_of_the_others_and_begins_nothing_more(tmp_path):
    begun, started = [], tmp_path / "started"

    def work(one):
        begun.append(one)
        if one == "sleeps":
            script = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(600)"
            shell.run([sys.executable, "-c", script], cwd=tmp_path, doing="sleeping")
        deadline = time.monotonic() + 30
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        raise ToolchainError("the disk is made of cheese")

    with pytest.raises(ToolchainError, match="cheese"):
        lanes.side_by_side(2, work, ["sleeps", "fails", "never"])
    assert begun == ["sleeps", "fails"]


@pytest.mark.programs
def test_a_program_that_starts_too_late_is_ended_as_well(tmp_path):
    programs = shell.Programs()
    programs.end()
    token = shell.PROGRAMS.set(programs)
    try:
        with pytest.raises(KilledError, match="SIGKILL while sleeping"):
            shell.run([sys.executable, "-c", "import time; time.sleep(600)"], cwd=tmp_path, doing="sleeping")
    finally:
        shell.PROGRAMS.reset(token)


def test_the_gpu_has_one_step_at_a_time():
    at_once, most = [], []

    def work(one):
        with lanes.turn(gpu=True), lanes.turn(gpu=True):  # a step may need another one
            at_once.append(one)
            most.append(len(at_once))
            time.sleep(0.01)
            at_once.remove(one)

    lanes.side_by_side(3, work, range(6))
    assert most == [1] * 6


def test_a_courier_brings_all_in_order_before_it_is_left():
    brought = []
    with Courier() as courier:
        for one in range(5):
            courier.take(lambda one=one: (time.sleep(0.01), brought.append(one)))
    assert brought == list(range(5))


def test_what_a_courier_fails_with_is_raised_where_the_next_is_given_to_him():
    def refuse():
        raise HubError("no such repo")

    brought = []

    def run():
        with Courier() as courier:
            courier.take(refuse)
            courier._thread.join(10)
            courier.take(lambda: brought.append(1))

    with pytest.raises(HubError, match="no such repo"):
        run()
    assert brought == []


def test_what_a_courier_fails_with_is_raised_at_the_end():
    def refuse():
        raise HubError("no such repo")

    with pytest.raises(HubError, match="no such repo"), Courier() as courier:
        courier.take(refuse)


def test_an_exception_does_not_wait_for_the_courier():
    let_go, brought, courier = threading.Event(), [], Courier()

    def run():
        with courier:
            courier.take(lambda: let_go.wait(30))
            courier.take(lambda: brought.append(1))
            raise ToolchainError("broken")

    with pytest.raises(ToolchainError):
        run()
    assert courier._thread.is_alive()
    let_go.set()
    courier._thread.join(10)
    assert brought == []
