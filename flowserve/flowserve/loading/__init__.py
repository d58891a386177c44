"""How a model's bytes come to where they are computed with: from a file, from memory, from another process."""
