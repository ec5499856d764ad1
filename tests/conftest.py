"""Settings that every test shares."""

from hypothesis import settings

# Timings are benchmarks: a slow example on a busy machine is no failure.
settings.register_profile("musc_ray", deadline=None)
settings.load_profile("musc_ray")
