"""saccade: attention of diffusion transformers over the tiles that matter.

out = saccade.attention(q, k, v)                   # dense
out = saccade.attention(q, k, v, tiles=mask)       # only the active tiles of a TileMask
"""

from .errors import Error, InvalidArgument, Unsupported
from .functional import attention, info, merge_partials
from .lite import LiteAttention, LiteSchedule
from .tile_mask import TileGrid, TileMask

__all__ = [
    "Error",
    "InvalidArgument",
    "LiteAttention",
    "LiteSchedule",
    "TileGrid",
    "TileMask",
    "Unsupported",
    "attention",
    "info",
    "merge_partials",
]

__version__: str = info()["version"]
