"""What is done, what somebody is at, and what is missing of a sweep; missing targets come before the runs that need them."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from lambda_hat import store
from lambda_hat.config import hydra_private, messages
from lambda_hat.jobs import pipeline
from lambda_hat.store import lease as leases
from lambda_hat.store import trajectory as trajectories
from lambda_hat.system.errors import ConfigError, UserError

log = logging.getLogger(__name__)


class Item(NamedTuple):
    """A target or a run of the sweep.

    Attributes:
        job: what is to be made.
        words: the overrides that compose it.
    """

    job: pipeline.Job
    words: tuple[str, ...]

    @property
    def name(self):
        """What it is called in work/ and failures/."""
        return self.job.paths.name(self.job.stage)

    @property
    def work(self):
        """Where it is made."""
        return self.job.paths.work(self.job.stage)

    @property
    def checkpoint(self):
        """The step of training that w0 is at; None for its end, or where it has none."""
        return getattr(self.job.config.training, "checkpoint", None) if self.job.config.target is None else None

    @property
    def is_along(self):
        """Whether w0 comes from a trajectory that this sweep has checkpoints of."""
        return bool(getattr(self.job.config.training, "keep", None))

    @property
    def trajectory(self):
        """The name of the trajectory that the weights at its checkpoints are of; None where training has no steps."""
        groups = pipeline.trajectory_groups(self.job.config) if self.job.config.target is None else None
        return groups and trajectories.identifier(groups)

    def keeping(self, steps):
        """The same, whose training keeps the weights at these steps."""
        training = replace(self.job.config.training, keep=steps)
        return self._replace(job=self.job._replace(config=replace(self.job.config, training=training)))

    def target(self):
        """The target of a run."""
        job = self.job._replace(stage="target", config=replace(self.job.config, force=False))
        return Item(job, self.words)


class Plan(NamedTuple):
    """A sweep taken apart; every combination is in one of the first four.

    Attributes:
        done, running, queued, missing: its combinations.
        targets: what the missing runs need and nobody builds.
        jobs: names of what is running or queued, and of targets being built → SLURM jobs (None: no job's).
        ended: names of what is missing, and of targets → SLURM jobs that were to make it and are gone.
        left: what is done and has a work directory all the same.
    """

    done: list[Item]
    running: list[Item]
    queued: list[Item]
    missing: list[Item]
    targets: list[Item]
    jobs: dict[str, str | None]
    ended: dict[str, str]
    left: list[Item]

    def line(self, verb):
        """The plan in one line; `verb` says what happens to what is missing."""
        stage = (self.done + self.running + self.queued + self.missing)[0].job.stage
        counts = [many(len(self.targets), "target")] if self.targets else []
        counts += [many(len(self.missing), "target" if stage == "target" else "run")]
        parts = [f"{len(self.done)} done"]
        parts += [
            f"{len(found)} {word}" for word, found in (("running", self.running), ("queued", self.queued)) if found
        ]
        parts += [f"{len(self.missing)} {verb}" + (f" ({', '.join(counts)})" if self.missing else "")]
        return f"{many(sum(map(len, self[:4])), 'combination')}: {', '.join(parts)}"


def checked(stage, combinations):
    """Compose and check all combinations of a sweep; a combination that comes twice is one.

    Arguments:
        stage: `target` or `run`.
        combinations: pairs of a function that composes the `Config` and the command line's overrides.

    Returns:
        a list of `Item`.

    Raises:
        ConfigError: naming every combination that cannot be run.
    """
    if not combinations:
        raise ConfigError("The sweep has no combination: a range(…) or glob(…) on the command line is empty.")
    items, refused = {}, {}
    with hydra_private.parsed_once():
        for compose, overrides in combinations:
            try:
                config = compose()
                if config.target is not None:
                    _refuse_restated(overrides)
                job = pipeline.job(stage, config)
                items.setdefault(job.directory, Item(job, tuple(overrides)))
            except Exception as error:
                if not (isinstance(error, UserError) or messages.is_of_composition(error)):
                    raise
                for line in messages.of(error).splitlines():
                    refused.setdefault(line, []).append(" ".join(overrides))
    if refused:  # what is wrong with every combination is said once
        raise ConfigError(
            "\n".join(
                said
                for line, names in refused.items()
                for said in ([line] if len(names) == len(combinations) else [f"[{name}] {line}" for name in names])
            )
        )
    return _along(items.values())


def _along(items):
    """Items, those of one trajectory told which steps the others need, so that whoever trains it keeps them."""
    wanted: dict[str, set[int]] = {}
    for item in items:
        if item.checkpoint is not None:
            kept = item.job.config.training.keep or ()
            wanted.setdefault(item.trajectory, set()).update([item.checkpoint, *kept])
    if not wanted:
        return list(items)
    for item in items:
        if item.checkpoint is None and item.trajectory in wanted:
            wanted[item.trajectory].add(item.job.config.training.length)
    return [item.keeping(sorted(wanted[item.trajectory])) if item.trajectory in wanted else item for item in items]


def checkpoints(items):
    """A line for each set of checkpoints that items of one trajectory are at, for the terminal."""
    found: dict[str, dict[int | None, None]] = {}
    for item in items:
        if item.is_along:
            found.setdefault(item.trajectory, {})[item.checkpoint] = None
    sets = {tuple(sorted(each, key=lambda step: (step is None, step))) for each in found.values()}
    return [
        f"checkpoints of training: {', '.join('the end, polished' if step is None else str(step) for step in each)}"
        for each in sorted(sets, key=str)
    ]


def by_trajectory(targets):
    """Targets in groups, those of one trajectory together: one process then trains it, and none waits for another."""
    found: dict[str, list] = {}
    for target in targets:
        found.setdefault(target.trajectory if target.is_along else target.name, []).append(target)
    return [tuple(group) for group in found.values()]


def _refuse_restated(overrides):
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key == "model.source" or (key, value) == ("model", "custom"):  # a source is imported only where it is named
            continue
        if key.split(".")[0].split("@")[0] in ("model", "data", "training", "seed"):
            raise ConfigError(f"{key} cannot be set together with target=, which fixes it; leave one of the two out.")


def make(items, alive: Callable):
    """Look every item up.

    Arguments:
        items: what `checked` returned.
        alive: from a set of user names, the ids of those users' SLURM jobs that will run or do, each with whether it
            runs; called once, and only where a job could be at something.

    Returns:
        a `Plan`.
    """
    done, open_items, targets = [], [], {}
    for item in items:
        if pipeline.is_done(item.job):
            done.append(item)
            continue
        open_items.append(item)
        if item.job.stage == "run" and item.job.paths.target not in targets:
            target = item.target()
            targets[item.job.paths.target] = None if pipeline.is_done(target.job) else target
    absent = [target for target in targets.values() if target is not None]
    listed = _listed([*done, *open_items])
    claims = _claims(open_items + absent, listed)
    ids = {claim.slurm_job for claim in claims.values() if claim.slurm_job}
    jobs = alive({claim.user for claim in claims.values() if claim.user}) if ids else {}

    running, queued, missing, at, ended = [], [], [], {}, {}
    for item in open_items:
        state = _state(claims.get(item.work), jobs)
        {"running": running, "queued": queued, None: missing}[state].append(item)
    needed = {item.job.paths.target for item in missing}
    missing_targets = []
    for target in absent:
        state = _state(claims.get(target.work), jobs)
        # one that is built outside SLURM gets a job too, which waits for it and for which its runs can wait
        if target.job.paths.target in needed and not (state and claims[target.work].slurm_job in jobs):
            missing_targets.append(target)
    for item in open_items + absent:
        claim = claims.get(item.work)
        if claim is None:
            continue
        if _state(claim, jobs):
            at[item.name] = claim.slurm_job
        elif claim.slurm_job:
            ended[item.name] = claim.slurm_job
    left = [item for item in done if item.name in listed[item.work.parent]]
    return Plan(done, running, queued, missing, missing_targets, at, ended, left)


def try_out(found, platform=None):
    """Refuse what cannot be built of a user's own model, data and weights, before anything is written.

    Arguments:
        found: the `Plan`.
        platform: where they are tried, in place of runtime.platform.

    Raises:
        ConfigError: a sentence for each target.
    """
    refused = {}
    tried = {(item.job.paths.target, _restriction(item)): item for item in [*found.targets, *found.missing]}
    for item in tried.values():
        try:
            pipeline.try_out(item.job, platform)
        except ConfigError as error:
            refused[str(error)] = error
    if refused:
        raise ConfigError("\n".join(refused)) from next(iter(refused.values()))


def _restriction(item):
    posterior = item.job.config.posterior
    return repr((posterior.parameters, posterior.other_data))


def tidy(found):
    """Finish what processes left undone that died between publishing and letting go."""
    for item in found.left:
        pipeline.tidy(item.job)


def tell_results(items):
    """Say what came out of finished items; returns 1 if one is damaged or counts as a failure."""
    code = 0
    for item in items:
        try:
            code |= pipeline.tell_result(item.job)
        except UserError as error:
            log.error(str(error))
            code = 1
    return int(code)


class _Claim(NamedTuple):
    owned: bool
    slurm_job: str | None
    user: str | None


def _listed(items):
    """The names in each root's work/, by its path."""
    found = {}
    for parent in {item.work.parent for item in items}:
        try:
            found[parent] = set(os.listdir(parent))
        except OSError:
            found[parent] = set()
    return found


def _claims(items, listed):
    """Who is or was at each item, from the work directories that exist."""
    claims = {}
    for item in items:
        if item.name not in listed[item.work.parent]:
            continue
        owner, submission = store.read_note(item.work / "owner.json"), store.read_note(item.work / "submitted.json")
        lives = bool(owner) and _lives(owner, item.work)
        job = owner.get("slurm_job") if lives else submission.get("slurm_job")
        claims[item.work] = _Claim(lives, job, submission.get("user"))
    return claims


def _lives(owner, directory):
    alive = leases.is_alive(owner)
    if alive is not None:
        return alive
    try:
        return time.time() - (directory / "progress.json").stat().st_mtime < leases.DEAD_AFTER
    except OSError:
        return False


def _state(claim, jobs):
    if claim is None:
        return None
    if claim.owned or jobs.get(claim.slurm_job):
        return "running"
    return "queued" if claim.slurm_job in jobs else None


class Task(NamedTuple):
    """What one process makes, in this order.

    Attributes:
        items: the targets or runs.
        needs: names of the targets that must be built before.
    """

    items: tuple[Item, ...]
    needs: tuple[str, ...]


def tasks(items, size, built_elsewhere):
    """Runs in groups of at most `size`: those of one target together, and of these the ones that share programs.

    Targets of one trajectory are a group, however many there are.

    Arguments:
        items: runs; or targets, which need nothing.
        size: most items of a task.
        built_elsewhere: names of the targets that are not there yet.
    """

    def need(item):
        return (
            item.job.paths.target_id if item.job.stage == "run" and item.job.paths.target_id in built_elsewhere else ""
        )

    along = [item for item in items if item.job.stage == "target" and item.is_along]
    items = [item for item in items if item not in along] if along else items
    made, left = [list(group) for group in by_trajectory(along)], []
    ordered = sorted(items, key=lambda item: (need(item), _shapes(item), item.name))
    for _, found in groupby(ordered, need):
        found = list(found)
        full = len(found) - len(found) % size
        made += [found[i : i + size] for i in range(0, full, size)]
        rest = found[full:]
        if len(left) + len(rest) > size:
            made, left = [*made, left], []
        left += rest
    made += [left] if left else []
    return [Task(tuple(group), tuple(sorted({need(item) for item in group} - {""}))) for group in made]


def _shapes(item):
    """Equal where two items compile to the same programs."""
    config = item.job.config
    return repr((config.model, config.data, replace(config.sampler, seed=0), config.posterior))


def many(count, word):
    """`1 run`, `2 runs`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
