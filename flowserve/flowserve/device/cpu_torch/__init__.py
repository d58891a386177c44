"""Linear layers of the CPU in torch's own operators: where no compiler is there, and to check the kernels against."""
