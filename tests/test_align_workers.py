import os
from collections.abc import Iterator

import pytest

from mmser.extract.align.workers import Workers

prepared: list[int] = []


def prepare(offset: int) -> None:
    prepared.append(offset)


def add_or_die(item: int) -> str:
    if item % 7 == 3:
        os._exit(1)
    return str(item + prepared[0])


def lost(item: int) -> str:
    return f"lost {item}"


@pytest.fixture
def workers() -> Iterator[Workers[int, str]]:
    made: Workers[int, str] = Workers(2, add_or_die, lost, prepare=prepare, arguments=(100,))
    yield made
    made.close()


def test_results_come_in_order_and_a_death_costs_only_its_own_item(workers: Workers[int, str]) -> None:
    expected = [f"lost {i}" if i % 7 == 3 else str(i + 100) for i in range(12)]
    assert list(workers.map(range(12))) == expected
    assert list(workers.map([0, 1])) == ["100", "101"]  # and it can be used again
    assert prepared == []  # nothing is prepared in this process


def test_items_are_taken_as_they_are_needed(workers: Workers[int, str]) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in (0, 1, 2, 4, 5, 6, 7, 8, 9):
            taken.append(i)
            yield i

    results = workers.map(items())
    assert next(results) == "100"
    assert len(taken) <= 4
    del results
