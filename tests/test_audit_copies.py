"""Repeats among candidates, and the counting of copies."""

import numpy as np
import polars as pl
from candidate_stores import spotted

from lesionforge import tables
from lesionforge.auditing import copies
from lesionforge.auditing.audit_copies import find_repeats, rate_facts, root_of


def test_a_collapsed_generator_leaves_one_image_of_each() -> None:
    """Four views of one lesion, three of another, one alone; what was dropped before counts for nothing."""
    rng = np.random.default_rng(0)
    first, second, third = (spotted(rng) for _ in range(3))
    images = [first, second, first[:, ::-1], third, np.rot90(second), first[::-1], second.copy(), np.rot90(first)]
    rows = copies.describe([np.ascontiguousarray(image) for image in images])
    is_repeat, repeats_of = find_repeats(rows, np.ones(8, bool), 0.93, 1)
    assert is_repeat.tolist() == [False, False, True, False, True, True, True, True]
    assert repeats_of.tolist() == [-1, -1, 0, -1, 1, 0, 1, 0]
    kept = np.array([False, True, True, True, True, True, True, True])
    is_repeat, repeats_of = find_repeats(rows, kept, 0.93, 1)
    assert repeats_of.tolist() == [-1, -1, -1, -1, 1, 2, 1, 2]


def test_a_candidate_is_held_against_all_but_its_own_source() -> None:
    """Two sources are views of one lesion: each candidate still finds the other's."""
    rng = np.random.default_rng(0)
    lesion, other = spotted(rng), spotted(rng)
    references = copies.describe([lesion, np.ascontiguousarray(lesion[:, ::-1]), other])
    candidates = copies.describe([lesion, lesion, lesion, other])
    found = copies.copy_scores(candidates, references, excluded=np.array([0, 1, -1, 2]))
    assert found.nearest[:2].tolist() == [1, 0]
    assert found.score[:3].min() > 0.9 > found.score[3]
    assert found.nearest[3] != 2
    only = {name: array[:1] for name, array in references.items()}
    none = copies.copy_scores(candidates, only, excluded=np.array([0, 0, 0, 0]))
    assert (set(none.nearest), set(none.score)) == ({-1}, {-1.0})


def test_many_references_leave_out_the_excluded_row_too() -> None:
    rng = np.random.default_rng(1)
    images = [spotted(rng) for _ in range(24)]
    rows = copies.describe(images)
    excluded = np.where(np.arange(24) % 2, -1, np.arange(24))
    found = copies.copy_scores(rows, rows, excluded=excluded)
    np.testing.assert_array_equal(found.nearest == np.arange(24), excluded < 0)


def test_a_chain_leads_to_what_is_kept() -> None:
    assert root_of(np.array([-1, 0, 1, 2, -1])).tolist() == [-1, 0, 0, 0, -1]


def test_rates_are_counted_by_class() -> None:
    samples = pl.DataFrame({tables.TARGET: [1, 1, 0, 1]})
    held_out, target = np.array([0.1, 0.2, 0.95, 0.3]), np.array([1, 0, 0, 0])
    facts = rate_facts(np.array([0.9, 0.5, 0.91, 0.2]), held_out, target, 0.9, samples)
    assert (facts["copy_rate"]["count"], facts["copy_rate"]["total"]) == (2, 4)
    assert (facts["held_out_rate"]["count"], facts["held_out_rate"]["total"]) == (1, 4)
    malignant, benign = facts["by_class"]["malignant"], facts["by_class"]["benign"]
    assert (malignant["copy_rate"]["count"], malignant["held_out_rate"]["count"]) == (1, 0)
    assert (benign["copy_rate"]["count"], benign["held_out_rate"]["total"]) == (1, 3)
