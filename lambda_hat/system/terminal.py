"""What every command prints, and how: output that arrives whatever the terminal, and how the user called the command."""

import sys
from pathlib import Path


def program(name: str | None = None) -> str:
    """What to type for a command: `python bin/status.py` where a script of bin/ runs, else `lambda-hat-status`.

    Arguments:
        name: of a command, such as `status` or `build_target`; None for the one that runs.
    """
    script = Path(sys.argv[0])
    if script.suffix == ".py":
        return f"python {script if name is None else script.with_name(f'{name}.py')}"
    return script.name if name is None else f"lambda-hat-{name.replace('_', '-')}"
