"""What the README promises: kills, races, damage, full and missing disks, with real processes.

LAMBDA_HAT_KILLS says how many kills to try (8; with --soak), LAMBDA_HAT_RACERS how many processes start at once (8).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY, Outcome, soak_but, tiny_but
from test_cli import assert_one_sentence, assert_same_analysis, assert_same_draws, files, run_of

from lambda_hat import store
from lambda_hat.store import lease as leases
from lambda_hat.system.errors import StoreError

KILLS = int(os.environ.get("LAMBDA_HAT_KILLS", "8"))
RACERS = int(os.environ.get("LAMBDA_HAT_RACERS", "8"))

SWEEP = (
    *("-m", "model=small", "model.widths=[3]", "model.depth=1", "data.n_data=60", "training.steps=200"),
    *("training.polish_steps=50", "sampler=hmc,sgld,mclmc", "sampler.draws=40", "sampler.warmup=44"),
    *("sampler.chains=2", "runtime.devices=2", "sampler.mcse_target=null", "runtime.checkpoint_minutes=0"),
)
"""A sweep with training, warm-up and three samplers, a chain to a device, that writes a checkpoint after every step."""


def assert_sound(root):
    """Nothing is half there: every published directory is whole, every manifest line too."""
    targets = root / "targets"
    if not targets.exists():
        return
    for target in targets.iterdir():
        if target.name == "_catalog.jsonl":
            continue
        assert not target.name.startswith("."), target
        for directory in (target, *target.glob("run_*")):
            listed = store.hashes(directory)
            assert {"config.yaml"} < listed.keys()
            for name, found in listed.items():
                assert store.sha256(directory / name) == found, directory / name
        whole_lines(target / "_runs.jsonl")
    whole_lines(targets / "_catalog.jsonl")


def whole_lines(path):
    """A manifest's records; a last line without its end, whose writer was killed, does not count."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, start):
    """Where the sweep has run in peace, and the seconds that it took with its programs compiled."""
    for name in ("cold", "undisturbed"):
        directory, began = tmp_path_factory.mktemp(name), time.monotonic()
        process = start(directory, "sample", *SWEEP)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    return directory, time.monotonic() - began


