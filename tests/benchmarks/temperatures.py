"""λ from several β against λ that is known, on ten targets, beside runs at one β of the same number of draws in all.

    python tests/benchmarks/temperatures.py [root=runs/temperatures] [seeds=4] [draws=300]

HMC at β = 1/log n (nβ = 37.7) and at four larger nβ, γ = 1, n = 200. For each target and seed, of the runs at the four nβ:
`regression` and, where that fits, `m = 2` (lambda_hat/inspect/temperature.py). At equal work: the mean over four seeds of λ̂ at the
largest nβ (`one β`) and at β = 1/log n (`WBIC`). A line for each target: the mean of the estimates less λ, in per cent of λ; how
many of the 95 % intervals hold λ; gradients of an estimate, warm-up included. Bad runs do not count. Runs are made once.
"""

import subprocess
import sys
from pathlib import Path
from statistics import fmean

from lambda_hat.inspect import table, temperature
from lambda_hat.inspect.scan import scan

SAMPLE = Path(__file__).parent.parent.parent / "bin" / "sample.py"
TRUTHS = (
    *("quadratic", "flat", "monomial", "crossing", "crossing_steep"),
    *("linear_4_3_8_r3", "linear_4_4_4_4_r1", "linear_5_3_5_r0", "linear_5_3_5_r2", "linear_noisy"),
)
NBETA = (300, 1000, 3000, 10_000)
NAMES = ("regression", "m = 2", "one β", "WBIC")


def make(root, seeds, draws):
    """The runs."""
    words = ["-m", "data=whitened", f"truth={','.join(TRUTHS)}", "sampler=hmc", f"sampler.seed=range({seeds})"]
    words += [f"sampler.draws={draws}", "sampler.mcse_target=null", "runtime.figures=false", f"store.root={root}"]
    words += ["posterior.gamma=1", f"posterior.nbeta=null,{','.join(map(str, NBETA))}"]
    subprocess.run([sys.executable, SAMPLE, *words], check=True, stdout=subprocess.DEVNULL)


def fitted(records):
    """Estimates of one seed's runs at several β: (name, λ̂, low, high, gradients)."""
    gradients = sum(record.summary.total_fges for record in records)
    (fit,) = temperature.fits(records, table.COLUMNS)
    yield "regression", fit.llc, fit.low, fit.high, gradients
    if fit.extrapolated is not None:
        yield "m = 2", fit.extrapolated, fit.extrapolated_low, fit.extrapolated_high, gradients


def pooled(name, records):
    """Means over four seeds' runs at one β, as often as there are four."""
    for i in range(0, len(records) - len(NBETA) + 1, len(NBETA)):
        some = [record.summary for record in records[i : i + len(NBETA)]]
        mean = fmean(each.llc_mean for each in some)
        squares = sum(((each.llc_interval95[1] - each.llc_interval95[0]) / 2) ** 2 for each in some)
        half = squares**0.5 / len(some)
        yield name, mean, mean - half, mean + half, sum(each.total_fges for each in some)


def estimates(records):
    """All estimates of a target."""
    good = [record for record in records if record.summary.status != "bad"]
    for seed in sorted({record.settings["sampler.seed"] for record in good}):
        sweep = [
            r for r in good if r.settings["sampler.seed"] == seed and r.settings.get("posterior.nbeta") is not None
        ]
        if len(sweep) == len(NBETA):
            yield from fitted(sweep)
    for name, nbeta in (("one β", NBETA[-1]), ("WBIC", None)):
        yield from pooled(name, [record for record in good if record.settings.get("posterior.nbeta") == nbeta])


def main(root="runs/temperatures", seeds=4, draws=300):
    """Make the runs and print the table."""
    make(root, seeds, draws)
    found = {}
    for record in scan(root):
        if record.run_id and record.summary and record.summary.truth:
            found.setdefault(record.target_id, []).append(record)
    for records in found.values():
        truth = records[0].summary.truth.learning_coefficient
        made = list(estimates(records))
        cells = []
        for name in NAMES:
            values = [rest for kind, *rest in made if kind == name]
            error = 100 * (fmean(llc for llc, *_ in values) / truth - 1) if values else 0.0
            held = sum(low <= truth <= high for _, low, high, _ in values)
            work = fmean(work for *_, work in values) if values else 0.0
            cells.append(f"{name}: {error:+.2g} % {held}/{len(values)} {work:.2g}" if values else f"{name}: –")
        print(f"{records[0].target_id}  λ = {truth:<8.4g}", *(f"{cell:32}" for cell in cells), flush=True)


if __name__ == "__main__":
    words = dict(word.split("=") for word in sys.argv[1:])
    main(words.get("root", "runs/temperatures"), int(words.get("seeds", 4)), int(words.get("draws", 300)))
