"""What an installation says about itself, from Python and from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import torch

import saccade


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_info():
    info = saccade.info()
    assert info["version"] == saccade.__version__
    assert info["torch"] == torch.__version__
    available = {backend["name"]: backend["available"] for backend in info["backends"]}
    assert available["reference"]
    assert available["cpu"]
    assert all(backend["details"] for backend in info["backends"])
    assert info["cpu_targets"]


def test_info_is_new_each_time():
    saccade.info()["cpu_targets"].clear()
    assert saccade.info()["cpu_targets"]


def test_module_prints_info():
    assert json.loads(run(sys.executable, "-m", "saccade")) == saccade.info()


def test_command_line_is_installed_with_the_package():
    command = Path(sys.executable).with_name("saccade")
    assert saccade.__version__ in run(command, "info")


def test_import_needs_nothing_but_torch():
    code = "import sys, torch; before = set(sys.modules); import saccade; "
    code += "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    foreign = set(run(sys.executable, "-c", code).split()) - sys.stdlib_module_names
    assert foreign <= {"saccade", "torch"}
