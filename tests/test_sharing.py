"""A study as one archive: what comes out is what went in, and a root takes nothing from an archive that was changed."""

import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from conftest import ROOT, TINY

from lambda_hat import store
from lambda_hat.inspect import citation, sharing
from lambda_hat.inspect.scan import scan
from lambda_hat.store import lease

SWEEP = ("-m", *TINY, "sampler=hmc,mclmc", "seed=0,1")
TARGETS, RUNS = 2, 4


@pytest.fixture(scope="module")
def study(tmp_path_factory, start, finish):
    """A directory with a root, `runs`, in which SWEEP has run, and its archive, `study.zip`; to be read only."""
    directory = tmp_path_factory.mktemp("study")
    outcome = finish(start(directory, "sample", *SWEEP))
    assert outcome.code == 0, outcome.text
    exported = sharing.export(directory / "runs", scan(directory / "runs"), [], directory / "study.zip")
    assert (exported.targets, exported.runs, exported.left_out) == (TARGETS, RUNS, [])
    return directory


@pytest.fixture
def copied(study, tmp_path):
    """A copy of the study's root, to be damaged at will."""
    return shutil.copytree(study / "runs", tmp_path / "copy", ignore=shutil.ignore_patterns("logs", ".jax_cache"))


def contents(root):
    """Every file under targets/ but the indexes, by its path: its bytes."""
    base = root / "targets"
    files = (path for path in base.rglob("*") if path.is_file() and not path.name.startswith("_"))
    return {path.relative_to(base).as_posix(): path.read_bytes() for path in files}


def state(root):
    """All that is under a root, with sizes and times; None where there is no root."""
    if not os.path.lexists(root):
        return None
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*")}


def members(archive):
    with zipfile.ZipFile(archive) as file:
        return {name: file.read(name) for name in file.namelist()}


def with_manifest(files, /, **changes):
    """Files with a manifest that fits them."""
    manifest = json.loads(files["manifest.json"])
    entries = {name: {"size": len(content), "sha256": sha256(content)} for name, content in files.items()}
    manifest |= {"files": {name: entry for name, entry in entries.items() if name != "manifest.json"}} | changes
    return files | {"manifest.json": json.dumps(manifest).encode()}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def write(path, files, compression=zipfile.ZIP_STORED):
    """An archive of (name or ZipInfo, content) pairs, or of a dictionary of them."""
    with zipfile.ZipFile(path, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, content)


def resealed(files, directory, **changes):
    """Files with some of one directory changed, and its list of hashes fitting them, as one who means harm would."""
    files = files | {f"{directory}/{name}": content for name, content in changes.items()}
    inside = sorted(
        name for name in files if name.startswith(f"{directory}/") and "/run_" not in name[len(directory) :]
    )
    lines = "".join(
        f"{sha256(files[name])}  {name[len(directory) + 1 :]}\n"
        for name in inside
        if not name.endswith("SHA256SUMS") and "/curvature_" not in name
    )
    return files | {f"{directory}/SHA256SUMS": f"{lines}# {sha256(lines.encode())}\n".encode()}


# --- there and back ---------------------------------------------------------------------------------------------------


def test_what_is_imported_is_what_was_exported_to_the_bit(study, tool, tmp_path):
    root = tmp_path / "new" / "root"
    outcome = tool("store", "import", study / "study.zip", root)
    assert outcome.code == 0 and f"{TARGETS} targets and {RUNS} runs added" in outcome.out, outcome
    assert contents(root) == contents(study / "runs")
    assert sorted(path.name for path in root.iterdir()) == ["targets"]
    verified = tool("store", "verify", root)
    assert verified.code == 0 and f"{TARGETS + RUNS} directories" in verified.out, verified
    there, here = (tool("results", "--csv", path).out for path in (root, study / "runs"))
    assert there.count("\n") == RUNS + 1 and there.replace(str(root), "") == here.replace(str(study / "runs"), "")
    catalog = [json.loads(line) for line in (root / "targets/_catalog.jsonl").read_text().splitlines()]
    assert {line["target_id"] for line in catalog} == {path.name for path in root.glob("targets/tgt_*")}
    lines = [json.loads(line) for path in root.glob("targets/*/_runs.jsonl") for line in path.read_text().splitlines()]
    assert {line["artifact_path"] for line in lines} == {str(path) for path in root.glob("targets/tgt_*/run_*")}
    reached = json.loads(tool("status", "--json", "--root", root, *SWEEP).out)
    assert [record["status"] for record in reached] == ["done"] * RUNS


