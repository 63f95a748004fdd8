"""What a stage is charged for: prompts left out in their share, class images of the base, a held-out loss that says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from lesionforge import run, tables
from lesionforge.data.store import open_store
from lesionforge.diffusion import building, denoising, methods, pipeline, sampling, scratch
from lesionforge.diffusion.generator_data import Images, as_input, as_moments
from lesionforge.diffusion.goals import ClassImages, NoiseGoal, VaeGoal, held_out_timesteps, mean_over_chunks
from lesionforge.diffusion.settings import FinetuneConfig
from lesionforge.engine import inference

CPU = torch.device("cpu")
PROMPTS = ["Malignant skin lesions", "a mole", "melanoma", "a mole"]


def opened(folder: Path) -> Any:
    return pipeline.load_pipeline(pipeline.find_base(str(folder)))


@pytest.fixture(scope="module")
def pipe(tiny_sd: Path) -> Any:
    return opened(tiny_sd)


def kept(num: int, seed: int = 0) -> torch.Tensor:
    """Moments as a VAE gives them. (N, 1, 8, 8, 8)"""
    return torch.randn(num, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed))


def goal_of(pipe: Any, **changes: Any) -> NoiseGoal:
    moments = kept(4)
    settings: dict[str, Any] = {
        "moments": lambda positions, symmetries: moments[torch.from_numpy(positions), symmetries], "num_images": 4,
        "num_symmetries": 1, "prompts": PROMPTS, "held_out": None, "trains_text": False, "min_snr_gamma": None,
        "noise_offset": 0.0, "dropout": 0.0, "drops_words": False, "class_images": None, "image_size": 64,
        "device": CPU, "seed": 0,
    }  # fmt: skip
    return NoiseGoal(pipe, pipe.unet, DDPMScheduler.from_config(pipe.scheduler.config), **(settings | changes))


def drawn(goal: NoiseGoal, num: int = 4, seed: int = 0) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    positions = np.arange(num) % goal.num_images
    return positions, goal.draws(positions, torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_loss_of_a_batch_by_hand(pipe: Any) -> None:
    goal = goal_of(pipe, min_snr_gamma=5.0)
    positions, draws = drawn(goal)
    losses = goal.losses(positions, draws)
    hidden, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, False)
    mean, log_variance = kept(4)[:, 0].chunk(2, dim=1)
    latents = (mean + (log_variance / 2).exp() * draws["posterior"]) * pipe.vae.config.scaling_factor
    noisy = goal.scheduler.add_noise(latents, draws["noise"], draws["timestep"])
    answer = pipe.unet(noisy, draws["timestep"], encoder_hidden_states=hidden).sample
    squared = (answer - draws["noise"]).square().mean(dim=(1, 2, 3))
    weights = denoising.snr_weights(goal.scheduler, draws["timestep"], 5.0)
    torch.testing.assert_close(losses, squared * weights)


@torch.no_grad()
def test_kept_embeddings_are_those_of_encoding_anew(pipe: Any) -> None:
    goal, anew = goal_of(pipe), goal_of(pipe, trains_text=True)
    positions, draws = drawn(goal)
    torch.testing.assert_close(goal.losses(positions, draws), anew.losses(positions, draws))
    assert set(goal.known) == set(PROMPTS)
    assert not anew.known


@torch.no_grad()
def test_a_part_of_the_batch_has_the_losses_that_it_has_in_the_whole(pipe: Any) -> None:
    goal = goal_of(pipe, dropout=0.5, class_images=ClassImages(kept(3, 1), "a lesion", 0.5))
    positions, draws = drawn(goal)
    part = slice(1, 3)
    torch.testing.assert_close(
        goal.losses(positions[part], {name: draw[part] for name, draw in draws.items()}),
        goal.losses(positions, draws)[part],
    )


def test_prompts_are_left_out_in_the_share_asked(pipe: Any) -> None:
    num = 4000
    goal = goal_of(pipe, dropout=0.3)
    _, draws = drawn(goal, num)
    shown = [goal.shown("a mole", float(d), w) for d, w in zip(draws["drop"], draws["drop_words"], strict=True)]
    assert set(shown) == {"a mole", ""}
    assert shown.count("") / num == pytest.approx(0.3, abs=0.03)
    assert goal_of(pipe).shown("a mole", 0.0, torch.zeros(8)) == "a mole"  # a share of 0 leaves none out

    words = goal_of(pipe, dropout=0.1, drops_words=True)
    caption = "<malignant> <site=head/neck> <diagnosis=Melanoma in situ>"
    shown = [words.shown(caption, float(d), w) for d, w in zip(draws["drop"], draws["drop_words"], strict=True)]
    assert shown.count("") / num == pytest.approx(0.1, abs=0.02)
    told = [text for text in shown if text]
    assert all(text.startswith("<malignant>") for text in told)
    for word in ("<site=head/neck>", "<diagnosis=Melanoma in situ>"):
        assert sum(word not in text for text in told) / len(told) == pytest.approx(0.1, abs=0.02)


def test_the_offset_is_the_same_all_over_an_image_and_channel(pipe: Any) -> None:
    """Variance of a channel's mean over 64 latent pixels: offset^2 + 1/64."""
    for offset in (0.0, 0.5):
        _, draws = drawn(goal_of(pipe, noise_offset=offset), 2000)
        assert float(draws["noise"].mean(dim=(2, 3)).var()) == pytest.approx(offset**2 + 1 / 64, rel=0.1)
        assert float(draws["noise"].var(dim=(2, 3)).mean()) == pytest.approx(1, rel=0.05)
        assert int(draws["timestep"].min()) < 10
        assert 990 < int(draws["timestep"].max()) < 1000


