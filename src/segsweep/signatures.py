"""Holds the values of ``_target_`` nodes against the signatures of their targets.

Whoever writes a model or a loss writes its checks by writing its signature: names, types, and ranges by ``Annotated``.
"""

import inspect
import json
import types
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

from segsweep import CONF_DIR
from segsweep.config import FACTS
from segsweep.hints import did_you_mean, written

Choices = Mapping[str, str]

# Complaints of pydantic about classes that no YAML value can be an instance of.
_TYPES_YAML_LACKS = ("is_instance", "needs_python_object")

HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


class Defaults:
    """Looks up what a key is by default, for the advice at the end of a line."""

    def __init__(self, group: str, choices: Choices) -> None:
        self.group, self.option = group, choices.get(group)

    def advice(self, path: str, value: Any) -> str:
        """`` (the default is 0.001, in conf/optimizer/adamw.yaml)``, or nothing if there is none or it is the value."""
        for option in self._lineage(self.option):
            default = OmegaConf.select(_load(self.group, option), path.partition(".")[2])
            if default is not None:
                is_told = default == value or OmegaConf.is_dict(default)
                return "" if is_told else f" (the default is {shown(default)}, in conf/{self.group}/{option}.yaml)"
        return ""

    def _lineage(self, option: str | None) -> Iterator[str]:
        """The option and those that it extends, nearest first."""
        if option and (CONF_DIR / self.group / f"{option}.yaml").exists():
            yield option
            for parent in _load(self.group, option).get("defaults") or ():
                if isinstance(parent, str) and parent != "_self_":
                    yield from self._lineage(parent)


def check_node(
    path: str, node: dict[str, Any], passed: set[str], defaults: Defaults, others: Set[str] = frozenset()
) -> Iterator[str]:
    """Checks one ``_target_`` node and the nodes inside it.

    Args:
        path: of the node in the config, e.g. ``data.source``.
        node: its plain values.
        passed: arguments of the target that the program passes itself.
        defaults: for the advice at the end of a line.
        others: further keys that may stand beside these, to propose for one that is unknown.

    Yields:
        One line for each mistake.
    """
    target = node.get("_target_")
    if target is None:
        yield f"{path} has no _target_; every file in conf/{path.split('.')[0]}/ names its class or function"
        return
    try:
        function = _locate(target)
    except (ImportError, AttributeError, ValueError) as error:
        yield f"{path}._target_={target!r} cannot be imported: {error}"
        return
    given = {key: value for key, value in node.items() if key not in HYDRA_KEYS}
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = {name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - passed
    proposed = known | FACTS.get(path, set()) | others
    for key in given:
        if key not in known and not takes_any:
            yield f"{path}.{key}: unknown key. {did_you_mean(key, proposed)}"
    for name in known - given.keys():
        if parameters[name].default is inspect.Parameter.empty and not node.get("_partial_"):
            yield f"{path}.{name} is not set, and {target} needs it"
    hints = _hints(function)
    for key, value in given.items():
        yield from _check_value(f"{path}.{key}", value, hints.get(key) if key in known else None, defaults)


def _check_value(path: str, value: Any, hint: Any, defaults: Defaults) -> Iterator[str]:
    if isinstance(value, dict) and "_target_" in value:
        yield from check_node(path, value, set(), defaults)
    elif _holds_nodes(value):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _check_value(f"{path}.{key}", child, None, defaults)
    elif isinstance(value, dict) and get_origin(hint) in (dict, Mapping):
        for key, child in value.items():
            yield from _check_value(f"{path}.{key}", child, get_args(hint)[1], defaults)
    elif hint is not None:
        problem = _type_problem(value, hint)
        if problem:
            yield f"{path}={shown(value)}: {problem}{defaults.advice(path, value)}"


def _holds_nodes(value: Any) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(child, dict) and "_target_" in child for child in children)


def _type_problem(value: Any, hint: Any) -> str | None:
    """Why a value does not fit an annotation, or None. Read as JSON, so that YAML lists fit tuples."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
    from pydantic_core import SchemaError

    try:
        config = ConfigDict(arbitrary_types_allowed=True, strict=True, allow_inf_nan=False)
        adapter = TypeAdapter(hint, config=config)
        adapter.validate_json(json.dumps(value))
    except (PydanticUserError, SchemaError, NameError):
        return None  # an annotation that pydantic does not know says nothing about a YAML value
    except ValidationError as error:
        # A union complains once for each member; "is an instance of Tensor" is no advice for YAML.
        errors = [e for e in error.errors() if not e["type"].startswith(_TYPES_YAML_LACKS)]
        absent = [e["loc"][-1] for e in errors if e["type"] == "missing"]  # places of a tuple that have no value
        if absent and isinstance(absent[-1], int):
            return f"should have {absent[-1] + 1} values"
        wants = [_wanted(e) for e in errors]
        unique = list(dict.fromkeys(wants or ["does not have the right type"]))
        return " or ".join(unique)
    return None


def _load(group: str, option: str) -> Any:
    return OmegaConf.load(CONF_DIR / group / f"{option}.yaml")


def _wanted(error: Any) -> str:
    """A complaint of pydantic in the words of YAML."""
    if error["type"] == "too_long":
        return f"should have {error['ctx']['max_length']} values"
    message: str = error["msg"].removeprefix("Input ")
    return message.replace("valid array", "list").replace("an object", "a mapping, {key: value}")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    annotated = getattr(function, "__init__") if isinstance(function, type) else function  # noqa: B009
    plain = inspect.unwrap(annotated)
    try:
        return get_type_hints(plain, include_extras=True)
    except TypeError:
        return {}
    except NameError:  # some are imported for type checkers alone
        return {name: hint for name in plain.__annotations__ for hint in _hint(plain, name)}


def _hint(function: Callable[..., Any], name: str) -> list[Any]:
    """One annotation, if it can be understood."""
    lonely = types.SimpleNamespace(__annotations__={name: function.__annotations__[name]})
    try:
        return [get_type_hints(lonely, function.__globals__, include_extras=True)[name]]
    except (NameError, TypeError):
        return []


def _locate(target: str) -> Callable[..., Any]:
    from hydra.utils import get_method, get_object

    found = get_object(target)
    return found if isinstance(found, type) else get_method(target)


def shown(value: Any) -> str:
    """A value as a line shows it: as Hydra reads it, but text in quotes."""
    return f"'{value}'" if isinstance(value, str) else written(value)
