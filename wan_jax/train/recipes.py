"""Recipes: Python files whose `get_config()` returns a run, or several to be done one after the other."""

import ast
import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from beartype.door import is_bearable

import configs
from wan_jax.errors import WanError
from wan_jax.train.config import RunConfig


def load_recipe(path: str) -> tuple[RunConfig, ...]:
    """The runs of a recipe, in order.

    Args:
        path: a Python file, or the name of one in configs/.

    Raises:
        WanError: there is no such file, or it holds no recipe.
    """
    ours = {file.stem: file for file in Path(configs.__path__[0]).glob("train_*.py")}
    file = ours.get(path, Path(path))
    if file.suffix != ".py" or not file.is_file():
        raise WanError(f"--config {path}: no such Python file, and no recipe of ours ({', '.join(sorted(ours))})")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise WanError(f"--config {path} has no get_config(), as recipes have")
    runs = module.get_config()
    return (runs,) if isinstance(runs, RunConfig) else tuple(runs)


def override(runs: Sequence[RunConfig], changes: Sequence[str]) -> tuple[RunConfig, ...]:
    """The runs with `field=value` in all of them, or `name.field=value` in the one of that name.

    Fields of fields are named with dots, as optimizer.learning_rate=1e-5; values are Python's, strings may go unquoted.

    Raises:
        WanError: there is no such field, or the value is of another type.
    """
    runs = list(runs)
    names = [run.name for run in runs]
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals:
            raise WanError(f"{change!r} is not FIELD=VALUE, such as steps=1000")
        first, _, rest = field.partition(".")
        chosen, path = ([names.index(first)], rest) if rest and first in names else (range(len(runs)), field)
        for i in chosen:
            runs[i] = _replace(runs[i], path.split("."), value, change)
    return tuple(runs)


def _replace(owner: Any, path: list[str], text: str, change: str) -> Any:
    name, *rest = path
    fields = {f.name for f in dataclasses.fields(owner)}
    if name not in fields:
        raise WanError(f"{change}: there is no {name!r}; there are {', '.join(sorted(fields))}")
    if rest:
        inner = getattr(owner, name)
        if not dataclasses.is_dataclass(inner):
            raise WanError(f"{change}: {name}={inner!r} has no fields")
        return dataclasses.replace(owner, **{name: _replace(inner, rest, text, change)})
    wanted = get_type_hints(type(owner))[name]
    for value in _readings(text):
        if is_bearable(value, wanted):
            return dataclasses.replace(owner, **{name: value})
    kind = wanted.__name__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")
    raise WanError(f"{change}: {name} must be {kind}, not {text!r}")


def _readings(text: str) -> list[Any]:
    """What a value may mean: a Python literal, that as a float or a tuple, or the text itself."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return [text]
    others = [float(value)] if isinstance(value, int) and not isinstance(value, bool) else []
    others += [tuple(value)] if isinstance(value, list) else []
    return [value, *others, text]
