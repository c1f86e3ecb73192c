"""What stands between Hydra and the machine, or the cluster, that does the work. Knows no numerics."""
