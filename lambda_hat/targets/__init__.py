"""Targets: the model, its data, its loss, the minimum w0 and what is known about λ there. Knows no sampler."""
