"""The relational tensor cache (DeepServe 2.7): who holds which KV block. `storage` alone touches tensors."""
