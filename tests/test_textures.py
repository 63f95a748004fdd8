"""The bank of noise that skin is cut from."""

import numpy as np

from lesionforge.data.textures import BANK_SIDE, SKIN_KINDS, cut, shape_bank, skin_bank, waves


def test_the_bank_has_a_texture_of_unit_deviation_for_each_kind() -> None:
    bank = skin_bank()
    assert len(bank) == len(SKIN_KINDS)
    for texture in (*bank, shape_bank()):
        assert texture.shape == (BANK_SIDE, BANK_SIDE, 4)
        assert texture.dtype == np.float32
        np.testing.assert_allclose(texture.std(axis=(0, 1)), 1, atol=1e-3)


def test_a_cut_without_turn_is_the_texture_itself_and_wraps_round() -> None:
    texture = shape_bank()
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    x, y = again.uniform(0, BANK_SIDE, 2)
    window = cut(texture, BANK_SIDE, 20, angle=0.0, zoom=1.0, rng=rng)
    place = (np.arange(20)[:, None] + round(y)) % BANK_SIDE, (np.arange(BANK_SIDE)[None, :] + round(x)) % BANK_SIDE
    assert window.shape == (20, BANK_SIDE, 4)
    # The place is a fraction of a pixel, so only the slow channel is near its rounded neighbour.
    np.testing.assert_allclose(window[..., 0], texture[..., 0][place], atol=0.2)


def test_waves_have_the_wavelength_that_was_asked() -> None:
    noise = waves(np.random.default_rng(0), wavelength=16, width=0.1, spread=3.0)
    power = np.abs(np.fft.fft2(noise)) ** 2
    frequency = np.hypot(np.fft.fftfreq(BANK_SIDE)[None, :], np.fft.fftfreq(BANK_SIDE)[:, None])
    assert 1 / 16.5 < (power * frequency).sum() / power.sum() < 1 / 15.5
