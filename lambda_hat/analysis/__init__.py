"""What draws say: estimates, diagnostics, a verdict, figures. Runs on arrays; knows no sampler's inside."""
