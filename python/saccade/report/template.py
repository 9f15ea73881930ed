"""Pages that need nothing but themselves to open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup


def render_template(name: str, *, scripts: Sequence[str], data: Any, **values: Any) -> str:
    """A page as HTML text, with plotly, ``scripts`` and the ``data`` that they read in it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("saccade.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    source = environment.loader.get_source
    return environment.get_template(name).render(
        **values,
        style=Markup(source(environment, "report.css")[0]),
        script=Markup("\n".join(source(environment, script)[0] for script in scripts)),
        plotly=Markup(plotly.offline.get_plotlyjs()),
        data=_script_safe(data),
    )


def _script_safe(data: Any) -> Markup:
    """JSON that no text in it can end the script element of."""
    return Markup(json.dumps(data, allow_nan=False, default=_plain).replace("<", "\\u003c"))


def _plain(value: Any) -> Any:
    """Tuples and arrays of plotly as lists."""
    return list(value)
