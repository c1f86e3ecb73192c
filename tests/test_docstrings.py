"""Examples in docstrings: what they print is what they say."""

import doctest
import importlib

import numpy as np
import problems  # noqa: F401  (starts JAX)
import pytest


@pytest.mark.parametrize(
    "module",
    ["analysis.estimates", "samplers.laplace", "samplers.hmc", "samplers.mclmc", "samplers.sgld", "jobs.estimate"],
)
def test_examples_of_docstrings_are_real(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"lambda_hat.{module}")
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(module, extraglobs={"np": np, **vars(module)}):
        runner.run(example)
    assert runner.tries > 0
    assert runner.failures == 0
