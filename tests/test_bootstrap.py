"""The bootstrap by counts, against one that writes the drawn patients' lesions out again."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from test_metrics import challenge_pauc

from lesionforge import bootstrap, metrics


def patients_with_lesions(seed, num_patients=40, decimals=None):
    """Patients with 2 to 30 lesions, some of them prone to malignancy and to high scores."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), rng.integers(2, 31, size=num_patients))
    prone = rng.random(num_patients) ** 3
    targets = (rng.random(len(patients)) < 0.3 * prone[patients]).astype(int)
    scores = rng.normal(size=len(patients)) + targets + prone[patients]
    return targets, scores if decimals is None else np.round(scores, decimals), patients


def written_out(values, patients, drawn):
    """The lesions of each patient as often as the patient was drawn."""
    return np.repeat(values, drawn[patients])


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_a_replicate_has_the_scores_of_its_lesions_written_out(decimals):
    targets, scores, patients = patients_with_lesions(1, decimals=decimals)
    threshold = float(np.median(scores[targets == 1]))
    table = bootstrap.count(targets, scores, patients, threshold)
    rng = np.random.default_rng(5)
    drawn = rng.multinomial(40, np.full(40, 1 / 40), size=50)
    found = bootstrap.scores_of(table, drawn.astype(float))
    for i, times in enumerate(drawn):
        t, s = written_out(targets, patients, times), written_out(scores, patients, times)
        copies = np.concatenate([np.arange(count) for count in times[patients]])  # a patient drawn twice is two
        alone = bootstrap.count(
            t, s, np.unique(written_out(patients, patients, times) + 1000 * copies, return_inverse=True)[1], threshold
        )
        expected = bootstrap.scores_of(alone, alone.num_clusters[None])
        for name in metrics.SCORES:
            np.testing.assert_allclose(found[name][i], expected[name][0], rtol=1e-14, err_msg=name)
        assert found["pauc"][i] == pytest.approx(challenge_pauc(t, s), abs=1e-12)
        assert found["roc_auc"][i] == pytest.approx(sk.roc_auc_score(t, s), abs=1e-12)
        assert found["average_precision"][i] == pytest.approx(sk.average_precision_score(t, s), abs=1e-12)
        assert found["f1"][i] == pytest.approx(sk.f1_score(t, s >= threshold), abs=1e-12)


def naive_paucs(targets, scores, patients, num_replicates, seed):
    """Draw patients, gather their lesions, call the challenge's formula; over and over."""
    rng = np.random.default_rng(seed)
    rows_of = [np.flatnonzero(patients == patient) for patient in range(patients.max() + 1)]
    paucs = []
    for _ in range(num_replicates):
        rows = np.concatenate([rows_of[patient] for patient in rng.integers(0, len(rows_of), size=len(rows_of))])
        paucs.append(challenge_pauc(targets[rows], scores[rows]))
    return np.array(paucs)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_replicates_are_distributed_as_naive_ones(seed):
    targets, scores, patients = patients_with_lesions(seed)
    ours = bootstrap.replicate(bootstrap.count(targets, scores, patients), 2000, seed)["pauc"]
    theirs = naive_paucs(targets, scores, patients, 2000, seed + 100)
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01


def test_lesions_of_unknown_patients_are_resampled_one_by_one():
    """Some patients known, the other lesions each a cluster of its own: summing alike lesions changes nothing."""
    targets, scores, patients = patients_with_lesions(2, decimals=1)
    patients = np.where(patients < 10, patients, -1)
    alone = np.flatnonzero(patients < 0)
    each_named = patients.copy()
    each_named[alone] = 10 + np.arange(len(alone))
    ours = bootstrap.replicate(bootstrap.count(targets, scores, patients), 2000, 0)["pauc"]
    theirs = naive_paucs(targets, scores, each_named, 2000, 1)
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01


def test_without_patients_images_are_resampled():
    targets, scores, _ = patients_with_lesions(3)
    ours = bootstrap.replicate(bootstrap.count(targets, scores), 2000, 0)["pauc"]
    theirs = naive_paucs(targets, scores, np.arange(len(targets)), 2000, 1)
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01


