"""Trains the classifier that judges drawn clips, in about a minute on two cores.

    python examples/train_classifier.py --out examples/demo_model/classifier.safetensors

It learns from single frames of real clips of saccade.demo.moving_shapes, half of them blurred and
noisy, because drawn clips are not perfect, and some without an object. Its accuracy on held-out
clips is printed and stored beside the weights; below 97 % nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from saccade.demo.classifier import LABELS, Accuracy, Classifier, save_classifier
from saccade.demo.moving_shapes import Prompt, draw_clips, draw_grounds

STEPS = 300
BATCH = 32
SIZE = 64
PEAK_LEARNING_RATE = 3e-3
LEAST_ACCURACY = 0.97
HELD_OUT_CLIPS = 400


def real_clips(count: int, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips, and the index of the label of each; one in eight shows a background and nothing."""
    prompts = [Prompt.random(generator) for _ in range(count)]
    labels = torch.tensor([LABELS.index(prompt.kind) for prompt in prompts])
    clips = draw_clips(prompts, frames=frames, size=SIZE, generator=generator)
    labels[::8] = LABELS.index("nothing")
    clips[::8] = draw_grounds(prompts[::8], frames=frames, size=SIZE, generator=generator)
    return clips, labels


def degrade(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Blur of 0 to 2 pixels and noise up to 0.1, of random strength for each clip."""
    frames = clips.transpose(1, 2).flatten(0, 1)
    blurred = functional.avg_pool2d(functional.pad(frames, (2, 2, 2, 2), "replicate"), 5, 1)
    blurred = blurred.unflatten(0, (len(clips), -1)).transpose(1, 2)
    share, level = torch.rand(2, len(clips), 1, 1, 1, 1, generator=generator)
    noise = torch.randn(clips.shape, generator=generator)
    return (clips.lerp(blurred, share) + 0.1 * level * noise).clamp(0, 1)


def train(generator: torch.Generator) -> Classifier:
    torch.manual_seed(0)
    classifier = Classifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, STEPS)
    for _ in track(range(STEPS), description="training"):
        clips, labels = real_clips(BATCH, 1, generator)
        half = BATCH // 2
        clips = torch.cat([clips[:half], degrade(clips[half:], generator)])
        functional.cross_entropy(classifier(clips), labels).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return classifier.eval()


@torch.inference_mode()
def measure(classifier: Classifier, generator: torch.Generator) -> Accuracy:
    right = torch.zeros(2)
    for _ in range(HELD_OUT_CLIPS // 40):
        clips, labels = real_clips(40, 16, generator)
        for i, seen in enumerate((clips, degrade(clips, generator))):
            right[i] += (classifier(seen).argmax(1) == labels).sum()
    clean, degraded = (right / HELD_OUT_CLIPS).tolist()
    return Accuracy(round(clean, 4), round(degraded, 4), HELD_OUT_CLIPS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the classifier of the demo.")
    parser.add_argument(
        "--out", type=Path, default=Path("examples/demo_model/classifier.safetensors")
    )
    arguments = parser.parse_args()
    classifier = train(torch.Generator().manual_seed(0))
    accuracy = measure(classifier, torch.Generator().manual_seed(10**6))
    classifier.accuracy = accuracy
    print(
        f"held-out accuracy of {accuracy.clips} clips: {accuracy.clean:.1%} clean, "
        f"{accuracy.degraded:.1%} blurred and noisy"
    )
    if accuracy.clean < LEAST_ACCURACY:
        sys.exit(f"below {LEAST_ACCURACY:.0%}: nothing written")
    save_classifier(classifier, arguments.out)


if __name__ == "__main__":
    main()
