"""Replay memories against brute force and hand numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safemarl_bench.errors import CheckpointError
from safemarl_bench.learning.replay import BLOCK, PrioritizedReplay, ReplayBuffer

COLUMNS = {"value": ((), np.int64), "vector": ((2,), np.float32)}


def rows(*values):
    return {"value": np.array(values), "vector": np.stack([np.array([v, -v], np.float32) for v in values])}


def filled(count, capacity=None):
    memory = PrioritizedReplay(capacity or count, COLUMNS)
    memory.add(rows(*range(count)))
    return memory


def test_a_full_ring_overwrites_its_oldest_rows():
    memory = ReplayBuffer(3, COLUMNS)
    memory.add(rows(0, 1))
    slots = memory.add(rows(2, 3))
    assert slots.tolist() == [2, 0]
    assert (memory.size, memory.cursor) == (3, 1)
    gathered = memory.gather(np.array([0, 1, 2]))
    assert gathered["value"].tolist() == [3, 1, 2]
    assert gathered["vector"].tolist() == [[3, -3], [1, -1], [2, -2]]


def test_uniform_samples_cover_the_stored_rows_and_no_others():
    memory = ReplayBuffer(100, COLUMNS)
    memory.add(rows(*range(7)))
    counts = np.bincount(memory.sample(7000, np.random.default_rng(0)), minlength=7)
    assert len(counts) == 7
    assert np.abs(counts - 1000).max() < 150  # five standard deviations


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    size=st.integers(1, 3 * BLOCK + 5),
    spare=st.integers(0, BLOCK),
    seed=st.integers(0, 1000),
)
def test_find_inverts_the_cumulative_distribution_of_the_priorities(size, spare, seed):
    rng = np.random.default_rng(seed)
    memory = filled(size, size + spare)
    priorities = rng.integers(1, 50, size).astype(float)  # integers: both sums are exact
    memory.update(np.arange(size), priorities)
    quantiles = rng.integers(0, int(priorities.sum()), 200) / priorities.sum()
    quantiles += 0.5 / priorities.sum()  # inside a unit of mass, so that rounding cannot matter
    expected = np.searchsorted(np.cumsum(priorities), quantiles * priorities.sum(), side="right")
    assert memory.find(quantiles).tolist() == expected.tolist()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(size=st.integers(1, 2 * BLOCK), spread=st.floats(0, 30), seed=st.integers(0, 1000))
def test_find_never_leaves_the_stored_rows_even_where_sums_round(size, spread, seed):
    memory = filled(size, size + BLOCK)
    memory.update(np.arange(size), np.exp(spread * np.random.default_rng(seed).standard_normal(size)))
    edges = np.array([0.0, 0.5, np.nextafter(1.0, 0.0)])
    slots = memory.find(edges)
    assert ((slots >= 0) & (slots < size)).all()
    assert (memory.priorities.ravel()[slots] > 0).all()


def test_a_stratified_batch_draws_once_from_every_share_of_the_mass():
    memory = filled(64)
    slots = memory.sample(64, np.random.default_rng(3))  # equal priorities: a share is one row
    assert slots.tolist() == list(range(64))


def test_draws_follow_the_priorities():
    memory = filled(3)
    memory.update(np.arange(3), np.array([1.0, 2.0, 7.0]))
    counts = np.bincount(memory.sample(1000, np.random.default_rng(0)), minlength=3)
    assert np.abs(counts - [100, 200, 700]).max() <= 1  # strata leave at most one draw per edge to chance


def test_new_rows_get_the_largest_priority_so_far():
    memory = filled(2, 4)
    memory.update(np.array([0]), np.array([5.0]))
    memory.update(np.array([0]), np.array([0.5]))
    memory.add(rows(7))
    assert memory.priorities.ravel()[:3].tolist() == [0.5, 1.0, 5.0]


def test_importance_weights_have_their_hand_computed_values():
    memory = filled(4)
    memory.update(np.arange(4), np.array([1.0, 1.0, 2.0, 4.0]))  # P = 1/8, 1/8, 1/4, 1/2; N P = 1/2, 1/2, 1, 2
    weights = memory.weights(np.array([0, 2, 3]), beta=0.5)
    # (N P)^-1/2 = sqrt 2, 1, 1 / sqrt 2, over the largest
    assert weights == pytest.approx([1.0, 2**-0.5, 0.5])
    assert memory.weights(np.array([0, 2, 3]), beta=0.0).tolist() == [1.0, 1.0, 1.0]


def test_block_sums_do_not_drift_and_a_repeated_slot_keeps_its_last_priority():
    memory = filled(3 * BLOCK)
    rng = np.random.default_rng(1)
    for _ in range(200):
        memory.update(rng.integers(3 * BLOCK, size=32), rng.random(32) * 10.0 ** rng.integers(-8, 8))
    assert memory.block_sums.tolist() == memory.priorities.sum(axis=1).tolist()
    memory.update(np.array([5, 5]), np.array([3.0, 4.0]))
    assert memory.priorities[0, 5] == 4.0


def test_a_restored_memory_continues_like_the_saved_one():
    memory = filled(5, 8)
    memory.update(np.arange(5), np.array([1.0, 2.0, 3.0, 9.0, 5.0]))
    memory.update(np.array([3]), np.array([1.0]))
    copy = PrioritizedReplay(8, COLUMNS)
    copy.add(rows(*range(8)))  # old content must not shine through
    copy.restore(*memory.state())
    for each in (memory, copy):
        each.add(rows(10, 11))
    assert copy.state()[1] == memory.state()[1]
    for name, array in memory.state()[0].items():
        assert np.array_equal(array, copy.state()[0][name]), name
    slots = [each.sample(32, np.random.default_rng(0)).tolist() for each in (memory, copy)]
    assert slots[0] == slots[1]


def test_a_memory_of_other_columns_is_refused():
    arrays, counters = filled(5).state()
    with pytest.raises(CheckpointError, match="replay column 'vector' must be float32"):
        ReplayBuffer(5, {"value": ((), np.int64), "vector": ((3,), np.float32)}).restore(arrays, counters)
    with pytest.raises(CheckpointError, match="'value'"):
        ReplayBuffer(4, COLUMNS).restore(arrays, counters)
