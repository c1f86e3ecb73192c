"""What is under a root: records, tables, filters."""