def test_a_second_import_adds_nothing(study, tool, tmp_path):
    root = tmp_path / "root"
    tool("store", "import", study / "study.zip", root)
    before = state(root / "targets")
    outcome = tool("store", "import", study / "study.zip", root)
    assert outcome.code == 0 and "0 targets and 0 runs added" in outcome.out, outcome
    assert f"{TARGETS} targets and {RUNS} runs already there" in outcome.out
    assert state(root / "targets") == before
    answer = json.loads(tool("store", "import", study / "study.zip", root, "--json").out)
    assert (answer["added"], len(answer["there"]), answer["kept"]) == ([], TARGETS + RUNS, [])


def test_the_same_content_is_the_same_bytes_wherever_its_root_is(study, tool, tmp_path):
    outcome = tool("store", "import", study / "study.zip", tmp_path / "root")
    assert outcome.code == 0, outcome
    for root in (study / "runs", tmp_path / "root"):
        outcome = tool("store", "export", root, "--to", tmp_path / "again.zip")
        assert outcome.code == 0, outcome
        assert (tmp_path / "again.zip").read_bytes() == (study / "study.zip").read_bytes()


def test_filters_choose_and_a_larger_archive_adds_the_rest(study, tool, tmp_path):
    outcome = tool("store", "export", study / "runs", "sampler=hmc", "seed=1", "--to", tmp_path / "part.zip")
    assert outcome.code == 0 and "1 targets and 1 runs" in outcome.out, outcome
    assert json.loads(members(tmp_path / "part.zip")["manifest.json"])["filters"] == ["sampler=hmc", "seed=1"]
    root = tmp_path / "root"
    assert tool("store", "import", tmp_path / "part.zip", root).code == 0
    assert len(list(root.glob("targets/tgt_*/run_*"))) == 1
    outcome = tool("store", "import", study / "study.zip", root)
    assert outcome.code == 0 and "1 targets and 3 runs added, 1 targets and 1 runs already there" in outcome.out
    assert contents(root) == contents(study / "runs")


def test_a_target_without_runs_is_shared_as_well(copied, tool, tmp_path):
    for run in copied.glob("targets/tgt_*/run_*"):
        shutil.rmtree(run)
    assert tool("store", "export", copied, "--to", tmp_path / "targets.zip").code == 0
    outcome = tool("store", "import", tmp_path / "targets.zip", tmp_path / "root")
    assert outcome.code == 0 and f"{TARGETS} targets and 0 runs added" in outcome.out, outcome


def test_the_tables_have_what_the_records_have(study):
    files = {name: content.decode() for name, content in members(study / "study.zip").items() if "/" not in name}
    runs = scan(study / "runs")
    assert files["tables.csv"].count("\n") == RUNS + 1 and str(study) not in files["tables.csv"]
    assert files["tables.md"] in files["README.txt"]
    head, rule, *rows = files["tables.md"].splitlines()
    assert head.startswith("| seed | sampler | λ̂ ± MCSE |") and rule.count("---") == head.count("|") - 1
    rows_of_latex = [line for line in files["tables.tex"].splitlines() if line.endswith(r"\\")][1:]
    assert len(rows) == len(rows_of_latex) == len(runs) == RUNS
    for record, row, latex in zip(runs, rows, rows_of_latex, strict=True):
        for expected in (f"{record.summary.estimand.beta:.4g}", f"{record.summary.ess:.0f}", record.sampler):
            assert f" {expected} " in row and f" {expected} " in f" {latex} "
        assert latex.count(" & ") == row.count(" | ") == head.count(" | ")


def test_latex_sets_special_characters_as_they_are():
    assert citation._latex(r"50% a_b & {c} $x$ #1 ~ ^ \in <1|2> λ̂ ± β–γ") == (
        r"50\% a\_b \& \{c\} \$x\$ \#1 \textasciitilde{} \textasciicircum{} \textbackslash{}in "
        r"\textless{}1\textbar{}2\textgreater{} $\hat\lambda$ $\pm$ $\beta$--$\gamma$"
    )
    assert citation._latex("a\nb\0\x1b") == "a b"


# --- what is there already --------------------------------------------------------------------------------------------


def test_a_run_with_other_content_is_kept_and_the_exit_code_says_so(study, copied, tool):
    run, gone = sorted(copied.glob("targets/tgt_*/run_*"))[:2]
    shutil.rmtree(gone)
    (run / "trace.nc").write_bytes((run / "trace.nc").read_bytes() + b"\0")
    store.seal(run)
    kept = contents(copied)[f"{run.parent.name}/{run.name}/trace.nc"]
    outcome = tool("store", "import", study / "study.zip", copied)
    assert outcome.code == 1 and f"{run} is there with other content (trace.nc): it is kept" in outcome.out, outcome
    assert "0 targets and 1 runs added" in outcome.out
    assert contents(copied)[f"{run.parent.name}/{run.name}/trace.nc"] == kept
    assert len(contents(copied)) == len(contents(study / "runs"))


