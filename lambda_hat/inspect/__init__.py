"""What is under a root: typed records, their states, filters, groups, tables, and upkeep. Imports no JAX."""
