"""Both cores in simulated time: the second of their three drivers (the service and plain tests are the others)."""