def test_a_target_with_other_weights_is_kept_and_gets_no_runs(study, copied, tool):
    target = min(copied.glob("targets/tgt_*"))
    for run in target.glob("run_*"):
        shutil.rmtree(run)
    np.savez(target / "params.npz", w=np.zeros(3))
    store.seal(target)
    outcome = tool("store", "import", study / "study.zip", copied)
    assert outcome.code == 1 and f"{target} is there with other content (params.npz)" in outcome.out, outcome
    assert "2 runs of the archive are left out" in outcome.out and not list(target.glob("run_*"))


@pytest.mark.parametrize("what", ["link", "file", "damaged"])
def test_what_lies_where_a_run_belongs_is_not_followed_or_replaced(study, copied, tool, tmp_path, what):
    run = min(copied.glob("targets/tgt_*/run_*"))
    outside = shutil.move(run, tmp_path / "outside")
    if what == "link":
        run.symlink_to(outside)
    elif what == "file":
        run.write_text("mine")
    else:
        shutil.copytree(outside, run)
        (run / "SHA256SUMS").write_text("nothing")
    before = state(run), state(tmp_path / "outside")
    outcome = tool("store", "import", study / "study.zip", copied)
    assert outcome.code == 1 and str(run) in outcome.out and "it is kept as it is" in outcome.out, outcome
    assert (state(run), state(tmp_path / "outside")) == before


@pytest.mark.parametrize("name", ["targets", "work"])
def test_a_root_whose_parts_are_links_is_refused(study, tool, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / name).symlink_to(tmp_path / "elsewhere")
    refused(tool("store", "import", study / "study.zip", tmp_path / "root"), "symbolic link, which is not followed")
    assert list((tmp_path / "elsewhere").iterdir()) == []


# --- hostile and damaged archives -------------------------------------------------------------------------------------


def refused(outcome, *words):
    assert outcome.code == 1 and outcome.out == "" and outcome.err.count("\n") == 1, outcome
    assert "Traceback" not in outcome.err and all(word in outcome.err for word in words), outcome.err


def pickled():
    file = io.BytesIO()
    np.savez(file, x=np.array([{"a": 1}], dtype=object))
    return file.getvalue()


def with_pickled_data(files):
    """One target alone, whose data are pickled and all hashes fit."""
    directory = first(files, "data.npz").removesuffix("/data.npz")
    files = {name: files[name] for name in files if not re.search("/run_|/curvature_", name)}
    old, new = (sha256(content).encode() for content in (files[f"{directory}/data.npz"], pickled()))
    meta = files[f"{directory}/meta.json"].replace(old, new)
    return resealed(files, directory, **{"data.npz": pickled(), "meta.json": meta})


