"""Orders of an epoch: balanced to the image, every image before one repeats, the same from (seed, epoch) alone."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesionforge.data.sampler import (
    balanced_order,
    distinct_seen,
    fresh_benign_length,
    fresh_benign_order,
    shuffle_order,
)
from lesionforge.errors import BadInput


def is_fair(walked: np.ndarray, values: np.ndarray) -> bool:
    """Every stretch between two multiples of len(values) holds each value once (the last stretch: at most once)."""
    stretches = [walked[i : i + len(values)] for i in range(0, len(walked), len(values))]
    whole = all(sorted(s) == sorted(values) for s in stretches[:-1])
    return whole and len(set(stretches[-1].tolist())) == len(stretches[-1])


@given(st.integers(1, 200), st.integers(1, 300), st.integers(0, 2**32), st.integers(1, 5))
def test_shuffle_sees_every_image_before_one_repeats(num: int, length: int, seed: int, epochs: int) -> None:
    orders = [shuffle_order(num, length, seed, epoch) for epoch in range(epochs)]
    assert all(len(order) == length for order in orders)
    assert is_fair(np.concatenate(orders), np.arange(num))


def test_shuffle_is_one_permutation_an_epoch() -> None:
    orders = [shuffle_order(1000, 1000, seed=0, epoch=epoch) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(1000))
    assert not any(np.array_equal(a, b) for a, b in pairwise(orders))
    assert np.array_equal(orders[2], shuffle_order(1000, 1000, seed=0, epoch=2))
    assert not np.array_equal(orders[0], shuffle_order(1000, 1000, seed=1, epoch=0))


@settings(deadline=None)
@given(st.data())
def test_balanced_batches_are_half_and_half_and_fair(data: st.DataObject) -> None:
    num_malignant, num_benign = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 80))
    targets = np.array(data.draw(st.permutations([1] * num_malignant + [0] * num_benign)))
    batch_size = 2 * data.draw(st.integers(1, 8))
    length, seed = data.draw(st.integers(1, 120)), data.draw(st.integers(0, 1000))
    orders = [balanced_order(targets, length, batch_size, seed, epoch) for epoch in range(4)]
    for order in orders:
        assert len(order) == length + length % 2
        for i in range(0, len(order), batch_size):
            assert targets[order[i : i + batch_size]].mean() == 0.5
    walked = np.concatenate(orders)
    assert is_fair(walked[targets[walked] == 0], np.flatnonzero(targets == 0))
    assert is_fair(walked[targets[walked] == 1], np.flatnonzero(targets == 1))


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 100), st.integers(0, 3))
def test_every_processs_share_of_a_balanced_batch_is_balanced(
    num_processes: int, quarter: int, num_batches: int, seed: int, epoch: int
) -> None:
    """A batch size divisible by 2 n: the contiguous slice of each of n processes is half and half, to the image."""
    batch_size = 2 * num_processes * quarter
    targets = np.array([0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1])
    order = balanced_order(targets, num_batches * batch_size, batch_size, seed, epoch)
    slices = targets[order].reshape(num_batches, num_processes, 2 * quarter)  # (batch, process, image)
    assert np.array_equal(slices.sum(axis=2), np.full((num_batches, num_processes), quarter))


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 5), st.integers(0, 1000))
def test_fresh_benign_epochs(num_malignant: int, num_benign: int, k: int, seed: int) -> None:
    targets = np.array([1] * num_malignant + [0] * num_benign)
    orders = [fresh_benign_order(targets, k, seed, epoch) for epoch in range(4)]
    for order in orders:
        assert len(order) == fresh_benign_length(targets, k) == num_malignant * (1 + k)
        assert sorted(order[targets[order] == 1]) == list(range(num_malignant))  # each malignant image once
    benign = np.concatenate([np.sort(order[targets[order] == 0]) for order in orders])
    counts = np.bincount(benign, minlength=len(targets))[num_malignant:]
    assert counts.max() - counts.min() <= 1  # all of them before one repeats


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 4), st.integers(1, 70), st.integers(0, 1000))
def test_fresh_benign_epochs_cut_to_whole_batches_lose_nothing(
    num_malignant: int, num_benign: int, k: int, num_samples: int, seed: int
) -> None:
    targets = np.array([1] * num_malignant + [0] * num_benign)
    cut = np.concatenate([fresh_benign_order(targets, k, seed, epoch, num_samples) for epoch in range(5)])
    num_uncut = -(-len(cut) // fresh_benign_length(targets, k))
    uncut = np.concatenate([fresh_benign_order(targets, k, seed, epoch) for epoch in range(num_uncut)])
    assert len(cut) == 5 * num_samples
    assert np.array_equal(cut, uncut[: len(cut)])


def test_fresh_benign_images_are_others_in_each_epoch() -> None:
    """10 malignant, 1,003 benign at 1:5: twenty epochs show 1,000 benign images, the next one the last three."""
    targets = np.array([1] * 10 + [0] * 1003)
    orders = [fresh_benign_order(targets, 5, seed=0, epoch=epoch) for epoch in range(21)]
    assert distinct_seen(orders[:1], targets == 0) == (50, 1003)
    assert distinct_seen(orders[:20], targets == 0) == (1000, 1003)
    assert distinct_seen(orders, targets == 0) == (1003, 1003)
    places = np.array([np.flatnonzero(targets[order] == 1).mean() for order in orders])
    assert places.mean() == pytest.approx(29.5, abs=3)  # malignant ones stand anywhere, not in front
    assert len({tuple(order[targets[order] == 1]) for order in orders}) > 15
    assert np.array_equal(orders[7], fresh_benign_order(targets, 5, seed=0, epoch=7))
    assert not np.array_equal(orders[7], fresh_benign_order(targets, 5, seed=1, epoch=7))


def test_every_benign_image_is_seen() -> None:
    """Not the known fault: a sampler that only ever sees 2 x n_pos negatives. 10 malignant, 1,003 benign."""
    targets = np.array([1] * 10 + [0] * 1003)
    orders = [balanced_order(targets, 100, 10, seed=0, epoch=epoch) for epoch in range(21)]
    assert distinct_seen(orders[:1], targets == 0) == (50, 1003)
    assert distinct_seen(orders[:20], targets == 0) == (1000, 1003)
    assert distinct_seen(orders, targets == 0) == (1003, 1003)
    assert distinct_seen(orders, targets == 1) == (10, 10)


def test_an_epoch_does_not_hang_on_those_before() -> None:
    targets = np.array([1, 0, 0, 1, 0, 0, 0])
    first = balanced_order(targets, 40, 4, seed=3, epoch=7)
    for epoch in range(7):
        balanced_order(targets, 40, 4, seed=3, epoch=epoch)
    assert np.array_equal(first, balanced_order(targets, 40, 4, seed=3, epoch=7))


def test_order_is_pinned() -> None:
    """A changed order would change what resumed runs see: these numbers stay."""
    assert shuffle_order(6, 6, seed=0, epoch=1).tolist() == [4, 5, 1, 2, 0, 3]
    assert balanced_order(np.array([1, 1, 0, 0, 0]), 8, 4, seed=0, epoch=1).tolist() == [1, 4, 0, 2, 1, 3, 0, 2]
    assert fresh_benign_order(np.array([1, 1, 0, 0, 0]), 2, seed=0, epoch=1).tolist() == [2, 2, 0, 3, 4, 1]


def test_the_study_at_full_size_is_fast() -> None:
    """294 malignant and 300,500 benign: an epoch's order costs milliseconds, the hundredth as little as the first."""
    targets = np.zeros(300_794, np.int8)
    targets[:294] = 1
    started = time.process_time()
    for epoch in (0, 1, 99):
        order = balanced_order(targets, len(targets), 64, seed=0, epoch=epoch)
    assert time.process_time() - started < 1.5
    assert len(order) == 300_794


def test_refusals() -> None:
    targets = np.array([1, 0, 0])
    with pytest.raises(BadInput, match="the batch size must be even, found 33"):
        balanced_order(targets, 66, 33, seed=0, epoch=0)
    with pytest.raises(BadInput, match="the mix holds 0 malignant and 2 benign"):
        balanced_order(np.array([0, 0]), 4, 2, seed=0, epoch=0)
    with pytest.raises(BadInput, match=r"fresh benign images .* the mix holds 2 malignant and 0 benign"):
        fresh_benign_order(np.array([1, 1]), 3, seed=0, epoch=0)
    with pytest.raises(BadInput, match="the mix holds 0 malignant and 3 benign"):
        fresh_benign_length(np.zeros(3), 3)
    with pytest.raises(BadInput, match="0 samples from 5 images"):
        shuffle_order(5, 0, seed=0, epoch=0)
