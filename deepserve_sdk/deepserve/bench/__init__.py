"""Measurements that a user can repeat on their own machine: limit, peer and ours in one run."""
