"""No modules import each other in a circle. `lint-imports` checks the directions of imports, not circles."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest


@pytest.mark.parametrize("package", ["engines", "streamclf", "training"])
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    graph = grimp.build_graph(package)
    imports = {
        module: {name for name in graph.find_modules_directly_imported_by(module) if name.startswith(package)}
        for module in graph.modules
    }
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
