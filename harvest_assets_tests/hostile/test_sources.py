"""Nothing in the product runs or unpickles foreign code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import harvest_assets

PACKAGE = Path(harvest_assets.__file__).parent

_NAMES = {"eval", "exec", "compile", "__import__"}
_MODULES = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "imp"}
_ATTRIBUTES = {
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("yaml", "UnsafeLoader"),
    ("yaml", "FullLoader"),
    ("yaml", "Loader"),
    ("os", "system"),
    ("os", "popen"),
    ("pd", "read_pickle"),
    ("pickle", "load"),
    ("pickle", "loads"),
    ("pickle", "Unpickler"),
    ("importlib", "import_module"),
}
# Keywords that must have one value wherever they are used.
_KEYWORDS = {
    "trust_remote_code": False,
    "allow_pickle": False,
    "weights_only": True,
    "shell": False,
}
# Calls that must say so.
_MUST_SAY = {
    ("torch", "load"): "weights_only",
    ("np", "load"): "allow_pickle",
    ("AutoTokenizer", "from_pretrained"): "trust_remote_code",
    ("AutoConfig", "from_pretrained"): "trust_remote_code",
}
# The names of the errors that a damaged checkpoint raises are looked up in `pickle`.
_MAY_IMPORT = {("decompositions/spd/checkpoint.py", "pickle")}
# The module that a person named in a command on this machine; the tests of `own_model` show that
# nothing else gets there.
_MAY_USE = {("decompositions/own_model/loading.py", "importlib.import_module")}


def dangers(source: str, file: str = "") -> list[str]:
    """What is dangerous in a module's source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names if isinstance(node, ast.Import)]
            found += [
                f"import {name}"
                for name in names
                if name.partition(".")[0] in _MODULES and (file, name) not in _MAY_IMPORT
            ]
        if isinstance(node, ast.Attribute) and (_last(node.value), node.attr) in _ATTRIBUTES:
            used = f"{_last(node.value)}.{node.attr}"
            found += [] if (file, used) in _MAY_USE else [used]
        if isinstance(node, ast.Call):
            found += _of_call(node)
    return found


def _of_call(node: ast.Call) -> list[str]:
    found = []
    if isinstance(node.func, ast.Name) and node.func.id in _NAMES:
        found.append(f"{node.func.id}()")
    said = {keyword.arg for keyword in node.keywords}
    for keyword in node.keywords:
        if keyword.arg in _KEYWORDS:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if value is not _KEYWORDS[keyword.arg]:
                found.append(f"{keyword.arg}={ast.unparse(keyword.value)}")
    if isinstance(node.func, ast.Attribute):
        called = (_last(node.func.value), node.func.attr)
        if called in _MUST_SAY and _MUST_SAY[called] not in said:
            found.append(f"{'.'.join(called)}() without {_MUST_SAY[called]}")
        if called == ("yaml", "load") and [ast.unparse(a) for a in node.args[1:]] != ["_Loader"]:
            found.append("yaml.load()")
    return found


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def test_nothing_runs_foreign_code():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    found = {
        name: problems
        for file in files
        if (
            problems := dangers(
                file.read_text(encoding="utf-8"), name := file.relative_to(PACKAGE).as_posix()
            )
        )
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "eval('1')",
        "exec(text)",
        "__import__(name)",
        "yaml.load(text, yaml.UnsafeLoader)",
        "yaml.load(text, Loader=_Loader)",
        "yaml.unsafe_load(text)",
        "os.system(command)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=really)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "transformers.AutoConfig.from_pretrained(name)",
        "AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
        "importlib.import_module(name)",
    ],
)
def test_it_would_be_seen(source: str):
    assert dangers(source)


def test_the_loader_of_yaml_makes_no_objects():
    from harvest_assets.files.yaml_file import _Loader

    kinds = [tag for tag in _Loader.yaml_constructors if tag is not None]
    assert not [tag for tag in kinds if "python" in tag]
