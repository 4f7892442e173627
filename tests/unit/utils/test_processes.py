"""Processes that work on items: order, errors, deaths, and what is left behind."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.pool import ProcessDeathError, work_in_processes
from speechbrain_pom.utils.processes import map_in_processes, num_processes


def slow_first(number):
    time.sleep(0.2 if number == 0 else 0)
    return number, os.getpid()


class UnpicklableError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def fail(number):
    if number == 5:
        raise UserError("five is bad")
    if number == 7:
        raise UnpicklableError("a", "b")
    if number == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_keep_the_order_of_the_items():
    results = list(map_in_processes(slow_first, list(range(20)), 3, chunksize=2))
    assert [number for number, _ in results] == list(range(20))
    pids = {pid for _, pid in results}
    assert os.getpid() not in pids
    assert len(pids) > 1
    assert not multiprocessing.active_children()


def test_one_worker_or_one_item_needs_no_process():
    for items, num_workers in (([1, 2], 1), ([1], 4)):
        pids = {pid for _, pid in map_in_processes(slow_first, items, num_workers)}
        assert pids == {os.getpid()}
    assert list(map_in_processes(abs, [], 4)) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_is_raised_here_as_it_was_there(num_workers):
    with pytest.raises(UserError, match="five is bad"):
        list(map_in_processes(fail, list(range(6)), num_workers))
    assert not multiprocessing.active_children()


def test_an_error_has_the_traceback_of_its_process():
    with pytest.raises(UserError) as raised:
        list(map_in_processes(fail, [5, 5], 2))
    assert "in fail" in str(raised.value.__cause__)


def test_an_error_that_cannot_be_sent():
    with pytest.raises(RuntimeError, match="UnpicklableError: a b"):
        list(map_in_processes(fail, [7, 7], 2))


def test_a_death_is_said_with_its_item():
    with pytest.raises(ProcessDeathError, match=r"killed by SIGKILL: .* \(it worked on 9 or an"):
        list(map_in_processes(fail, [1, 9, 2], 2))


def test_a_death_costs_one_item():
    outcomes = list(work_in_processes([1, 9, 2, 3, 5], lambda: fail, 2, "fork"))
    assert {index: result for index, result, error in outcomes if error is None} == {
        0: 1,
        2: 2,
        3: 3,
    }
    errors = {index: str(error) for index, _, error in outcomes if error is not None}
    assert errors[4] == "five is bad"
    assert errors[1].startswith("its process was killed by SIGKILL")


def test_who_stops_reading_leaves_no_process():
    results = map_in_processes(slow_first, list(range(100)), 3)
    next(results)
    results.close()
    assert not multiprocessing.active_children()


def test_children_do_not_outlive_a_killed_parent(tmp_path):
    parent = multiprocessing.get_context("fork").Process(target=idle_parent, args=(tmp_path,))
    parent.start()
    deadline = time.monotonic() + 20
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 2
    parent.kill()
    parent.join()
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_alive, pids))


def idle_parent(folder):
    """Has two processes that wait for items."""

    def note(_):
        Path(folder, str(os.getpid())).touch()

    for _ in work_in_processes(list(range(50)), lambda: note, 2, "fork"):
        time.sleep(0.2)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_numbers_of_processes():
    with pytest.raises(UserError, match="num_workers is 0: it must be an integer of at least 1"):
        num_processes(0)
    with pytest.raises(UserError, match="num_workers is '2'"):
        num_processes("2")
