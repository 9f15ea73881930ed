"""``python -m saccade``: what this installation is, as JSON."""

import json

from . import info

print(json.dumps(info(), indent=2))
