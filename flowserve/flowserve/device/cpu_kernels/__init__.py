"""The CPU's own kernels: a C++ extension that computes a whole step of a decoder in one call (decision 0012)."""
