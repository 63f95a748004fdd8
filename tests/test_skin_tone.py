"""The individual typology angle and its bands."""

import math

import numpy as np
import pytest

from lesionforge.data import skin_tone


@pytest.mark.parametrize(
    ("angle", "name"),
    [
        (60, "very light"), (56, "very light"), (54, "light"), (42, "light"), (40, "intermediate"),
        (29, "intermediate"), (27, "tan"), (11, "tan"), (9, "brown"), (-29, "brown"), (-31, "dark"), (-60, "dark"),
    ],
)  # fmt: skip
def test_skin_tones_by_the_typology_angle(angle: float, name: str) -> None:
    """The classes of Chardon et al. 1991: ITA = arctan((L* - 50) / b*) * 180 / pi, at any b* above 0."""
    for yellowness in (5.0, 18.0):
        lightness = 50 + yellowness * math.tan(math.radians(angle))
        assert skin_tone.skin_tones([lightness], [yellowness]) == [name]


def test_skin_tones_of_known_skins() -> None:
    assert skin_tone.skin_tones([75.0, 50.0, 30.0, None], [15.0, 15.0, 12.0, 15.0]) == [
        "very light", "brown", "dark", None
    ]  # fmt: skip
    assert skin_tone.skin_tones([], []) == []


def test_angles_by_hand() -> None:
    """tan 45 degrees is 1; black skin under no light, and no colour at all."""
    angles = skin_tone.typology_angles([60.0, 40.0, 50.0, None], [10.0, 10.0, 10.0, 1.0])
    assert np.allclose(angles[:3], [45, -45, 0])
    assert np.isnan(angles[3])
    assert skin_tone.skin_tones([50 + math.tan(math.radians(54.99)) * 10], [10.0]) == ["light"]