def link(name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def first(files, ending):
    return min(name for name in files if name.endswith(ending))


def without(files, *names):
    return {name: content for name, content in files.items() if name not in names}


HOSTILE = {
    "a path upwards": (
        lambda files: with_manifest(files | {"targets/../../evil": b"x"}),
        "holds targets/../../evil, a name that no file of a study has",
    ),
    "an absolute path": (lambda files: with_manifest(files | {"/tmp/evil": b"x"}), "holds /tmp/evil, a name that"),
    "a backslash": (lambda files: with_manifest(files | {"targets\\..\\evil": b"x"}), "a name that no file"),
    "a control character": (lambda files: with_manifest(files | {"a\x1b[2J": b"x"}), r"holds a\x1b[2J, a name that"),
    "a link": (
        lambda files: [
            (link(name), b"/etc/passwd") if name == first(files, "trace.nc") else (name, content)
            for name, content in files.items()
        ],
        "trace.nc as a link",
    ),
    "a name twice": (
        lambda files: [*files.items(), (first(files, "trace.nc"), b"other")],
        "trace.nc twice",
    ),
    "names that differ in case": (
        lambda files: (
            with_manifest(files | {first(files, "data.npz").replace("data.npz", "curvature_A.npz"): b"1"})
            | {first(files, "data.npz").replace("data.npz", "curvature_a.npz"): b"2"}
        ),
        "and targets/",
    ),
    "a file that the manifest lacks": (
        lambda files: files | {first(files, "trace.nc").replace("trace.nc", "diagnostics/x.png"): b"x"},
        "holds, unlike its manifest, targets/",
    ),
    "a file that its directory lacks": (
        lambda files: with_manifest(files | {first(files, "trace.nc").replace("trace.nc", "diagnostics/x.png"): b"x"}),
        "diagnostics/x.png was not published with its directory",
    ),
    "a file missing": (lambda files: without(files, first(files, "trace.nc")), "lacks targets/"),
    "a file missing from the manifest too": (
        lambda files: with_manifest(without(files, first(files, "trace.nc"))),
        "holds a study that is damaged",
    ),
    "a run without its target": (
        lambda files: with_manifest(
            {name: content for name, content in files.items() if "/run_" in name or "/" not in name}
        ),
        "holds a study that is damaged",
    ),
    "a wrong hash in the manifest": (
        lambda files: (
            files | {"manifest.json": files["manifest.json"].replace(sha256(files["tables.md"]).encode(), b"0" * 64)}
        ),
        "holds another tables.md than its manifest says",
    ),
    "a hash of its directory wrong": (
        lambda files: with_manifest(files | {first(files, "trace.nc"): b"other"}),
        "trace.nc does not match its hash",
    ),
    "no manifest": (lambda files: without(files, "manifest.json"), "has no manifest.json"),
    "a manifest of something else": (lambda files: with_manifest(files, format="cat"), "not of an exported study"),
    "a manifest that is no JSON": (lambda files: files | {"manifest.json": b"[" * 100_000}, "has a manifest.json"),
    "a manifest without sizes": (
        lambda files: with_manifest(files, files={"tables.md": 3}),
        "without the size and hash of each file",
    ),
    "another version": (
        lambda files: with_manifest(files, version=99),
        "has format 99",
        "install the version that made",
    ),
    "no target": (
        lambda files: with_manifest({name: content for name, content in files.items() if "/" not in name}),
        "holds no target",
    ),
    "pickled data": (lambda files: with_manifest(with_pickled_data(files)), "data.npz", "is pickled"),
    "a pickled curvature": (
        lambda files: with_manifest(
            files | {first(files, "data.npz").replace("data.npz", "curvature_x.npz"): pickled()}
        ),
        "holds a study that is damaged",
    ),
    "a run under another name": (
        lambda files: with_manifest(
            {name.replace("/run_hmc_", "/run_nuts_"): content for name, content in files.items()}
        ),
        "holds a study that is damaged",
    ),
    "a target under another name": (
        lambda files: with_manifest(
            {
                name.replace(first(files, "data.npz").split("/")[1], "tgt_000000000000"): content
                for name, content in files.items()
            }
        ),
        "holds a study that is damaged",
    ),
}
"""What was done to an archive → how, and words of the sentence that refuses it."""


@pytest.mark.parametrize("what", HOSTILE)
def test_an_archive_that_was_changed_adds_nothing(study, tool, tmp_path, what):
    change, *words = HOSTILE[what]
    archive, root = tmp_path / "hostile.zip", tmp_path / "root"
    write(archive, change(members(study / "study.zip")))
    before = state(tmp_path)
    refused(tool("store", "import", archive, root), str(archive), "nothing was imported", *words)
    assert state(root) is None and state(tmp_path) == before
    (root / "targets").mkdir(parents=True)
    before = state(root)
    refused(tool("store", "import", archive, root), *words)
    assert {name: value for name, value in state(root).items() if name.name != "work"} == before


def test_an_archive_that_would_fill_the_disk_is_not_unpacked(study, tool, tmp_path):
    files = members(study / "study.zip")
    bomb = with_manifest(files | {first(files, "trace.nc"): bytes(200 * 2**20)})
    write(tmp_path / "bomb.zip", bomb, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.zip").stat().st_size < 2**20
    refused(tool("store", "import", tmp_path / "bomb.zip", tmp_path / "root"), "would grow from")
    lying = bomb | {"manifest.json": files["manifest.json"]}  # which says that it is small
    write(tmp_path / "lying.zip", lying, zipfile.ZIP_DEFLATED)
    refused(tool("store", "import", tmp_path / "lying.zip", tmp_path / "root"), "holds another targets/")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_an_archive_that_is_cut_short_is_refused(study, tool, tmp_path, kept):
    content = (study / "study.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: int(kept * len(content))])
    refused(tool("store", "import", tmp_path / "cut.zip", tmp_path / "root"), "cannot be read as a zip archive")
    assert not (tmp_path / "root").exists()


def test_a_byte_that_flipped_is_found_or_is_of_no_account(study, tool, tmp_path):
    content, expected, rng = (study / "study.zip").read_bytes(), contents(study / "runs"), random.Random(0)
    found = 0
    for trial in range(40):
        changed = bytearray(content)
        end = 4000 if trial % 2 else len(content)  # half of them in the archive's own list of files, at its end
        changed[-rng.randint(1, end)] ^= 1 << rng.randrange(8)
        (tmp_path / "changed.zip").write_bytes(changed)
        outcome = tool("store", "import", tmp_path / "changed.zip", tmp_path / "root")
        if outcome.code:
            found += 1
            refused(outcome)
            assert not (tmp_path / "root").exists()
        else:  # such as a time in the archive's list of files
            assert contents(tmp_path / "root") == expected
            shutil.rmtree(tmp_path / "root")
    assert found > 25


# --- kills ------------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from lambda_hat import store
from lambda_hat.inspect import sharing
calls = 0
def stop(*arguments):
    global calls
    calls += 1
    if calls == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*arguments)
place = store if sys.argv[3] == "give_name" else sharing
inner = getattr(place, sys.argv[3])
setattr(place, sys.argv[3], stop)
sharing.take_in(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(("where", "call", "targets"), [("_extract", 9, 0), ("_verify", 1, 0), ("give_name", 2, 1)])
def test_after_a_kill_nothing_is_half_made_and_the_next_import_finishes(study, tool, tmp_path, where, call, targets):
    root = tmp_path / "root"
    argv = [sys.executable, "-c", KILLED, study / "study.zip", root, where, str(call)]
    assert subprocess.run(argv, cwd=ROOT, timeout=60).returncode == -signal.SIGKILL
    assert len(list((root / "work").iterdir())) == 1 and len(list(root.glob("targets/tgt_*"))) == targets
    if targets:
        assert tool("store", "verify", root).code == 0
    outcome = tool("store", "import", study / "study.zip", root)
    assert outcome.code == 0 and contents(root) == contents(study / "runs"), outcome
    assert not (root / "work").exists() or not list((root / "work").iterdir())


def test_what_a_kill_left_is_pruned_and_another_import_is_left_alone(study, tool, tmp_path):
    root = tmp_path / "root"
    assert tool("store", "import", study / "study.zip", root).code == 0
    left, living = (root / "work" / f"import.{digit * 12}" for digit in "01")
    for directory in (left, living):
        directory.mkdir(parents=True)
    store.write_note(living / "owner.json", lease.this_process())
    outcome = tool("status", root, "--prune", "--yes")
    assert outcome.code == 0 and "removed 1 of these" in outcome.out, outcome
    assert not left.exists() and living.exists()
    left.mkdir()
    assert tool("store", "import", study / "study.zip", root).code == 0
    assert not left.exists() and living.exists()


# --- export, and command lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trace.nc", "analysis.json", "params.npz", "SHA256SUMS"])
def test_nothing_damaged_is_exported(copied, tool, tmp_path, name):
    path = min(copied.rglob(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (tmp_path / "study.zip").write_text("an earlier one")
    refused(tool("store", "export", copied, "--to", tmp_path / "study.zip"), "Nothing was exported", str(path.parent))
    assert (tmp_path / "study.zip").read_text() == "an earlier one"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy", "study.zip"]


def test_what_is_not_finished_is_left_out_and_said(copied, tool, tmp_path):
    run = min(copied.glob("targets/tgt_*/run_*"))
    name = f"{run.parent.name}.{run.name}"
    shutil.rmtree(run)
    (copied / "failures").mkdir()
    (copied / "failures" / f"{name}.json").write_text(json.dumps({"error": "no luck", "kind": "failed"}))
    answer = json.loads(tool("store", "export", copied, "--to", tmp_path / "study.zip", "--json").out)
    assert (answer["targets"], answer["runs"], len(answer["left_out"])) == (TARGETS, RUNS - 1, 1), answer
    assert run.name in answer["left_out"][0] and answer["bytes"] == (tmp_path / "study.zip").stat().st_size


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["export", "runs"], "export needs --to"),
        (["verify", "runs", "--to", "x.zip"], "export needs --to"),
        (["export", "runs", "--to", "x.tar"], "a file whose name ends in .zip"),
        (["export", "runs", "seed=7", "--to", "x.zip"], "nothing finished there matches"),
        (["import"], "import needs an archive"),
        (["import", "runs", "x.zip"], "runs is a directory; name the archive first"),
        (["import", "x.zip", "seed=1"], "import takes no filter"),
        (["import", "x.zip", "new"], "x.zip"),
    ],
)
def test_mistakes_get_one_sentence_and_nothing_is_written(study, tool, tmp_path, words, expected):
    (tmp_path / "runs").symlink_to(study / "runs")
    refused(tool("store", *words), expected)
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs"]
