"""Seeing and handling what is under a root: states, tables, a report, promotion, care. Reads files; imports no JAX."""
