from hypothesis import settings

# No test depends on time, and each run of the tests sees the same examples.
settings.register_profile("saccade", deadline=None, derandomize=True)
settings.load_profile("saccade")
