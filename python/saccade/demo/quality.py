"""How close a clip is to another one, and how steady it is."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

PSNR_CEILING = 100.0  # dB; a frame that is equal has an infinite ratio


def psnr(clip: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB: the mean over frames, each at most PSNR_CEILING.

    Clips are float [3, frames, height, width] with values in 0 to 1.
    """
    frames, wanted = _frames(clip), _frames(reference)
    each = peak_signal_noise_ratio(frames, wanted, data_range=1.0, dim=(1, 2, 3), reduction="none")
    return each.clamp(max=PSNR_CEILING).mean().item()


def ssim(clip: Tensor, reference: Tensor) -> float:
    """Structural similarity, at most 1: the mean over frames. Clips as for psnr."""
    return structural_similarity_index_measure(
        _frames(clip), _frames(reference), data_range=1.0
    ).item()


def flicker(clip: Tensor) -> float:
    """Mean absolute change from each frame to the next; 0 for a clip of one frame."""
    if clip.shape[1] == 1:
        return 0.0
    return clip.diff(dim=1).abs().mean().item()


def _frames(clip: Tensor) -> Tensor:
    return clip.float().transpose(0, 1)
