"""One rank: it holds weights, KV storage and the tokens of its sequences, and executes batches."""
