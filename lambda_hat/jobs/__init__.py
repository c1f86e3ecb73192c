"""A job: one target or one run, made once, with its progress, its loggers and the memory it takes."""