@torch.no_grad()
def test_prior_preservation_adds_its_weighted_loss(pipe: Any) -> None:
    """DreamBooth: the loss of the instance + weight * the loss of the class images at draws of their own."""
    others = kept(3, 1)
    goal = goal_of(pipe, class_images=ClassImages(others, "a photo of a skin lesion", 0.25))
    positions, draws = drawn(goal)
    plain = {name: draw for name, draw in draws.items() if not name.startswith("class_")}
    instance = goal_of(pipe).losses(positions, plain)
    of_class = goal_of(
        pipe, moments=lambda places, symmetries: others[torch.from_numpy(places), 0], num_images=3,
        prompts=["a photo of a skin lesion"] * 3,
    )  # fmt: skip
    prior = of_class.losses(
        draws["class_position"].numpy(),
        {**plain, **{name: draws[f"class_{name}"] for name in ("posterior", "noise", "timestep")}},
    )
    torch.testing.assert_close(goal.losses(positions, draws), instance + 0.25 * prior)
    assert not torch.equal(draws["noise"], draws["class_noise"])


def test_the_held_out_loss_is_the_same_each_time_and_falls_when_learned(tiny_sd: Path) -> None:
    pipe = opened(tiny_sd)
    moments = kept(2)
    goal = goal_of(
        pipe, moments=lambda positions, symmetries: moments[torch.from_numpy(positions), symmetries], num_images=2,
        prompts=PROMPTS[:2], held_out=(moments, PROMPTS[:2]),
    )  # fmt: skip
    first = goal.held_out_loss()
    assert first is not None
    torch.randn(7)  # it does not depend on where the global generator stands
    assert goal.held_out_loss() == first
    assert goal_of(pipe).held_out_loss() is None
    trained = methods.train_full(pipe, 0.0)
    optimizer = torch.optim.AdamW(trained.params, lr=2e-3)
    for step in range(30):
        optimizer.zero_grad()
        goal.losses(*drawn(goal, 4, step)).mean().backward()
        optimizer.step()
    last = goal.held_out_loss()
    assert last is not None
    assert last < 0.9 * first


def test_the_end_of_a_schedule_in_pure_noise_is_looked_at() -> None:
    middles = [125, 375, 625, 875]
    assert held_out_timesteps(DDPMScheduler()) == middles
    assert held_out_timesteps(DDPMScheduler(prediction_type="v_prediction")) == middles
    pure = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert held_out_timesteps(pure) == [*middles, 999]


def test_means_over_chunks_weigh_images_alike() -> None:
    asked: list[int] = []

    def losses(positions: np.ndarray) -> torch.Tensor:
        asked.extend(positions.tolist())
        return torch.from_numpy(positions).float()

    assert mean_over_chunks(37, losses) == 18.0
    assert asked == list(range(37))
    assert mean_over_chunks(0, losses) is None


