from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from frtrain.alignment.mtcnn.streams import map_in_streams


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_results_come_in_order_from_single_threaded_streams_and_the_budget_is_left_as_it_was() -> None:
    both_at_work = threading.Barrier(2, timeout=30)

    def work(item: int) -> tuple[int, int]:
        both_at_work.wait()
        return item, torch.get_num_threads()

    assert map_in_streams(work, [5, 6, 7, 8]) == [(5, 1), (6, 1), (7, 1), (8, 1)]
    assert torch.get_num_threads() == 2
    seen: list[int] = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [2]


@pytest.mark.usefixtures("two_threads")
def test_an_error_of_one_item_reaches_the_caller() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    with pytest.raises(ValueError, match="item 2"):
        map_in_streams(work, [1, 2, 3])
    assert torch.get_num_threads() == 2


def test_nothing_to_do_needs_no_thread() -> None:
    assert map_in_streams(str, []) == []
