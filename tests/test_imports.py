"""The architecture, held by a test: who may import whom, no cycles, and where Lightning may appear.

Every import counts, those inside functions too.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("lightning_audio", "sharding", "datamodules", "eval", "experiments")

# Which top-level folders a folder may import, besides itself.
MAY_IMPORT = {
    "lightning_audio": set(),
    "sharding": {"lightning_audio"},
    "datamodules": {"lightning_audio", "sharding"},
    "eval": {"lightning_audio"},
    "experiments": {"lightning_audio", "sharding", "datamodules", "eval"},
}
# Inside lightning_audio the data flows down this list: a part may import parts of an earlier line, or itself.
LAYERS = (
    {"atomic", "batch", "audio", "hashing", "optim", "span", "layers"},
    {"codec", "conditioning"},
    {"lm", "diffusion"},
    {"generation"},
    {"checkpoints"},
    {"drop_in"},
)


def _modules() -> dict[str, Path]:
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


MODULES = _modules()


def _imports(module: str) -> set[str]:
    """Every absolute name that `module` imports, resolved to a module of ours where it is one."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                names.add(full if full in MODULES else base)
    return names - {module}


GRAPH = {module: _imports(module) for module in MODULES}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows_point_down(module: str) -> None:
    folder = module.split(".")[0]
    for name in GRAPH[module]:
        other = name.split(".")[0]
        if other in FOLDERS and other != folder:
            assert other in MAY_IMPORT[folder], f"{module} imports {name}"
        if folder == "datamodules" and other == "sharding":
            assert name in ("sharding.schema", "sharding.storage.folders"), (
                f"{module} imports {name}; datamodules sees only what lies in shards, and where they lie"
            )


def _layer(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "lightning_audio" or len(parts) == 1:
        return None
    return next((i for i, layer in enumerate(LAYERS) if parts[1] in layer), None)


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("lightning_audio.")))
def test_layers_of_the_models(module: str) -> None:
    own = _layer(module)
    part = module.split(".")[1]
    assert own is not None, f"{module}: give {part} a place in LAYERS"
    for name in GRAPH[module]:
        other = _layer(name)
        if other is None or name.split(".")[1] == part:
            continue
        allowed = other < own or (own == 0 and other == 0)
        assert allowed, f"{module} (layer {own}) imports {name} (layer {other})"


def test_only_tasks_and_callbacks_of_the_models_import_lightning() -> None:
    for module in MODULES:
        if module.split(".")[0] not in ("lightning_audio", "eval", "sharding"):
            continue
        uses = any(name.split(".")[0] in ("lightning", "pytorch_lightning") for name in GRAPH[module])
        if uses:
            last = module.rpartition(".")[2]
            assert last in ("task", "tasks", "callback", "callbacks"), f"{module} imports lightning"


def test_no_import_cycle() -> None:
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for name in GRAPH[module] & MODULES.keys():
            visit(name, [*trail, module])
        done.add(module)

    for module in MODULES:
        # A package's __init__ gathers names of its own parts; the parts never import it back (checked here).
        visit(module, [])


def test_no_module_is_named_for_nothing() -> None:
    for module in MODULES:
        assert module.rpartition(".")[2] not in ("utils", "helpers", "misc", "common", "manager"), module