def assert_as_undisturbed(directory, root):
    (ours,), (theirs,) = ((where / "runs" / "targets").glob("tgt_*") for where in (directory, root))
    for name in ("data.npz", "params.npz", "config.yaml"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    for sampler in ("hmc", "sgld", "mclmc"):
        assert_same_draws(run_of(ours, sampler), run_of(theirs, sampler))
        assert_same_analysis(run_of(ours, sampler), run_of(theirs, sampler))
    assert len(whole_lines(directory / "runs" / "targets" / "_catalog.jsonl")) == 1
    assert len(whole_lines(ours / "_runs.jsonl")) == 3
    assert list((directory / "runs" / "work").iterdir()) == []


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_killed_at_any_moment_nothing_is_half_there_and_the_same_command_finishes(undisturbed, tmp_path, start):
    """Kills go on until the sweep has finished in spite of them; then it starts anew, until enough have been tried."""
    reference, seconds = undisturbed
    generator, kills, finished, number = random.Random(0), 0, 0, 0
    while kills < KILLS:
        number += 1
        directory = tmp_path / str(number)
        directory.mkdir()
        while True:
            process = start(directory, "sample", *SWEEP)
            try:
                process.wait(generator.uniform(0.1, seconds))
            except subprocess.TimeoutExpired:
                kills += 1
                sent = generator.choice([signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
                process.send_signal(sent)
            out, err = process.communicate(timeout=120)
            assert "Traceback" not in err or sent in (signal.SIGINT,), err
            assert_sound(directory / "runs")
            if process.returncode == 0:
                finished += 1
                break
            assert process.returncode in (-signal.SIGKILL, 128 + sent, -sent), (out, err)
        tidy = start(directory, "sample", *SWEEP)
        out, err = tidy.communicate(timeout=120)
        assert tidy.returncode == 0 and out.count("λ̂ =") == 3, out + err
        assert_as_undisturbed(directory, reference)
    print(f"{kills} kills, {finished} sweeps finished in spite of them, all as undisturbed")


def test_a_terminated_run_says_so_and_goes_on(tmp_path, start, finish):
    options = tiny_but("sampler=hmc", "sampler.draws=400000", "sampler.mcse_target=null")
    process = start(tmp_path, "sample", *options)
    progress = lambda: [p for p in tmp_path.glob("runs/work/*.run_*/progress.json") if '"sample"' in p.read_text()]
    wait_for(progress)
    process.send_signal(signal.SIGTERM)
    outcome = finish(process)
    assert outcome.code == 128 + signal.SIGTERM
    assert outcome.err.startswith("Interrupted: finished work is kept; the same command goes on.")
    (directory,) = (tmp_path / "runs" / "work").iterdir()
    assert {p.name for p in directory.iterdir()} == {"checkpoint"}
    process = start(tmp_path, "sample", *options)
    while "going on from a checkpoint of" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.communicate()


# --- races ------------------------------------------------------------------------------------------------------------


def test_many_processes_at_once_build_once_and_all_succeed(tmp_path, start):
    racers = [start(tmp_path, "sample", *TINY, "sampler=hmc") for _ in range(RACERS)]
    outcomes = [(*process.communicate(timeout=300), process.returncode) for process in racers]
    assert {code for *_, code in outcomes} == {0}, outcomes
    lines = {line for out, *_ in outcomes for line in out.splitlines() if "λ̂ =" in line}
    assert len(lines) == 1
    assert sum("  time: start" in out for out, *_ in outcomes) == 1
    assert_sound(tmp_path / "runs")
    assert len(whole_lines(tmp_path / "runs" / "targets" / "_catalog.jsonl")) == 1
    assert list((tmp_path / "runs" / "work").iterdir()) == []


def test_different_runs_of_one_target_at_once_are_both_in_the_manifest(tmp_path, start):
    pair = [start(tmp_path, "sample", *TINY, f"sampler={sampler}") for sampler in ("hmc", "mclmc")]
    for process in pair:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    (target,) = (tmp_path / "runs" / "targets").glob("tgt_*")
    assert sorted(line["sampler"] for line in whole_lines(target / "_runs.jsonl")) == ["hmc", "mclmc"]


# --- damage -----------------------------------------------------------------------------------------------------------


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(content)


def _directory(path):
    path.unlink()
    path.mkdir()


def _truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def _loop(path):
    path.unlink()
    path.symlink_to(path.name)


DAMAGES = {
    "truncated": _truncate,
    "emptied": lambda path: os.truncate(path, 0),
    "flipped": _flip,
    "deleted": lambda path: path.unlink(),
    "a directory": _directory,
    "unreadable": _loop,
}
"""A link to itself stands for a file that cannot be read: permissions do not hold root up."""


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["analysis.json", "config.yaml", "SHA256SUMS"])
def test_a_damaged_file_of_a_run_is_named_and_nothing_is_done_about_it(tiny, command, tmp_path, name, damage):
    run = run_of(tiny, "hmc")
    DAMAGES[damage](run / name)
    before = files(tmp_path)
    outcome = command("sample", *TINY, "sampler=hmc")
    assert_one_sentence(outcome, f"{run.relative_to(tmp_path) / name} ")
    assert "restore it" in outcome.text
    assert outcome.code == 1 and "λ̂ =" not in outcome.out
    assert files(tmp_path) == before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["meta.json", "data.npz", "params.npz", "config.yaml", "SHA256SUMS", "curvature_nll.npz"]
)
def test_a_damaged_file_of_a_target_is_named_before_it_is_sampled(tiny, command, tmp_path, name, damage):
    if damage == "deleted" and name == "curvature_nll.npz":
        pytest.skip("a curvature that is not there is computed: nobody's data are lost")
    DAMAGES[damage](tiny / name)
    before = files(tmp_path / "runs" / "targets")
    outcome = command("sample", *TINY, "sampler=hmc", "sampler.seed=1", "runtime.compilation_cache=null")
    if damage == "flipped" and name == "curvature_nll.npz" and outcome.code == 0:
        return  # a byte that says nothing, such as a date in the archive
    assert_one_sentence(outcome, f"{tiny.relative_to(tmp_path) / name} ")
    assert outcome.code == 1 and len(list(tiny.glob("run_hmc_*"))) == 1
    assert files(tmp_path / "runs" / "targets") == before


def test_every_byte_of_the_curvature_is_guarded(tiny):
    """A flipped byte is found, or changes no number."""
    path = tiny / "curvature_nll.npz"
    sound = store.read_sealed_arrays(path)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        try:
            found = store.read_sealed_arrays(path)
        except StoreError:
            continue
        assert found.keys() == sound.keys() and all((found[k] == sound[k]).all() for k in sound), at


@pytest.mark.parametrize("damage", ["truncated", "emptied", "deleted"])
def test_a_damaged_manifest_hinders_nothing(tiny, script, tmp_path, damage):
    DAMAGES[damage](tiny / "_runs.jsonl")
    outcome = script("sample", *TINY, "sampler=hmc", "sampler.seed=1")
    assert outcome.code == 0, outcome.text
    assert whole_lines(tiny / "_runs.jsonl")[-1]["hyperparams"]["sampler"]["seed"] == 1


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(size)`: a file system of that size, mounted at tmp_path/disk or remounted."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mounted(options):
        verb = ["-o", f"remount,{options}"] if os.path.ismount(disk) else ["-t", "tmpfs", "-o", options, "tmpfs"]
        done = subprocess.run(["mount", *verb, str(disk)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return disk

    yield mounted
    if os.path.ismount(disk):
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("size", soak_but(["64k"], ["8k", "32k", "64k", "120k"]))
def test_a_full_disk_is_said_leaves_nothing_half_made_and_can_be_gone_on_from(small_disk, script, tmp_path, size):
    disk = small_disk(f"size={size}")
    options = (*TINY, "sampler=hmc", f"store.root={disk}/runs")
    outcome = script("sample", *options)
    assert_one_sentence(outcome, "No space left on device")
    assert_sound(disk / "runs")
    assert not list(disk.glob("runs/targets/*/run_*"))
    small_disk("size=64m")
    assert script("sample", *options).code == 0
    assert_sound(disk / "runs")


def test_a_read_only_disk_is_said_and_its_results_can_be_read(small_disk, script):
    disk = small_disk("size=64m")
    options = (*TINY, "sampler=hmc", f"store.root={disk}/runs")
    assert script("sample", *options).code == 0
    small_disk("ro")
    assert "λ̂ =" in script("sample", *options).out
    assert_one_sentence(script("sample", *options, "sampler.seed=1"), "Read-only file system")


def test_a_root_that_vanishes_is_said_and_not_made_anew(tmp_path, start, finish):
    process = start(tmp_path, "sample", *tiny_but("sampler=hmc", "sampler.draws=20000", "sampler.mcse_target=null"))
    drawing = lambda: [p for p in tmp_path.glob("runs/work/*.run_*/progress.json") if '"adapt"' in p.read_text()]
    wait_for(drawing)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    outcome = finish(process)
    assert_one_sentence(outcome, "No such file or directory")
    assert not (tmp_path / "runs" / "targets").exists()
    assert_sound(tmp_path / "elsewhere")


def test_without_permission_the_sentence_says_so(tiny, cache, tmp_path):
    """As root without root's power to pass over permissions, or as a user."""
    powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    if powerless and subprocess.run([*powerless, "true"], capture_output=True).returncode:
        pytest.skip("setpriv cannot take root's powers away here")

    def ran(*more):
        command = [*powerless, sys.executable, str(ROOT / "bin" / "sample.py"), *TINY, "sampler=hmc", cache, *more]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return Outcome(done.returncode, done.stdout, done.stderr)

    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert_one_sentence(ran("store.root=closed/runs"), "store.root=closed/runs: nothing can be written there")
    (tmp_path / "runs" / "work").chmod(0o500)
    assert_one_sentence(ran("sampler.seed=1"), "Permission denied")
    (tmp_path / "runs" / "work").chmod(0o700)
    path = run_of(tiny, "hmc") / "analysis.json"
    path.chmod(0)
    assert_one_sentence(ran(), "analysis.json cannot be read")
    path.chmod(0o600)
    tiny.chmod(0)
    assert_one_sentence(ran(), "cannot be looked into (Permission denied)")
    tiny.chmod(0o700)
    assert ran().code == 0


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_an_owner_elsewhere_is_judged_by_its_heart_and_by_no_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "DEAD_AFTER", 0.5)
    directory = tmp_path / "tgt_x"
    directory.mkdir()
    store.write_note(directory / "owner.json", {"token": "theirs", "machine": "another", "pid": 1, "host": "there"})
    for beat in range(12):  # beats go on, at times long past and far ahead
        store.write_note(directory / "progress.json", {"beat": beat, "at": "1970-01-01" if beat % 2 else "2999-01-01"})
        os.utime(directory / "progress.json", (0, 0) if beat % 2 else (2**32, 2**32))
        watch = watch if beat else leases._Watch(directory, store.read_note(directory / "owner.json"))  # noqa: F821
        assert not watch.is_dead()
        time.sleep(0.1)
    said = []
    with leases.hold(directory, lambda: False, said.append) as lease:
        assert lease.is_held() and "gone: taking over" in said[-1]
    assert not directory.exists()
