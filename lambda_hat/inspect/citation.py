"""A study's runs as tables for a paper: CSV with everything, Markdown and LaTeX with the numbers to cite."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lambda_hat.inspect import formats, table
from lambda_hat.inspect.groups import varying
from lambda_hat.inspect.records import Record

TABLES = ("tables.csv", "tables.md", "tables.tex")


def tables(records: Sequence[Record]) -> dict[str, str]:
    """The text of each of TABLES for the runs among these records; nothing in it depends on where their root is."""
    runs = [
        replace(
            record, directory=Path("targets", record.target_id, record.run_id), notes=[*record.summary.status_reasons]
        )
        for record in records
        if record.run_id and record.summary
    ]
    file = io.StringIO()
    table.write_csv(*table.tidy(runs), file)
    header, lines = _cited(runs)
    return dict(zip(TABLES, (file.getvalue(), _markdown(header, lines), _tabular(header, lines)), strict=True))


_STATISTICS = ("λ̂ ± MCSE", "95 %", "n", "β", "γ", "ESS", "R-hat", "status")


def _cited(runs):
    """Header and lines: the settings in which runs differ, the sampler, and the result with what it estimates."""
    keys = [
        key for key in varying(runs) if key not in ("sampler.name", "data.n_data", "posterior.beta", "posterior.gamma")
    ]
    lines = []
    for run in runs:
        summary = run.summary
        lines.append(
            [
                *(formats.cell(run.settings.get(key)) for key in keys),
                run.sampler,
                formats.estimate(summary.llc_mean, summary.llc_mcse),
                formats.interval(*summary.llc_interval95),
                str(summary.estimand.n),
                f"{summary.estimand.beta:.4g}",
                f"{summary.estimand.gamma:g}",
                formats.number(summary.ess, ".0f"),
                formats.number(summary.rhat, ".4f"),
                run.word,
            ]
        )
    return [*keys, "sampler", *_STATISTICS], lines


def _markdown(header, lines):
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, ["---"] * len(header), *cells])


_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "–": "--",
}


def _latex(text):
    """A text as LaTeX sets it, nothing in it a command."""
    parts = " ".join(text.split()).split("λ̂")
    letters = ("".join(_LATEX.get(letter, letter) for letter in part if letter.isprintable()) for part in parts)
    return r"$\hat\lambda$".join(letters)


def _tabular(header, lines):
    """The table in LaTeX that needs no package."""
    columns = "l" * (len(header) - len(_STATISTICS)) + "r" * (len(_STATISTICS) - 1) + "l"
    first, *rows = (f"{' & '.join(map(_latex, line))} \\\\" for line in [header, *lines])
    return "\n".join(
        [f"\\begin{{tabular}}{{{columns}}}", r"\hline", first, r"\hline", *rows, r"\hline", "\\end{tabular}\n"]
    )
