"""Files that are either complete or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from .errors import FileError, Unsupported


def read_bytes(path: str | Path) -> bytes:
    """All of a file. Raises FileError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes ``path`` under a temporary name, then renames it; text is UTF-8. Raises FileError."""
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from error


def load_safetensors() -> Any:
    """The module safetensors.torch, with safe_open beside its functions. Raises Unsupported."""
    try:
        import safetensors.torch
    except ImportError:
        raise Unsupported(
            "files need the package safetensors; `pip install safetensors` installs it"
        ) from None
    return safetensors.torch
