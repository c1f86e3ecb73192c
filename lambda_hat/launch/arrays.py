"""Missing work as arrays of equal jobs, each element after its own target: few calls of sbatch, however long the sweep."""

import itertools
from dataclasses import replace
from typing import NamedTuple

from lambda_hat.config.runtime import Request
from lambda_hat.launch import plan
from lambda_hat.system.errors import ConfigError


class Array(NamedTuple):
    """Jobs that one sbatch submits.

    Attributes:
        request: what each asks for.
        packs: what each makes, one after the other.
        after: number of the array of this list whose element each waits for; or the words of a dependency; or None.
        builds: whether a run may build its target itself: not where that may have failed in a job of its own.
    """

    request: Request
    packs: list[tuple[plan.Item, ...]]
    after: int | str | None = None
    builds: bool = True

    @property
    def stage(self):
        """`target` or `run`."""
        return self.packs[0][0].job.stage

    @property
    def count(self):
        """How much it makes, in words."""
        return plan.many(sum(map(len, self.packs)), self.stage)

    def dependency(self, ids):
        """What it waits for in SLURM's words, or None; `ids` are the jobs of the list's arrays before it."""
        if not isinstance(self.after, int):
            return self.after
        return f"{'aftercorr' if len(self.packs) > 1 else 'afterok'}:{ids[self.after]}"


def request(item, options):
    """What an item's job asks for: its configuration's `resources`, with what the command line has put in their place.

    Raises:
        ConfigError: where the warning before the time limit would come before the job has begun.
    """
    stage = item.job.stage
    asked = getattr(item.job.config.resources, stage)
    given = {"cpus": options.cpus_per_task, "mem_gb": options.mem_gb, "timeout_min": options.timeout_min}
    given["gpus"] = options.gpus_per_node if stage == "run" else None
    asked = replace(asked, **{key: value for key, value in given.items() if value is not None})
    delay = getattr(options, "signal_delay_s", 0)
    if asked.timeout_min is not None and delay >= 60 * asked.timeout_min:
        raise ConfigError(
            f"hydra.launcher.signal_delay_s must be less than the job's time, {60 * asked.timeout_min:g} s; got {delay}: "
            "the job would be told to stop as it starts."
        )
    return asked


def arrays(found, options, largest):
    """The arrays that make what is missing, in the order in which they are to be submitted.

    Targets whose runs ask for the same share an array, and so do the first packs of their runs, the second ones, …. Targets of one
    trajectory share a job.

    Arguments:
        found: `plan.Plan`.
        options: `config.launcher.Slurm`.
        largest: most jobs of an array.
    """
    here = {target.name: target for target in found.targets}
    elsewhere = {item.name: job for item in found.missing if (job := found.jobs.get(item.job.paths.target_id))}
    alone = [item for item in found.missing if item.job.stage == "target" or _is_free(item, here, elsewhere)]
    made = []
    for asked, packs in _by_request(alone, options).items():
        made += [Array(asked, chunk) for chunk in _chunks(packs, largest)]

    families = {}
    for group in plan.by_trajectory(here.values()):
        names = {target.name for target in group}
        runs = [item for item in found.missing if item.job.stage == "run" and item.job.paths.target_id in names]
        needed = [(asked, pack) for asked, packs in _by_request(runs, options).items() for pack in packs]
        needed.sort(key=lambda pair: repr(pair[0]))
        kind = request(group[0], options), tuple(asked for asked, _ in needed)
        families.setdefault(kind, []).append([group, *(pack for _, pack in needed)])
    for (asked, asked_by_runs), family in families.items():
        for chunk in _chunks(family, largest):
            targets, *columns = zip(*chunk, strict=True)
            number = len(made)
            made.append(Array(asked, list(targets)))
            made += [
                Array(each, list(column), after=number) for each, column in zip(asked_by_runs, columns, strict=True)
            ]

    foreign = {}
    for item in found.missing:
        if item.name in elsewhere:
            foreign.setdefault(elsewhere[item.name].partition("_")[0], []).append(item)
    for items in foreign.values():
        jobs = sorted({elsewhere[item.name] for item in items})
        # of several targets, one's failure must not keep the others' runs back
        after = f"{'afterok' if len(jobs) == 1 else 'afterany'}:{':'.join(jobs)}"
        for asked, packs in _by_request(items, options).items():
            made += [Array(asked, chunk, after, len(jobs) == 1) for chunk in _chunks(packs, largest)]
    return made


def _is_free(item, here, elsewhere):
    return item.job.paths.target_id not in here and item.name not in elsewhere


def _by_request(items, options):
    """Packs of at most `runs_per_job` runs, by what a job that makes them asks for."""

    def apart(item):  # what keeps two items out of one job
        asked = request(item, options)
        return asked.gpus, asked.cpus, asked.mem_gb

    made = {}
    for _, group in itertools.groupby(sorted(items, key=lambda item: repr(apart(item))), apart):
        for pack in plan.tasks(list(group), options.runs_per_job if items[0].job.stage == "run" else 1, ()):
            asked = [request(item, options) for item in pack.items]  # targets that share a job share their training
            asked = together(asked, options) if pack.items[0].job.stage == "run" else asked[0]
            made.setdefault(asked, []).append(pack.items)
    return made


def together(requests, options):
    """What a job asks for that makes these one after the other; they differ in their minutes alone."""
    minutes = [asked.timeout_min for asked in requests]
    if options.timeout_min is None and None not in minutes:
        return replace(requests[0], timeout_min=sum(minutes))
    return requests[0]


def _chunks(values, size):
    return [values[first : first + size] for first in range(0, len(values), size)]