def test_patients_whose_lesions_are_alike_widen_the_interval():
    """Ten copies of each lesion in one patient say no more than one; by image they would seem to."""
    rng = np.random.default_rng(0)
    targets, patients = np.tile([0, 0, 0, 1], 50), np.arange(200)
    scores = rng.normal(size=200) + targets
    copied = [np.repeat(values, 10) for values in (targets, scores, patients)]
    once = bootstrap.estimates(targets, scores, patients)["roc_auc"]
    by_patient = bootstrap.estimates(*copied)["roc_auc"]
    by_image = bootstrap.estimates(*copied[:2])["roc_auc"]
    assert by_patient.high - by_patient.low == pytest.approx(once.high - once.low, rel=0.1)
    assert by_image.high - by_image.low < 0.5 * (by_patient.high - by_patient.low)


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """200 studies of 150 patients drawn from one population; 95 % intervals of the AUC should hold its value."""
    rng = np.random.default_rng(0)

    def study(num_patients):
        patients = np.repeat(np.arange(num_patients), 6)
        targets = (rng.random(len(patients)) < 0.15).astype(int)
        scores = rng.normal(size=len(patients)) + targets + rng.normal(size=num_patients)[patients]
        return targets, scores, patients

    truth = metrics.roc_auc(*study(50_000)[:2])
    held = []
    for _ in range(200):
        found = bootstrap.estimates(*study(150), num_replicates=500)["roc_auc"]
        held.append(found.low <= truth <= found.high)
    assert 0.90 <= np.mean(held) <= 0.985


def test_the_same_seed_gives_the_same_interval_in_any_order_and_piece_size(monkeypatch):
    targets, scores, patients = patients_with_lesions(4)
    first = bootstrap.estimates(targets, scores, patients, 0.5, seed=7)
    order = np.random.default_rng(0).permutation(len(targets))
    monkeypatch.setattr(bootstrap, "NUMBERS_AT_ONCE", 20_000)
    assert bootstrap.estimates(targets[order], scores[order], patients[order], 0.5, seed=7) == first
    assert bootstrap.estimates(targets, scores, patients, 0.5, seed=8) != first


def test_replicates_without_a_class_are_left_out_and_counted():
    targets = np.array([0, 1, 0, 1, 0, 0, 0, 0, 0, 0])
    patients = np.repeat(np.arange(5), 2)  # two of five patients have a malignancy
    found = bootstrap.estimates(targets, np.linspace(0, 1, 10), patients, num_replicates=4000)["pauc"]
    assert found.num_left_out / 4000 == pytest.approx((3 / 5) ** 5, abs=0.015)  # no draw hits either of them
    assert found.low <= found.estimate <= found.high


def test_one_malignant_patient_gives_a_score_but_no_interval():
    targets = np.array([0, 1, 1, 0, 0, 0])
    found = bootstrap.estimates(targets, np.linspace(0, 1, 6), np.array([0, 0, 0, 1, 1, 2]))
    assert found["pauc"].estimate is not None
    assert found["pauc"].low is None
    assert found["pauc"].high is None


def test_undefined_scores_are_none_and_never_averaged():
    targets, scores, patients = patients_with_lesions(5)
    found = bootstrap.estimates(targets, scores, patients)
    assert all(found[name].estimate is None for name in metrics.AT_THRESHOLD)  # no threshold was given
    found = bootstrap.estimates(targets, scores, np.where(patients == 3, -1, patients - (patients > 3)))
    assert found["top_15_retrieval"].estimate is None
    assert found["pauc"].estimate is not None
    found = bootstrap.estimates(np.zeros_like(targets), scores, patients, 0.5)
    assert {value[:3] for value in found.values()} == {(None, None, None)}
    some_undefined = bootstrap.estimates(targets, scores, patients, float(scores.max()))["precision"]
    assert some_undefined.num_left_out > 0  # replicates without the highest-scored lesion call nothing malignant
    assert some_undefined.low is not None


def test_gaps_in_patient_numbers_are_refused():
    with pytest.raises(ValueError, match="without gaps"):
        bootstrap.count([0, 1, 0], [0.1, 0.2, 0.3], np.array([0, 2, 2]))
