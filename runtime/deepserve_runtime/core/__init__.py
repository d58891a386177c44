"""Decisions of a pod, free of input and output."""
