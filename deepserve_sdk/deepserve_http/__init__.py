"""HTTP for clients that are slow, greedy, gone or no writers of UTF-8: what the controller's port and
`flowserve serve` have in common.

Knows neither of them, and nothing of what is served.
"""
