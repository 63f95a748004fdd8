"""Skin tone by the individual typology angle of the skin around a lesion, in the bands of the literature.

ITA = arctan((L* - 50) / b*), degrees; Chardon et al. 1991, Del Bino & Bernerd 2013. The colour is that of the skin
beside the lesion (`tbp_lv_Lext`, `tbp_lv_Bext`), since the lesion's own (`tbp_lv_L`, `tbp_lv_B`) is its pigment. It
comes from crops under a camera's light, not from a colorimeter: a rough guess, and not Fitzpatrick's skin types.
"""

from collections.abc import Sequence

import numpy as np

from lesionforge.metrics import Floats

# Upper ends in degrees, each inside its band.
SKIN_TONES = ((-30, "dark"), (10, "brown"), (28, "tan"), (41, "intermediate"), (55, "light"), (np.inf, "very light"))


def typology_angles(lightness: Sequence[float | None], yellowness: Sequence[float | None]) -> Floats:
    """Individual typology angle in degrees from L* and b*, (N,); NaN where either is unknown."""
    light, yellow = (np.array(values, dtype=np.float64) for values in (lightness, yellowness))
    return np.degrees(np.arctan2(light - 50, yellow))


def skin_tones(lightness: Sequence[float | None], yellowness: Sequence[float | None]) -> list[str | None]:
    """The band of each angle; None where it is unknown."""
    angles = typology_angles(lightness, yellowness)
    bands = np.searchsorted([end for end, _ in SKIN_TONES], angles)
    return [None if np.isnan(angle) else SKIN_TONES[band][1] for angle, band in zip(angles, bands, strict=True)]
