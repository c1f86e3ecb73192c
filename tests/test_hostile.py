"""Whatever a store holds, every view of it ends with a table or a sentence, soon, and touches nothing outside.

LAMBDA_HAT_HOSTILE says how many stores the long test tries (3000).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("hostile.py")

QUICK = 40
"""Stores that the quick test tries."""

STORES = int(os.environ.get("LAMBDA_HAT_HOSTILE", "3000"))


def _try(directory, seeds):
    argv = [sys.executable, str(PROGRAM), str(directory / "runs"), str(seeds.start), str(seeds.stop)]
    outcome = subprocess.run(argv, capture_output=True, text=True)
    print(outcome.stdout[-200:])
    assert outcome.returncode == 0, outcome.stdout[:10_000] + outcome.stderr[-3000:]
    assert outcome.stdout.startswith(f"{len(seeds)} stores") and ": 0 wrong" in outcome.stdout


def test_any_store_is_shown_or_refused_in_a_sentence(tiny_store):
    _try(tiny_store[0], range(QUICK))


@pytest.mark.soak
def test_thousands_of_stores_are_shown_or_refused_in_a_sentence(tiny_store):
    _try(tiny_store[0], range(QUICK, QUICK + STORES))
