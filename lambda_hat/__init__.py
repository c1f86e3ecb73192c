"""Local Learning Coefficients of small neural networks. Importing this costs nothing: no JAX, no plotting."""

__version__ = "0.1.0"
