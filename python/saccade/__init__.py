"""saccade: attention of diffusion transformers over the tiles that matter.

out = saccade.attention(q, k, v)                   # dense
out = saccade.attention(q, k, v, tiles=mask)       # only the active tiles of a TileMask
saccade.enable(pipeline, threshold=-6.0)           # LiteAttention inside a diffusers pipeline
"""

from . import baselines
from .adapters import disable, enable, load_state, save_state, summary
from .adapters.calibrate import calibrate
from .adapters.recording import Recorder, record
from .adapters.sla_weights import convert_sla_keys, load_sla, save_sla
from .adapters.summary import Summary
from .errors import Error, FileError, InvalidArgument, Unsupported
from .functional import attention, info, merge_partials
from .lite import LiteAttention
from .lite_schedule import CalibrationRecord, Fingerprint, LayerThresholds, LiteSchedule
from .sla import linear_attention, pool_tiles, select_tiles, sparse_linear_attention
from .sla_module import SparseLinearAttention
from .sla_operations import SlaOperations, sla_operations
from .space_time import choose_box, inverse_order, token_order
from .tile_mask import TileGrid, TileMask

__all__ = [
    "CalibrationRecord",
    "Error",
    "FileError",
    "Fingerprint",
    "InvalidArgument",
    "LayerThresholds",
    "LiteAttention",
    "LiteSchedule",
    "Recorder",
    "SlaOperations",
    "SparseLinearAttention",
    "Summary",
    "TileGrid",
    "TileMask",
    "Unsupported",
    "attention",
    "baselines",
    "calibrate",
    "choose_box",
    "convert_sla_keys",
    "disable",
    "enable",
    "info",
    "inverse_order",
    "linear_attention",
    "load_sla",
    "load_state",
    "merge_partials",
    "pool_tiles",
    "record",
    "save_sla",
    "save_state",
    "select_tiles",
    "sla_operations",
    "sparse_linear_attention",
    "summary",
    "token_order",
]

__version__: str = info()["version"]
