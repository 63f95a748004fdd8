"""How long a study will take and how much disk: a few timed steps of each model, and what earlier jobs took."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from lesionforge.engine.families import FAMILIES
from lesionforge.progress import in_words
from lesionforge.study.jobs import KINDS, Job
from lesionforge.study.planning import Plan
from lesionforge.study.watching import seconds_of
from lesionforge.study.workflow import Machine

log = logging.getLogger("lesionforge")

START_SECONDS = 15.0  # of a job: Python, torch and timm; docs/benchmarks/startup.txt
OTHER_SECONDS = {"ensemble": 5.0, "preview": 5.0, "submit": 2.0, "explain": 60.0, "audit": 300.0}  # our guesses
SAMPLING_STEPS, BACKWARD = 25, 3  # of a generated image; a training step costs about three forward passes
UNET_FLOPS = {"scratch": 8.0e7, "pretrained": 8.0e11}  # a forward pass: own UNet of width 48 at 64 px, SD 1.5's at 512
FLOPS_A_SECOND = {"cpu": 2.0e10, "cuda": 4.0e13}  # what such a UNet gets out of a core or a GPU; rough
CANDIDATE_BYTES, ROW_BYTES, TRACKING_BYTES = 4_000, 60, 200_000
GENERATOR_BYTES = {"scratch": 2.0e8, "pretrained": 2.0e7, "full": 4.5e9}


class Estimate(NamedTuple):
    seconds: float
    num_bytes: float
    basis: str  # "measured", "timed" or "rough"


def estimate_jobs(
    study: Path, plan: Plan, counts: dict[str, int], num_scored: int, machine: Machine, timed: bool
) -> dict[str, Estimate]:
    """Seconds and bytes of each job.

    measured: runs of the same model and size in this study have ended. timed: a few steps of that model, now, on this
    machine. rough: from the number of images and a guess of the hardware's speed; a factor of three wrong, at times.

    Args:
        counts: real malignant and benign lesions of part train.
        num_scored: lesions that each run scores.
        timed: whether to time models; else trainings are roughly estimated too.
    """
    found: dict[str, Estimate] = {}
    per_image = measured_per_image(study, plan, counts)
    speeds: dict[str, Any] = {}
    for key, job in plan.jobs.items():
        known = seconds_of(study, key)
        if job.kind != "train":
            guess = rough(job, plan, counts["malignant"], machine.gpus or 0)
        else:
            guess = training(job, counts, num_scored, machine.threads, per_image, speeds if timed else None)
        found[key] = guess if known is None else Estimate(known, guess.num_bytes, "measured")
    return found


def measured_per_image(study: Path, plan: Plan, counts: dict[str, int]) -> dict[str, float]:
    """Seconds an image seen, by what decides a model's speed, from the trainings that have ended."""
    seconds: dict[str, list[float]] = {}
    for key, job in plan.jobs.items():
        known = seconds_of(study, key) if job.kind == "train" else None
        if known is not None:
            what, seen = speed_key(job), images_seen(job, counts)
            seconds.setdefault(repr(what), []).append(max(known - START_SECONDS, 0.0) / seen)
    return {what: sum(values) / len(values) for what, values in seconds.items()}


def speed_key(job: Job) -> tuple[Any, ...]:
    settings = job.steps[0].config.model_dump(mode="json")
    data, model = settings["data"], settings["model"]
    return model["name"], data["image_size"], data["batch_size"], settings["optim"]["precision"], model["timm_args"]


def images_seen(job: Job, counts: dict[str, int]) -> int:
    """Images that a training shows its model, all epochs together."""
    settings = job.steps[0].config.model_dump(mode="json")
    data, mix = settings["data"], settings["data"]["mix"]
    malignant, benign, synthetic = (
        counts.get(kind, 0) if mix[kind] == "all" else mix[kind]
        for kind in ("malignant", "benign", "synthetic_malignant")
    )
    an_epoch = data["samples_per_epoch"] or malignant + benign + synthetic
    if data["sampler"] == "fresh_benign":
        an_epoch = (malignant + synthetic) * (1 + data["benign_per_malignant"])
    return int(max(1, an_epoch) * settings["optim"]["epochs"])


