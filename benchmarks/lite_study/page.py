"""The study as one HTML file that needs nothing else to open."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import jinja2
from markupsafe import Markup

from .section import Section

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The study of LiteAttention</title>
<style>
{{ style }}
.picture { margin-top: 14px; }
.picture svg { max-width: 100%; height: auto; background: #fff; border-radius: 12px; }
</style>
</head>
<body>
<main>
<header>
  <p class="kicker">saccade</p>
  <h1>The study of LiteAttention</h1>
  <p class="lead"><code>{{ command }}</code></p>
</header>
{% for section in sections %}
<section>
  <h2>{{ section.title }}</h2>
  <p>{{ section.lead }}</p>
  {% for table in section.tables %}
  <h3>{{ table.title }}</h3>
  <div class="scroll"><table>
    <thead><tr>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
    <tbody>
    {% for row in table.rows %}
    <tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
    {% endfor %}
    </tbody>
  </table></div>
  {% endfor %}
  {% for picture in section.pictures.values() %}
  <div class="picture">{{ svg(picture) }}</div>
  {% endfor %}
</section>
{% endfor %}
</main>
</body>
</html>
"""


def html_of(sections: Sequence[Section], command: str) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = files("saccade.report").joinpath("templates/report.css").read_text()
    return environment.from_string(_TEMPLATE).render(
        sections=sections, command=command, style=Markup(style), svg=_inline
    )


def _inline(picture: bytes) -> Markup:
    """Without what only a file of its own has before its first element."""
    text = picture.decode()
    return Markup(text[text.index("<svg") :])
