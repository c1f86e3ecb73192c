"""Errors, signals and devices: what everything else stands on."""
