"""`python -m musc_ray.cli`."""

from musc_ray.cli import main

main()
