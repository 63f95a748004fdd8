"""What a pipeline can be asked for: sizes, schedulers, batches that fit the memory."""

import inspect
from collections.abc import Sequence

import torch

from lesionforge.diffusion import sampling
from lesionforge.diffusion.denoising import vae_factor
from lesionforge.engine.inference import is_out_of_memory
from lesionforge.errors import BadInput


def size_multiple(pipe: sampling.Pipe) -> int:
    """The side of an image must be a multiple of this many pixels, for all levels of VAE and UNet."""
    return int(vae_factor(pipe.vae) * 2 ** (len(pipe.unet.config.block_out_channels) - 1))


def require_scheduler(pipe: sampling.Pipe, name: str) -> None:
    """Refuse a scheduler that cannot take away this model's noise.

    Raises:
        BadInput: the model was trained to a signal of zero at the last step, which this scheduler does not know.
    """
    if pipe.scheduler.config.get("rescale_betas_zero_snr") and not knows_zero_snr(name):
        fit = [other for other in sampling.SCHEDULERS if knows_zero_snr(other)]
        raise BadInput(
            f"scheduler: {name} does not know noise schedules that end in pure noise (zero terminal SNR), as this "
            f"generator has; choose among {', '.join(fit)}"
        )


def knows_zero_snr(name: str) -> bool:
    return "rescale_betas_zero_snr" in inspect.signature(sampling.SCHEDULERS[name].scheduler).parameters


def batch_that_fits(pipe: sampling.Pipe, requests: Sequence[sampling.Request], image_size: int) -> int:
    """The largest half, quarter, ... of a batch that one step was made of without running out of memory; 0: none."""
    count = len(requests) // 2
    while count:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        one_step = [request._replace(num_inference_steps=1, scheduler="ddim") for request in requests[:count]]
        try:
            sampling.denoised(pipe, one_step, image_size, {})
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            count //= 2
        else:
            return count
    return 0
