"""analysis.json as a record: what is written is read back, older files are read, and whatever is no such file is one sentence."""

import copy
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lambda_hat.analysis import summary
from lambda_hat.analysis.summary import COLUMNS, Summary
from lambda_hat.system.errors import StoreError

VERSION_1 = json.loads((Path(__file__).parent / "analysis_version1.json").read_text())
"""What sample.py wrote of an SGLD run before the file named its schema."""

WRONG = (
    None,
    True,
    -1,
    10**400,
    1e300,
    float("nan"),
    float("inf"),
    "text",
    "\ud800",
    "",
    [],
    [[]],
    [None, 1.0, "x"],
    {},
    {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}},
)


@pytest.fixture
def record():
    return Summary.from_json(VERSION_1, "analysis.json")


def test_an_older_file_is_read_and_what_it_lacks_is_none(record):
    assert (record.sampler, record.status, record.llc_mean) == ("sgld", "warn", VERSION_1["llc_mean"])
    assert record.estimator == 1
    assert record.run_id is None and record.llc_raw is None and record.w0_norm2 is None
    assert record.truth.learning_coefficient == 1.5
    assert record.created_at == 1795582192.0
    assert record.estimand.nbeta == pytest.approx(60 * 0.244239)
    assert record.provenance.pkg_versions["blackjax"] == "1.7.1"


def test_work_of_an_older_file_takes_in_the_curvature(record):
    assert record.fges.curvature == VERSION_1["curvature_fges"] == 6
    assert record.total_fges == VERSION_1["total_fges"] + 6


def test_what_is_written_is_read_back(record):
    record = replace(record, run_id="run_sgld_00000000", llc_raw=0.34, estimator=summary.ESTIMATOR)
    text = json.dumps(record.to_json(), allow_nan=False)
    assert Summary.from_json(json.loads(text), "analysis.json") == record
    flat = json.loads(text)
    assert flat["n"] == 60 and flat["truth"]["lambda"] == 1.5, "the layout's keys stay at the top"


def test_keys_that_are_not_known_are_left_out(record):
    assert Summary.from_json(VERSION_1 | {"of the future": 3}, "analysis.json") == record


@pytest.mark.parametrize("key", sorted(VERSION_1.keys() - {"run_id", "curvature_fges", "walltime_sec", "timings_sec"}))
def test_a_missing_field_is_named_unless_it_may_be_missing(key):
    less = {name: value for name, value in VERSION_1.items() if name != key}
    if key in ("created_at", "provenance", "target_id"):
        assert Summary.from_json(less, "x.json").sampler == "sgld"
        return
    with pytest.raises(StoreError, match=f"^x.json: lacks {key}; restore"):
        Summary.from_json(less, "x.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "splendid"}, "status is str 'splendid', expected ok or warn or bad"),
        ({"status_reasons": 7}, "status_reasons is int 7, expected a list"),
        ({"llc_mean": "x"}, "llc_mean is str 'x', expected a finite number"),
        ({"llc_mean": float("nan")}, "llc_mean is float nan, expected a finite number"),
        ({"llc_interval95": None}, "llc_interval95 is NoneType None, expected a list of 2"),
        ({"timings_sec": {"adapt": "long"}}, "timings_sec is str 'long', expected a finite number"),
        ({"total_fges": 10**400}, "total_fges is int of more than 40 digits"),
        ({"schema": 99}, "has schema 99, and this version of lambda_hat reads 1 to 2"),
        ({"error": VERSION_1["error"] | {"within": []}}, "error.within is list …, expected a finite number"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(change, words):
    with pytest.raises(StoreError) as caught:
        Summary.from_json(VERSION_1 | change, "a/analysis.json")
    assert words in str(caught.value) and str(caught.value).startswith("a/analysis.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, "x", [], [VERSION_1], True])
def test_what_is_no_object_is_refused(value):
    with pytest.raises(StoreError, match="expected an object"):
        Summary.from_json(value, "x")


def places(value, path=()):
    """The paths to everything in nested JSON objects."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


def test_every_mutation_is_a_record_or_one_sentence():
    generator, refused = random.Random(0), 0
    for path in places(VERSION_1 | {"schema": 1}):
        for wrong in WRONG:
            value = copy.deepcopy(VERSION_1)
            inner = value
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = wrong if generator.random() < 0.9 else [wrong]
            try:
                made = Summary.from_json(value, "x")
            except StoreError as error:
                refused += 1
                assert (len(str(error)) < 400 and str(error).isascii()) or "…" in str(error)
            else:
                json.dumps(made.to_json(), allow_nan=False).encode()
                assert all(isinstance(column.text(made), str) for column in COLUMNS)
    assert refused > 500


def test_columns_are_unique_and_hold_what_their_names_say(record):
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    shown = record.shown()
    assert (shown["llc_low95"], shown["llc_high95"]) == tuple(VERSION_1["llc_interval95"])
    assert (shown["truth"], shown["truth_finite"], shown["n"]) == (1.5, VERSION_1["truth"]["finite"], 60)
    assert shown["total_fges"] == 7883 and shown["error_dominant"] == "within"
    assert replace(record, truth=None).shown()["truth"] is None


def test_loggers_get_the_numbers(record):
    logged = record.logged()
    assert {"llc_mean", "llc_mcse", "llc_std", "ess", "rhat", "total_fges", "walltime_sec", "L0"} <= logged.keys()
    assert all(isinstance(value, (int, float)) for value in logged.values())
    assert "acceptance" not in logged, "unknown for SGLD"


def test_the_record_is_read_without_numpy_or_jax():
    code = "import sys; from lambda_hat.analysis.summary import Summary; sys.exit(bool({'jax', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_known_numbers():
    assert summary.known(float("nan")) is None and summary.known(1e200) is None and summary.known(None) is None
    assert summary.known(3) == 3.0
