"""Samplers of the local posterior: one module each, one shared loop. Know no store."""
