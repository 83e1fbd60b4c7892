"""Every task once an epoch, whatever the sizes, and by the update's number alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd_agent.runs.schedule import Schedule
from ovd_envs.episode import Task


def tasks_of(count):
    return [Task(str(n), "q", ("a",)) for n in range(count)]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_every_task_comes_once_an_epoch_and_none_twice_in_an_update(count, size, seed):
    schedule = Schedule(tasks_of(count), size, seed)
    updates = [[task.id for task in schedule.tasks(n)] for n in range(2 + 4 * count // size)]
    for update in updates:
        assert len(set(update)) == len(update) == min(size, count)
    shown = [name for update in updates for name in update]
    for epoch in range(len(shown) // count):
        part = shown[epoch * count : (epoch + 1) * count]
        assert len(set(part)) == count
    counts = Counter(shown)
    assert max(counts.values()) - min(counts[str(n)] for n in range(count)) <= 1


def test_an_update_is_drawn_by_its_number_whatever_came_before():
    tasks = tasks_of(17)
    went_on = Schedule(tasks, 5, 3)
    before = [went_on.tasks(n) for n in range(20)]
    assert [Schedule(tasks, 5, 3).tasks(n) for n in range(20)] == before


def test_seeds_and_epochs_have_orders_of_their_own():
    tasks = tasks_of(50)
    orders = [Schedule(tasks, 50, seed).tasks(epoch) for seed in (0, 1) for epoch in (0, 1)]
    ids = {tuple(task.id for task in order) for order in orders}
    assert len(ids) == 4
    assert tuple(task.id for task in tasks) not in ids


@pytest.mark.parametrize("size", [3, 50])
def test_few_tasks_are_all_of_an_update(size):
    schedule = Schedule(tasks_of(3), size, 0)
    assert sorted(task.id for task in schedule.tasks(4)) == ["0", "1", "2"]
