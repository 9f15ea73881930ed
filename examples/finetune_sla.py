"""Fine-tunes a Wan transformer for SLA (arXiv 2509.24006).

    python examples/finetune_sla.py --work build/sla
    python examples/finetune_sla.py --work DIR --model WAN_FOLDER --data LATENTS --preset paper
    torchrun --nproc-per-node 8 examples/finetune_sla.py ...

Without --model it is the demo model, on the clips it was made for; with it, a checkpoint of Wan in
diffusers format (a folder with transformer/ and scheduler/), on a folder of latents and prompt
embeddings (see finetune_data.py).

--loss diffusion is the ordinary loss, the error of the velocity; --loss velocity is the error
against the velocity of the dense model, the teacher. --train all changes every weight; proj only
what SLA adds; lora that, and low-rank changes of the self-attentions' projections.

WORK keeps a checkpoint every few minutes, with which the same command goes on after an
interruption, bit by bit; log.jsonl, with the losses; and at the end sla.safetensors
(saccade.load_sla) with transformer/ or lora/. Held-out losses are those of fixed clips, noise and
timesteps, the same for dense attention, for SLA before training and for SLA trained.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from finetune_data import DrawnClips, LatentFiles, Sample, Samples, pretraining_tokens
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, distributed, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

import saccade

ROOT = Path(__file__).parents[1]
CHECKPOINT_SECONDS = 180
LORA_TARGETS = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"]


@dataclass(frozen=True)
class Recipe:
    """``warm_up``: steps of rising learning rate. ``decay_share``: of all steps, at the end."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    warm_up: int = 0
    decay_share: float = 0.0
    ema: float = 0.0


# paper: steps and batch of arXiv 2509.24006, which names no learning rate: that of TurboDiffusion.
# turbodiffusion: its public configuration, AdamW with betas 0.9 and 0.999 and 4 samples a process.
# It names neither the number of processes, here 8, nor that of steps, here the paper's.
PRESETS = {
    "paper": Recipe(steps=2000, batch=64, learning_rate=1e-5, weight_decay=0.01),
    "turbodiffusion": Recipe(steps=2000, batch=32, learning_rate=1e-5, weight_decay=0.01),
    "demo": Recipe(
        steps=400, batch=2, learning_rate=2e-4, weight_decay=0.01, warm_up=20, decay_share=0.5
    ),
}