def training(
    job: Job, counts: dict[str, int], num_scored: int, threads: int, per_image: dict[str, float],
    speeds: dict[str, Any] | None,
) -> Estimate:  # fmt: skip
    what, seen = speed_key(job), images_seen(job, counts)
    name, image_size, *_ = what
    parameters = 1e6 * FAMILIES[name].parameters if name in FAMILIES else 2e7
    basis, scoring = "rough", 0.0
    pixels = image_size or (FAMILIES[name].pixels if name in FAMILIES else 224)
    one = 6 * parameters * (pixels / 32) ** 2 / FLOPS_A_SECOND["cpu"]
    if repr(what) in per_image:
        basis, one = "measured", per_image[repr(what)]
    elif speeds is not None:
        from lesionforge.engine import timing

        if repr(what) not in speeds:
            name, image_size, batch_size, precision, timm_args = what
            log.info("timing a few steps of %s", name)
            speeds[repr(what)] = timing.speed_of(name, image_size, batch_size, precision, timm_args, threads)
        speed: timing.Speed = speeds[repr(what)]
        basis, one, scoring, parameters = "timed", speed.training_seconds, speed.scoring_seconds, speed.num_parameters
    num_bytes = 4 * parameters + num_scored * ROW_BYTES + TRACKING_BYTES
    return Estimate(START_SECONDS + seen * one + num_scored * scoring, num_bytes, basis)


def rough(job: Job, plan: Plan, num_malignant: int, num_gpus: int) -> Estimate:
    settings = job.steps[0].config.model_dump(mode="json")
    if job.kind not in ("finetune", "generate"):
        return Estimate(START_SECONDS + OTHER_SECONDS[job.kind], 2e6, "rough")
    taught = plan.jobs[f"finetune/{job.name}"].steps[0].config.model_dump(mode="json")
    base = "scratch" if taught["base"] == "scratch" else "pretrained"
    forward = UNET_FLOPS[base] / FLOPS_A_SECOND["cuda" if num_gpus else "cpu"]
    if base == "scratch":
        forward *= ((taught["data"]["image_size"] or 64) / 64) ** 2 * (taught["scratch"]["unet_width"] / 48) ** 2
    if job.kind == "generate":
        num = settings["num_images"]
        return Estimate(START_SECONDS + num * SAMPLING_STEPS * forward, num * CANDIDATE_BYTES, "rough")
    seen = num_malignant * settings["optim"]["epochs"]
    if base == "scratch":
        own = settings["scratch"]
        seen += own["prior_steps"] * own["prior_batch_size"] + own["vae_steps"] * own["vae_batch_size"]
    kept = "full" if base == "pretrained" and settings["method"] == "full" else base
    return Estimate(START_SECONDS + BACKWARD * seen * forward, GENERATOR_BYTES[kept], "rough")


def as_text(plan: Plan, estimates: dict[str, Estimate], at_once: int | None, done: set[str]) -> str:
    """The table of a dry run: jobs by kind, their time and disk; `at_once` is None where a cluster decides."""
    lines = [f"{'':10}{'jobs':>6}{'to do':>7}{'time, one after another':>26}{'disk':>10}  estimate"]
    for kind in KINDS:
        keys = [key for key, job in plan.jobs.items() if job.kind == kind]
        if keys:
            left = [key for key in keys if key not in done]
            seconds, disk = sum(estimates[key].seconds for key in left), sum(estimates[key].num_bytes for key in left)
            bases = ", ".join(sorted({estimates[key].basis for key in left})) or "-"
            lines.append(f"{kind:10}{len(keys):6}{len(left):7}{in_words(seconds):>26}{size(disk):>10}  {bases}")
    left = [key for key in plan.jobs if key not in done]
    seconds, disk = sum(estimates[key].seconds for key in left), sum(estimates[key].num_bytes for key in left)
    wall = (
        f"about {in_words(seconds / at_once)} with {at_once} at once" if at_once else "by as many as the profile lets"
    )
    lines.append(f"{'together':10}{len(plan.jobs):6}{len(left):7}{in_words(seconds):>26}{size(disk):>10}  {wall}")
    return "\n".join(lines)


def size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
