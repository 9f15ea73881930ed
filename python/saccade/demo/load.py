"""Finds out what kind of model a path or a name stands for."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import InvalidArgument
from .checkpoint import MODEL_INDEX, TRAINING, require_wan_checkpoint
from .models import Model
from .moving_shapes_model import MovingShapesModel
from .wan_model import WanModel


def load_model(path_or_id: str, device: torch.device) -> Model:
    """The bundled model where the folder is that of one, otherwise a Wan checkpoint.

    Raises InvalidArgument if there is none, or a corrupt or foreign one.
    """
    folder = Path(path_or_id)
    if not folder.exists():
        if path_or_id.count("/") == 1 and not path_or_id.startswith((".", "/", "examples/")):
            return WanModel(path_or_id, device)
        raise InvalidArgument(f"there is no folder {path_or_id}")
    if not folder.is_dir():
        raise InvalidArgument(f"{path_or_id} is a file; give the folder of a checkpoint")
    if (folder / MODEL_INDEX).exists():
        require_wan_checkpoint(folder)
        return WanModel(path_or_id, device)
    if any((folder / name).exists() for name in (TRAINING, "transformer")):
        return MovingShapesModel(folder, device)
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) or "nothing"
    raise InvalidArgument(
        f"{path_or_id} holds neither the demo model ({TRAINING}, transformer/, scheduler/) nor a "
        f"diffusers pipeline ({MODEL_INDEX}); found: {found}"
    )


def find_device(name: str | None, usable: list[str]) -> torch.device:
    """The device called ``name``, or the best of the ``usable`` ones, among which is "cpu".

    Raises InvalidArgument for one that torch does not know or this machine lacks.
    """
    if name is None:
        has_cuda = "cuda" in usable and torch.cuda.is_available()
        return torch.device("cuda" if has_cuda else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidArgument(f"device {name!r} cannot be used: {_first_line(error)}") from None
    return device


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
