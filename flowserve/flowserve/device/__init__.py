"""Devices. Only this folder knows one; the rest of the engine asks the adapter."""
