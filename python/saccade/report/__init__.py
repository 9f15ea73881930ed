"""One self-contained HTML report of dense against sparse generations.

Takes measurements, clips and masks, and knows nothing of the model that they came from:

    write_report(Contents(title=..., lead=..., measurements=..., ...), folder)

Needs the packages of ``pip install saccade[demo]``.
"""

from .contents import Clip, Contents, MaskHistory
from .measurement import Interval, Measurement, Row, featured, summarise
from .page import write_report

__all__ = [
    "Clip",
    "Contents",
    "Interval",
    "MaskHistory",
    "Measurement",
    "Row",
    "featured",
    "summarise",
    "write_report",
]