@torch.no_grad()
def test_the_vae_is_charged_for_its_pictures(blobs: Path) -> None:
    torch.manual_seed(0)
    vae = scratch.build_vae(32, width=8, factor=4, latent_channels=4).eval()
    store = open_store(blobs)
    rows = store.samples()
    images, held_out = Images(store, rows.head(8), 32, 1), Images(store, rows.tail(3), 32, 1)
    goal = VaeGoal(vae, images, held_out, 8, CPU)
    positions = np.array([1, 5])
    draws = goal.draws(positions, torch.Generator().manual_seed(0))
    draws["symmetry"][:] = 0
    expected = scratch.vae_loss(vae, as_input(images(positions), CPU), draws["posterior"])
    torch.testing.assert_close(goal.losses(positions, draws), expected)
    assert goal.held_out_loss() == goal.held_out_loss()
    pixels = as_input(held_out(np.arange(3)), CPU)
    back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
    levels = (255 * ((back + 1) / 2 - (pixels + 1) / 2)).double()
    ratios = 10 * np.log10(255**2 / levels.square().mean(dim=(1, 2, 3)).numpy())
    assert goal.psnr() == pytest.approx(ratios.mean(), abs=1e-3)
    empty = VaeGoal(vae, images, Images(store, rows.clear(), 32, 1), 8, CPU)
    assert empty.held_out_loss() is None
    assert empty.psnr() is None


def config_of(out: Path, base: Path, store: Path, split: Path, **dreambooth: Any) -> FinetuneConfig:
    out.mkdir(parents=True)
    return FinetuneConfig.model_validate(
        {
            "out": out, "base": str(base), "method": "dreambooth", "val_every": 0,
            "data": {"store": store, "split": split, "batch_size": 2},
            "dreambooth": {"num_class_images": 2, **dreambooth},
        }
    )  # fmt: skip


@pytest.mark.parametrize("train", ["lora", "full"])
def test_class_images_come_from_the_base(
    train: str, tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    """As it was before it learned, made once: the file beside the checkpoints is read by a run that goes on."""
    config = config_of(tmp_path / "run", tiny_sd, blobs, blob_split, class_prompt="a photo of skin", train=train)
    inputs = building.read_inputs(config)
    pipe, size = building.build_base(config, inputs)
    inputs = inputs._replace(image_size=size)
    building.build_trained(config, pipe)
    accelerator = inference.build_accelerator("cpu", "fp32")
    found = building.build_class_images(config, inputs, pipe, accelerator)
    assert (found.prompt, found.weight) == ("a photo of skin", 1.0)
    requests = [sampling.Request("a photo of skin", "", seed, 7.5, 25, "ddim") for seed in range(2)]
    base = opened(tiny_sd)
    made = torch.from_numpy(np.concatenate(list(sampling.sample(base, requests, 64, 2))))
    torch.testing.assert_close(found.moments[:, 0], as_moments(base.vae, made, CPU), atol=1e-5, rtol=1e-5)
    path = config.out / run.CHECKPOINTS / building.CLASS_IMAGES
    before = path.stat().st_mtime_ns
    again = building.build_class_images(config, inputs, pipe, accelerator)
    assert torch.equal(again.moments, found.moments)
    assert path.stat().st_mtime_ns == before


def test_real_benign_class_images_are_of_part_train_and_were_seen(
    tiny_sd: Path, blobs: Path, blob_split: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path / "run", tiny_sd, blobs, blob_split, class_images="benign", num_class_images=10)
    inputs = building.read_inputs(config)
    rows = inputs.class_rows
    assert rows is not None
    assert len(rows) == 10
    assert set(rows[tables.TARGET]) == {0}
    assert set(rows[tables.IMAGE_ID]) <= set(inputs.data.train[tables.IMAGE_ID])
    assert set(inputs.seen[tables.IMAGE_ID]) == set(rows[tables.IMAGE_ID]) | set(inputs.data.chosen[tables.IMAGE_ID])
    pipe, size = building.build_base(config, inputs)
    accelerator = inference.build_accelerator("cpu", "fp32")
    found = building.build_class_images(config, inputs._replace(image_size=size), pipe, accelerator)
    images = Images(inputs.data.store, rows, 64, 1)(np.arange(10))
    torch.testing.assert_close(found.moments[:, 0], as_moments(pipe.vae, images, CPU), atol=1e-5, rtol=1e-5)
    assert not (config.out / run.CHECKPOINTS).exists()
