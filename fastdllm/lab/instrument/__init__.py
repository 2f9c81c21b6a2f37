"""Decoders seen from outside: the probe, the published model's interface, a user's generation file."""
