"""Model folders: their configuration, their tensors, and one short file per architecture."""
