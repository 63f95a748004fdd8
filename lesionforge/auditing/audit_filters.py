"""What the filters on single images say: artefact measures beyond their limits, near-copies, repeats."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lesionforge.auditing import artefacts, audit_copies, rates
from lesionforge.auditing.audit_copies import Copies
from lesionforge.auditing.audit_inputs import Inputs, some_of
from lesionforge.auditing.audit_page import number
from lesionforge.auditing.verdicts import Finding

COPY, REPEAT = "near-copy", "duplicate"


def artefact_findings(
    inputs: Inputs, filters: Sequence[str], false_alarms: float, num_calibration: int, cache: Path | None,
    num_threads: int, seed: int,
) -> tuple[list[Finding], dict[str, np.ndarray], dict[str, Any]]:  # fmt: skip
    """One finding per measure, the measures of the candidates, and how the limits were set.

    A measure that is not among `filters` drops nothing, and is told all the same.
    """
    some = some_of(inputs.references, num_calibration, seed)
    real = audit_copies.measure(inputs.real, some, cache, num_threads, "measuring training images")
    measures = audit_copies.measure(inputs.candidates, inputs.samples, cache, num_threads, "measuring candidates")
    limits = artefacts.calibrate(real, false_alarms)
    is_beyond, real_beyond = artefacts.beyond(measures, limits), artefacts.beyond(real, limits)
    findings = []
    for name, (side, reason) in artefacts.MEASURES.items():
        words = f"{name} {'above' if side == 'high' else 'below'} {number(limits[name])}"
        findings.append(Finding(reason, is_beyond[name], name in filters, words))
    dropped = np.zeros(len(some), bool)
    for name in filters:
        dropped |= real_beyond[name]
    facts = {
        "limits": limits,
        "false_alarms": false_alarms,
        "dropped_real": rates.share(int(dropped.sum()), len(some)),
        "filters": list(filters),
    }
    return findings, measures, facts


def copy_finding(found: Copies | None, num_images: int) -> Finding:
    if found is None:
        return Finding(COPY, np.zeros(num_images, bool), False, "not looked for")
    return Finding(
        COPY,
        found.score >= found.threshold,
        True,
        f"copy score of {number(found.threshold)} or more to a training image",
    )
