import os

from hypothesis import settings

# Threads that wait for each other sleep instead of spinning. Set before torch is loaded; on a
# machine that is busy with other work, hundreds of small problems run ten times faster.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# No test depends on time, and each run of the tests sees the same examples.
settings.register_profile("saccade", deadline=None, derandomize=True)
settings.register_profile(
    "soak", settings.get_profile("saccade"), max_examples=20_000, derandomize=False
)
settings.load_profile("saccade")
