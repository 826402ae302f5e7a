"""Composed YAML into dataclasses: every key and type is checked, problems are collected, none is passed over."""

import difflib
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gsam.optim import BASES
from gsam.optim.base import OtherConfig
from gsam.runtime import SharedError


class ConfigError(SharedError):
    """All problems of a configuration."""

    def __init__(self, problems: list[str]):
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"the configuration has {count}:", *(f"  - {p}" for p in problems)]))
        self.problems = problems


def fill(
    cfg: Any, schema: type, problems: list[str], at: str = "", tables: dict | None = None, skip: tuple = ()
) -> Any:
    """An instance of `schema`; unknown keys, wrong types and unresolvable values go to `problems`."""
    if not isinstance(cfg, DictConfig):
        problems.append(
            f"{at.rstrip('.')}={cfg}: expected a group of settings ({', '.join(f.name for f in fields(schema))})"
        )
        return schema()
    known = {f.name: f for f in fields(schema)}
    out = OmegaConf.structured(schema)
    nested: dict[str, Any] = {}
    for key in cfg:
        name = f"{at}{key}"
        if key not in known:
            problems.append(f"{name}: unknown key" + advice(str(key), list(known), at))
            continue
        if key in skip:
            continue
        try:
            value = cfg[key]
        except OmegaConfBaseException as error:
            problems.append(f"{name}: {_first_line(error)}")
            continue
        if value is None and tables and key in tables and known[key].default is None:
            continue  # launcher: null
        kind = _choose(value, tables[key], name, problems) if tables and key in tables else known[key].type
        if is_dataclass(kind):
            nested[key] = fill(value, kind, problems, f"{name}.")
        elif not (tables and key in tables):
            _assign(out, str(key), value, name, problems)
    plain = OmegaConf.to_object(out)
    for key, value in nested.items():
        setattr(plain, key, value)
    return plain


def _choose(value: Any, table: dict[str, type], name: str, problems: list[str]) -> type | None:
    """The dataclass that `<name>.name` picks from the table."""
    choice = value.get("name") if isinstance(value, DictConfig) else None
    if table is BASES and choice not in table and "kwargs" in value:
        return OtherConfig  # base=other: any optimizer by name
    if choice not in table:
        problems.append(f"{name}.name={choice}: unknown" + advice(str(choice), list(table), "", "choose"))
        return None
    return table[choice]


def _assign(out: DictConfig, key: str, value: Any, name: str, problems: list[str]) -> None:
    if OmegaConf.is_config(value):
        try:
            value = OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            problems.append(f"{name}: {_first_line(error)}")
            return
    try:
        OmegaConf.update(out, key, value, merge=False)
    except OmegaConfBaseException as error:
        problems.append(f"{name}={value}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def advice(key: str, known: list[str], at: str, verb: str = "known") -> str:
    near = difflib.get_close_matches(key, known, 1, cutoff=0.6)
    return f"; did you mean {at}{near[0]}?" if near else f"; {verb}: {', '.join(sorted(known))}"


def defaults(schema: type) -> dict[str, Any]:
    """Field name -> default of a dataclass (for tests that hold YAML and dataclasses together)."""
    result: dict[str, Any] = {}
    for f in fields(schema):
        factory: Callable | Any = f.default_factory
        result[f.name] = f.default if f.default is not MISSING else factory()
    return result
