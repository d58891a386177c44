"""`flowserve bench`: the engine, its peers and the machine's limits, measured in one run."""