class Trainer:
    """The student (SLA), the teacher (dense attention), and what an interruption must not lose."""

    def __init__(
        self, arguments: argparse.Namespace, recipe: Recipe, samples: Samples, device: torch.device
    ) -> None:
        self.arguments, self.recipe, self.samples, self.device = arguments, recipe, samples, device
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.processes = distributed.get_world_size() if distributed.is_initialized() else 1
        if recipe.batch % (self.processes * arguments.accumulate):
            raise saccade.InvalidArgument(
                f"--batch {recipe.batch} must be a multiple of the processes times --accumulate, "
                f"{self.processes * arguments.accumulate}"
            )
        self.shift, self.timesteps = _scheduler_of(arguments.model)
        self.teacher = self._load().requires_grad_(False).eval()
        self.student = self._load()
        saccade.enable(self.student, "sla", **_sla_options(arguments))
        self.trained = _choose_trained(self.student, arguments)
        if arguments.gradient_checkpointing:
            self.student.enable_gradient_checkpointing()
        self.student.train()
        self.forward: nn.Module = self.student
        if self.processes > 1:
            self.forward = DistributedDataParallel(self.student)
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.average = (
            {name: x.detach().clone() for name, x in self.trained.items()} if recipe.ema else {}
        )
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0

    @property
    def checkpoint(self) -> Path:
        return self.arguments.work / "checkpoint.pt"

    def save(self) -> None:
        if self.rank > 0:
            return
        state = {
            "trained": {name: x.detach() for name, x in self.trained.items()},
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }
        new = self.checkpoint.with_suffix(".new")
        torch.save(state, new)
        os.replace(new, self.checkpoint)

    def resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["trained"].keys() != self.trained.keys():
            raise saccade.InvalidArgument(
                f"{self.checkpoint} is of other --train or SLA options; give another --work"
            )
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["trained"][name])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]

    def train_step(self) -> float:
        """One step of the optimizer; returns the loss of the whole batch."""
        accumulate = self.arguments.accumulate
        part = self.recipe.batch // (self.processes * accumulate)
        total = torch.zeros((), device=self.device)
        for turn in range(accumulate):
            begin = (self.rank * accumulate + turn) * part
            is_last = turn == accumulate - 1
            with nullcontext() if is_last or self.processes == 1 else self.forward.no_sync():
                loss = self._loss(range(begin, begin + part)) / accumulate
                loss.backward()
            total += loss.detach()
        if self.processes > 1:
            distributed.all_reduce(total)
            total /= self.processes
        nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_average()
        self.step += 1
        return total.item()

    def learning_rate(self) -> float:
        recipe = self.recipe
        factor = min(1.0, (self.step + 1) / recipe.warm_up) if recipe.warm_up else 1.0
        if recipe.decay_share:
            factor *= min(1.0, (1 - self.step / recipe.steps) / recipe.decay_share)
        return recipe.learning_rate * factor

    @torch.no_grad()
    def held_out_losses(self, model: nn.Module) -> dict[str, float]:
        """Means over the held-out clips: against the true velocity, and against the teacher's."""
        count = self.samples.held_out_count
        losses = {"diffusion": 0.0, "velocity": 0.0}
        for number in range(count):
            inputs, truth = self._mix([self.samples.held_out(number)], [(number + 0.5) / count])
            predicted = self._velocity(model, inputs)
            taught = self._velocity(self.teacher, inputs)
            losses["diffusion"] += mse_loss(predicted, truth).item() / count
            losses["velocity"] += mse_loss(predicted, taught).item() / count
        return losses

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the student, where they are kept."""
        kept = {name: self.trained[name].detach().clone() for name in self.average}
        self._put(self.average)
        yield
        self._put(kept)

    def export(self) -> None:
        """What users load, in the work folder. The student is plain diffusers' afterwards."""
        work = self.arguments.work
        with torch.no_grad():
            self._put(self.average)
        saccade.save_sla(self.student, work / "sla.safetensors")
        if self.arguments.train == "lora":
            self.student.save_lora_adapter(work / "lora")
        saccade.disable(self.student)
        if self.arguments.train == "all":
            self.student.save_pretrained(work / "transformer")

    def _load(self) -> WanTransformer3DModel:
        model = WanTransformer3DModel.from_pretrained(
            self.arguments.model, subfolder="transformer", dtype=torch.float32
        )
        return model.to(self.device)

    def _loss(self, places: range) -> Tensor:
        """Of some places of the batch. Noise levels are spread evenly over the whole batch."""
        first = self.step * self.recipe.batch
        samples = [self.samples.training(first + place) for place in places]
        offsets = [float(torch.rand((), generator=sample.generator)) for sample in samples]
        uniform = [
            (place + offset) / self.recipe.batch
            for place, offset in zip(places, offsets, strict=True)
        ]
        inputs, truth = self._mix(samples, uniform)
        target = truth
        if self.arguments.loss == "velocity":
            with torch.no_grad():
                target = self._velocity(self.teacher, inputs)
        self.tokens += self.processes * math.prod(_grid_of(self.student, truth)) * len(samples)
        return mse_loss(self._velocity(self.forward, inputs), target)

    def _mix(
        self, samples: list[Sample], uniform: list[float]
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Arguments of the transformer at these noise levels before their shift; true velocity."""
        clean = torch.stack([sample.clean for sample in samples])
        noise = torch.stack(
            [torch.randn(sample.clean.shape, generator=sample.generator) for sample in samples]
        )
        level = torch.tensor(uniform)
        level = self.shift * level / (1 + (self.shift - 1) * level)
        mixed = torch.lerp(clean, noise, level[:, None, None, None, None])
        prompts = torch.stack([sample.prompt for sample in samples])
        inputs = tuple(x.to(self.device) for x in (mixed, self.timesteps * level, prompts))
        return inputs, (noise - clean).to(self.device)

    def _velocity(self, model: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        with self._autocast():
            return model(*inputs, return_dict=False)[0].float()

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.arguments.dtype == "bf16"
        )

    def _update_average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.trained[name], 1 - decay)

    def _put(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                self.trained[name].copy_(weight)


def run(trainer: Trainer, console: Console) -> None:
    """Trains to the end, with checkpoints, held-out losses and a line of the log for each."""
    recipe, work = trainer.recipe, trainer.arguments.work
    work.mkdir(parents=True, exist_ok=True)
    trainer.resume()
    dense = trainer.held_out_losses(trainer.teacher)
    columns = (TextColumn("{task.fields[losses]}"), BarColumn(), TimeRemainingColumn())
    columns = (TextColumn("step {task.completed} of {task.total}"), *columns)
    recent: list[float] = []
    begin = saved = time.monotonic()

    def evaluate() -> None:
        with trainer.averaged():
            losses = trainer.held_out_losses(trainer.student)
        entry = {
            "step": trainer.step,
            "seconds": round(trainer.seconds),
            "train_loss": sum(recent) / len(recent) if recent else None,
            "held_out": losses,
            "held_out_dense": dense,
        }
        if trainer.rank == 0:
            with (work / "log.jsonl").open("a") as file:
                print(json.dumps(entry), file=file)
        console.print(
            f"step {trainer.step}: held-out loss {losses['diffusion']:.5f} "
            f"(dense {dense['diffusion']:.5f}), error of the velocity {losses['velocity']:.5f}"
        )
        recent.clear()

    with Progress(*columns, console=console, disable=trainer.rank > 0) as progress:
        bar = progress.add_task("", total=recipe.steps, completed=trainer.step, losses="")
        if trainer.step == 0:
            evaluate()
            begin = time.monotonic()
        while trainer.step < recipe.steps:
            recent.append(trainer.train_step())
            mean = sum(recent[-50:]) / len(recent[-50:])
            progress.update(bar, advance=1, losses=f"loss {mean:.4f}")
            now = time.monotonic()
            trainer.seconds += now - begin
            if _is_evaluated(trainer.step) or trainer.step == recipe.steps:
                evaluate()
            begin = time.monotonic()
            is_due = begin - saved > CHECKPOINT_SECONDS or trainer.step == trainer.arguments.stop_at
            if is_due or trainer.step == recipe.steps:
                trainer.save()
                saved = time.monotonic()
            if trainer.step == trainer.arguments.stop_at:
                return
    _print_share(trainer, console)
    if trainer.rank == 0:
        trainer.export()


def _is_evaluated(step: int) -> bool:
    """Steps 10, 100, 200, ..., 1000, 2000, ..."""
    return step == 10 or step % (100 if step <= 1000 else 1000) == 0


def _print_share(trainer: Trainer, console: Console) -> None:
    console.print(f"{trainer.tokens:,} tokens in {trainer.seconds / 60:.1f} minutes")
    pretraining = pretraining_tokens(Path(trainer.arguments.model))
    share = "unknown" if pretraining is None else f"{trainer.tokens / pretraining:.2%}"
    console.print(f"share of the tokens that the model was pretrained on: {share}")


def _choose_trained(
    student: WanTransformer3DModel, arguments: argparse.Namespace
) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name; the others are frozen."""
    if arguments.train == "lora":
        from peft import LoraConfig

        torch.manual_seed(arguments.seed)  # LoRA begins with random numbers
        student.add_adapter(
            LoraConfig(
                r=arguments.lora_rank, lora_alpha=arguments.lora_rank, target_modules=LORA_TARGETS
            )
        )
    for name, parameter in student.named_parameters():
        is_own = ".attn1.sla." in name or ".lora_" in name
        parameter.requires_grad_(is_own or arguments.train == "all")
    return {name: x for name, x in student.named_parameters() if x.requires_grad}


def _sla_options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("critical", "negligible", "feature_map", "linear", "block_q", "block_k", "token_order")
    return {name: getattr(arguments, name) for name in names} | {"min_length": 0}


def _scheduler_of(model: str) -> tuple[float, int]:
    """The shift of noise levels, and the timestep of pure noise."""
    path = Path(model) / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    return config.get("flow_shift", config.get("shift", 1.0)), config.get(
        "num_train_timesteps", 1000
    )


def _grid_of(model: WanTransformer3DModel, latents: Tensor) -> tuple[int, ...]:
    """Tokens of a latent along frames, rows and columns."""
    return tuple(n // p for n, p in zip(latents.shape[2:], model.config.patch_size, strict=True))


def _share(text: str) -> float | int:
    """A number of tiles without a point, a ratio with one."""
    return float(text) if "." in text else int(text)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder of checkpoints, log and results")
    add("--model", default=str(ROOT / "examples/demo_model"))
    add("--data", type=Path, help="folder of latents; none draws clips for the demo model")
    add("--preset", choices=PRESETS, help="demo for the demo model, else paper")
    for field in fields(Recipe):
        convert = int if field.name in ("steps", "batch", "warm_up") else float
        add(f"--{field.name.replace('_', '-')}", type=convert, help="in place of the preset's")
    add("--loss", choices=("diffusion", "velocity"), default="diffusion")
    add("--train", choices=("all", "proj", "lora"), default="all")
    add("--lora-rank", type=int, default=16)
    add("--accumulate", type=int, default=1, help="parts in which each process takes its batch")
    add("--gradient-checkpointing", action="store_true")
    add("--critical", type=_share, default=0.05, help="share of key tiles, or a count")
    add("--negligible", type=_share, default=0.10)
    add("--feature-map", default="softmax")
    add("--linear", choices=("marginal", "all"), default="marginal")
    add("--block-q", type=int, default=64)
    add("--block-k", type=int, default=64)
    add("--token-order", default="frames")
    add("--frames", type=int, default=16, help="of the drawn clips")
    add("--size", type=int, default=64, help="of the drawn clips, in pixels")
    add("--held-out", type=int, default=8, help="clips")
    add("--seed", type=int, default=0)
    add("--device", help="cuda if there is one, else cpu")
    add("--dtype", choices=("f32", "bf16"), help="of products: bf16 on cuda, f32 on cpu")
    add("--stop-at", type=int, help="step after which to leave; the same command goes on")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    preset = arguments.preset or ("demo" if arguments.data is None else "paper")
    given = {f.name: getattr(arguments, f.name) for f in fields(Recipe)}
    recipe = replace(PRESETS[preset], **{k: x for k, x in given.items() if x is not None})
    has_cuda = torch.cuda.is_available()
    device = torch.device(arguments.device or ("cuda" if has_cuda else "cpu"))
    arguments.dtype = arguments.dtype or ("bf16" if device.type == "cuda" else "f32")
    if "RANK" in os.environ:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
    samples: Samples
    if arguments.data is None:
        samples = DrawnClips(
            arguments.frames, arguments.size, arguments.held_out, 10 * arguments.seed
        )
    else:
        samples = LatentFiles(arguments.data, arguments.held_out, 10 * arguments.seed)
    trainer = Trainer(arguments, recipe, samples, device)
    run(trainer, Console(quiet=trainer.rank > 0))
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
