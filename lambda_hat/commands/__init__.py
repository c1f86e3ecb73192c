"""What the scripts in bin/ run: arguments and printing."""
