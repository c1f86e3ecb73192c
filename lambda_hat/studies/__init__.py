"""Networks of the studies in conf/experiment, named there as `model.source`: each a function `make` that needs nothing but JAX."""
