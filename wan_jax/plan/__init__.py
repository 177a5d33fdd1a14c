"""Whether a job fits a TPU slice and how long it should take, from the real TPU compiler and without a TPU."""
