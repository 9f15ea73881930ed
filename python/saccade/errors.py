"""The exceptions of saccade, and how they get here from C++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Error(Exception):
    """Every exception that saccade raises on purpose.

    The message names the limit, the value that was given and the nearest legal choice. No output
    exists and nothing has been written when one of these is raised.
    """


class InvalidArgument(Error, ValueError):
    """The call contradicts its contract: shapes that disagree, a mask of another grid."""


class Unsupported(Error, NotImplementedError):
    """The call is meaningful, but no backend of this build implements it."""


class FileError(Error, OSError):
    """A file cannot be read or written, or it does not hold what it should.

    A file that is whole but of something else, such as another model, is an InvalidArgument.
    """


def call(op: Callable[..., Any], *args: Any) -> Any:
    """``op(*args)``, raising the classes above.

    torch turns a C++ exception into a RuntimeError with the same message, so the operators write
    the class in front of it. Compiled code cannot look into exceptions: there the RuntimeError
    itself is raised, with the same text.
    """
    if torch.compiler.is_compiling():
        return op(*args)
    try:
        return op(*args)
    except RuntimeError as error:
        prefix, _, message = str(error).partition(": ")
        for kind in (InvalidArgument, Unsupported, FileError):
            if prefix == f"saccade.{kind.__name__}":
                raise kind(message) from None
        raise
