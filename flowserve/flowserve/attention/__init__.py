"""Attention over the paged KV cache: one contract, one back end per device."""
