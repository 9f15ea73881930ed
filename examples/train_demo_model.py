"""Trains the demo model: a small Wan transformer that draws moving shapes.

    python examples/train_demo_model.py --work build/demo_model --device cpu

A rectified flow on clips of saccade.demo.moving_shapes, from small and short clips to 16 frames of
64 x 64 (4,096 tokens). The work folder keeps a checkpoint every few minutes; the same command goes
on from it after an interruption. At the end, and with --export at any time, the averaged weights
are written to --out as a diffusers checkpoint in bfloat16.

On a CPU, an allocator that keeps what is freed saves a quarter of the time; with glibc:

    MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=100000000000 python examples/...

Held-out loss: mean squared error of the velocity on fixed clips, with fixed noise and timesteps, at
the full size. It is appended to WORK/log.jsonl and to the exported training.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional

from saccade.demo import moving_shapes
from saccade.demo.moving_shapes import Prompt, draw_clips, embed, fold

SHIFT = 3.0  # of noise levels towards noise, in training and when drawing
NO_PROMPT_SHARE = 0.1  # of the samples, for classifier-free guidance
AVERAGE_DECAY = 0.998
CHECKPOINT_SECONDS = 180
HELD_OUT_CLIPS = 8


@dataclass(frozen=True)
class Stage:
    frames: int
    size: int
    batch: int
    steps: int


# Shapes are learnt from many single frames, motion from few clips. Each group but the first was
# added when the one before it had ended, so that the learning rate of the weights in demo_model had
# decayed four times.
STAGES = (
    Stage(frames=1, size=32, batch=64, steps=2700),
    Stage(frames=4, size=32, batch=16, steps=300),
    Stage(frames=4, size=64, batch=4, steps=400),
    Stage(frames=16, size=64, batch=1, steps=150),  # held-out loss 0.135
    Stage(frames=1, size=64, batch=16, steps=900),
    Stage(frames=4, size=64, batch=4, steps=500),
    Stage(frames=16, size=64, batch=1, steps=200),  # 0.112
    Stage(frames=4, size=64, batch=4, steps=450),
    Stage(frames=16, size=64, batch=1, steps=250),  # 0.098
    Stage(frames=1, size=64, batch=16, steps=700),  # 0.120: another scale of noise; rings get holes
    Stage(frames=4, size=64, batch=4, steps=750),
    Stage(frames=16, size=64, batch=1, steps=260),  # 0.100
)
PEAK_LEARNING_RATE = 1e-3
WARM_UP_STEPS = 150
DECAY_SHARE = 0.3  # of all steps, at the end


def new_model() -> WanTransformer3DModel:
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=moving_shapes.LATENT_CHANNELS,
        out_channels=moving_shapes.LATENT_CHANNELS,
        text_dim=moving_shapes.TOKEN_CHANNELS,
        freq_dim=128,
        ffn_dim=640,
        num_layers=5,
        rope_max_seq_len=128,
    )
    torch.nn.init.zeros_(model.proj_out.weight)
    for block in model.blocks:
        torch.nn.init.constant_(block.attn1.norm_q.weight, 2.0)  # sharper attention from the start
    return model


def shifted(uniform: Tensor) -> Tensor:
    """Noise levels, 0 to 1, of uniform ones."""
    return SHIFT * uniform / (1 + (SHIFT - 1) * uniform)


def velocity_loss(
    model: WanTransformer3DModel, clean: Tensor, noise: Tensor, level: Tensor, prompts: Tensor
) -> Tensor:
    """Mean squared error of the predicted velocity, noise - clean, for each sample."""
    mixed = torch.lerp(clean, noise, level[:, None, None, None, None])
    predicted = model(mixed, 1000 * level, prompts, return_dict=False)[0]
    return (
        functional.mse_loss(predicted.float(), noise - clean, reduction="none").flatten(1).mean(1)
    )


class Trainer:
    def __init__(self, work: Path, device: torch.device) -> None:
        self.work = work
        self.device = device
        torch.manual_seed(0)
        self.model = new_model().to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01
        )
        self.generator = torch.Generator().manual_seed(1)
        self.step = 0
        self.seconds = 0.0
        self.log: list[dict[str, float]] = []

    @property
    def checkpoint(self) -> Path:
        return self.work / "checkpoint.pt"

    def save(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
        }
        new = self.checkpoint.with_suffix(".new")
        torch.save(state, new)
        os.replace(new, self.checkpoint)

    def resume(self) -> bool:
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
        return True

    def remaining_stages(self) -> Iterator[tuple[Stage, int]]:
        """The stages not finished yet, with the steps left of each."""
        begin = 0
        for stage in STAGES:
            left = min(stage.steps, begin + stage.steps - self.step)
            if left > 0:
                yield stage, left
            begin += stage.steps

    def learning_rate(self) -> float:
        warm_up = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        left = 1 - self.step / sum(stage.steps for stage in STAGES)
        return PEAK_LEARNING_RATE * warm_up * min(1.0, left / DECAY_SHARE)

    def train_step(self, stage: Stage) -> float:
        prompts = [Prompt.random(self.generator) for _ in range(stage.batch)]
        clips = draw_clips(prompts, frames=stage.frames, size=stage.size, generator=self.generator)
        dropped = torch.rand(stage.batch, generator=self.generator) < NO_PROMPT_SHARE
        given = [None if drop else prompt for prompt, drop in zip(prompts, dropped, strict=True)]
        offsets = torch.rand(stage.batch, generator=self.generator)
        level = shifted((torch.arange(stage.batch) + offsets) / stage.batch)
        clean = fold(clips)
        noise = torch.randn(clean.shape, generator=self.generator)
        inputs = (t.to(self.device) for t in (clean, noise, level, embed(given)))
        with self.autocast():
            loss = velocity_loss(self.model, *inputs).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.update_average()
        self.step += 1
        return loss.item()

    def update_average(self) -> None:
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - decay
            )

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Of the averaged weights, at full size, on clips that no training step sees."""
        generator = torch.Generator().manual_seed(10**6)
        total = 0.0
        for sample in range(HELD_OUT_CLIPS):
            prompt = Prompt.random(generator)
            clean = fold(
                draw_clips(
                    [prompt], frames=STAGES[-1].frames, size=STAGES[-1].size, generator=generator
                )
            )
            noise = torch.randn(clean.shape, generator=generator)
            level = shifted(torch.tensor([(sample + 0.5) / HELD_OUT_CLIPS]))
            inputs = (t.to(self.device) for t in (clean, noise, level, embed([prompt])))
            with self.autocast():
                total += velocity_loss(self.average, *inputs).item()
        return total / HELD_OUT_CLIPS

    def run(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as progress:
            for stage, left in self.remaining_stages():
                label = f"{stage.frames} frames of {stage.size} x {stage.size}"
                done = stage.steps - left
                bar = progress.add_task(label, total=stage.steps, completed=done, loss="")

                def show(loss: float, bar: TaskID = bar) -> None:
                    progress.update(bar, advance=1, loss=f"loss {loss:.4f}")

                self.run_stage(stage, left, show)

    def run_stage(self, stage: Stage, steps: int, show: Callable[[float], None]) -> None:
        """Trains, and leaves a checkpoint every CHECKPOINT_SECONDS and at the end."""
        recent = None
        begin = time.monotonic()
        for left in reversed(range(steps)):
            loss = self.train_step(stage)
            recent = loss if recent is None else 0.98 * recent + 0.02 * loss
            show(recent)
            elapsed = time.monotonic() - begin
            if elapsed > CHECKPOINT_SECONDS or left == 0:
                self.seconds += elapsed
                self.record(recent)
                self.save()
                begin = time.monotonic()

    def record(self, train_loss: float) -> None:
        entry = {
            "step": self.step,
            "seconds": round(self.seconds),
            "train_loss": round(train_loss, 5),
            "held_out_loss": round(self.held_out_loss(), 5),
        }
        self.log.append(entry)
        self.work.mkdir(parents=True, exist_ok=True)
        with (self.work / "log.jsonl").open("a") as file:
            print(json.dumps(entry), file=file)

    def export(self, out: Path) -> None:
        """The averaged weights as a diffusers checkpoint, with their scheduler and history."""
        weights = copy.deepcopy(self.average).to(torch.bfloat16)
        history = {"stages": [asdict(stage) for stage in STAGES], "log": self.log}
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out) as name:
            new = Path(name)
            weights.save_pretrained(new / "transformer")
            FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(new / "scheduler")
            (new / "training.json").write_text(json.dumps(history, indent=1) + "\n")
            for file in [file for file in new.rglob("*") if file.is_file()]:
                target = out / file.relative_to(new)
                target.parent.mkdir(exist_ok=True)
                os.replace(file, target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the demo model.")
    parser.add_argument("--work", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--out", type=Path, default=Path("examples/demo_model"))
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--export", action="store_true", help="export the checkpoint, do not train")
    arguments = parser.parse_args()

    trainer = Trainer(arguments.work, arguments.device)
    resumed = trainer.resume()
    if arguments.export and not resumed:
        parser.error(f"{trainer.checkpoint} does not exist; train first")
    if not arguments.export:
        trainer.run()
    trainer.export(arguments.out)


if __name__ == "__main__":
    main()
