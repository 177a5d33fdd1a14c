"""PyTorch weights → Orbax, and back.  `python -m convert --help`."""
