"""Parts that models are made of: plain callables over tensors they were given."""
