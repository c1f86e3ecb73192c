"""The rooms of the package: no circle of imports, and none that leads from a lower floor to a higher one.

`python tests/test_imports.py` prints which room imports which, and how often.
"""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "lambda_hat"

FLOORS = "system store studies config targets samplers analysis jobs launch inspect report commands".split()
"""The rooms, each of which may import from those before it."""


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def running_nodes(tree):
    """The nodes of a syntax tree but for what only type checkers see."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from running_nodes(child)


def imported_modules(path, modules):
    """The modules of the package that a file imports when it runs, inside of functions as well."""
    for node in running_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (member for member in members if member in modules)
            if node.module in modules and any(member not in modules for member in members):
                yield node.module


def import_graph():
    """The modules of the package, and for each those that it imports; a package's `__init__` is not its members' parent."""
    paths = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    return {name: set(imported_modules(path, paths)) - {name} for name, path in paths.items()}


def room(module):
    """The room a module lies in; the front door belongs to none."""
    return module.split(".")[1] if "." in module else None


def test_every_room_has_its_floor():
    assert {room(module) for module in import_graph()} - {None} == set(FLOORS)


def test_no_import_leads_upward():
    upward = [
        f"{module} imports {imported}"
        for module, imports in import_graph().items()
        for imported in sorted(imports)
        if room(module) and room(imported) and FLOORS.index(room(imported)) > FLOORS.index(room(module))
    ]
    assert upward == []


def test_no_modules_import_one_another_in_a_circle():
    graph = {module: imports for module, imports in import_graph().items() if room(module)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' <- '.join(error.args[1])}") from None


if __name__ == "__main__":
    arrows = Counter(
        (room(module), room(imported))
        for module, imports in import_graph().items()
        for imported in imports
        if room(module) and room(imported) and room(module) != room(imported)
    )
    for (start, end), count in sorted(arrows.items(), key=lambda item: [FLOORS.index(name) for name in item[0]]):
        print(f"{start:10} -> {end:10} {count}")
