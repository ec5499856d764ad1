"""The parts of `bench_method.py`: image sets, features and distances in a cache, choices of constants, and figures."""
