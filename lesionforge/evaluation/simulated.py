"""Scores of runs that were never trained, by the binormal model: what a plan is made with, and a test of its method.

A run's score of a lesion is d + chance, d being 0 for benign lesions. The chance has variance 1 and three parts: what
all runs say of this lesion, what the runs of one side say of it, what one run says of it. A share of each part belongs
to the patient, and is the same for all lesions of one patient.
"""

import math
from statistics import NormalDist

import numpy as np

from lesionforge import metrics
from lesionforge.evaluation.paired import Lesions
from lesionforge.metrics import Floats

NUM_POINTS = 20_001  # of the numerical integral


def shift_of(auc: float) -> float:
    """How far the malignant lesions' mean score lies above that of the benign ones, in standard deviations."""
    return math.sqrt(2) * NormalDist().inv_cdf(auc)


def expected_pauc(shift: float) -> float:
    """pAUC of the binormal model without end of lesions: the area under the curve where TPR >= 0.8."""
    return float(np.trapezoid(np.maximum(tpr_of(shift) - metrics.MIN_TPR, 0), share_of_benign()))


def expected_auc(shift: float) -> float:
    return NormalDist().cdf(shift / math.sqrt(2))


def share_of_benign() -> Floats:
    """False positive rates, rising, even in log-odds of the threshold  # (P,)"""
    return np.array([NormalDist().cdf(z) for z in np.linspace(-9, 9, NUM_POINTS)])


def tpr_of(shift: float) -> Floats:
    return np.array([NormalDist().cdf(z) for z in np.linspace(-9, 9, NUM_POINTS) + shift])


def lesions_of(malignant_of_each: np.ndarray, benign_of_each: np.ndarray) -> Lesions:
    """The lesions of patients with so many malignant and benign ones, (K,) each."""
    patients = np.arange(len(malignant_of_each))
    malignant = np.repeat([True, False], [malignant_of_each.sum(), benign_of_each.sum()])
    clusters = np.concatenate([np.repeat(patients, malignant_of_each), np.repeat(patients, benign_of_each)])
    return Lesions(malignant, np.unique(clusters, return_inverse=True)[1])


def scores(
    rng: np.random.Generator,
    lesions: Lesions,
    shifts: Floats,
    correlation: float,
    seed_correlation: float,
    patient_correlation: float,
) -> Floats:
    """Scores of each run, (sides, S, N).

    Args:
        shifts: of each run, (sides, S); that they differ within a side is the seeds' own part of the variance
        correlation: of runs of different sides, over the lesions of a class
        seed_correlation: of runs of one side, at least `correlation`
        patient_correlation: of two lesions of one patient
    """
    num_clusters = int(lesions.clusters.max()) + 1

    def chance(variance: float, *shape: int) -> Floats:
        of_patients = rng.normal(size=(*shape, num_clusters))[..., lesions.clusters]
        of_lesions = rng.normal(size=(*shape, len(lesions.clusters)))
        mixed = math.sqrt(patient_correlation) * of_patients + math.sqrt(1 - patient_correlation) * of_lesions
        return math.sqrt(variance) * mixed

    num_sides, num_seeds = shifts.shape
    total = chance(correlation) + chance(seed_correlation - correlation, num_sides, 1)
    return total + chance(1 - seed_correlation, num_sides, num_seeds) + shifts[..., None] * lesions.malignant
