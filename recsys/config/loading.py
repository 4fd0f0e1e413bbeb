"""The whole configuration: one YAML file, resolved, checked, and printed back in full."""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from recsys.config.base import Section
from recsys.config.data import DataConfig
from recsys.config.evaluate import EvaluateConfig
from recsys.config.index import IndexConfig
from recsys.config.ingest import IngestConfig
from recsys.config.model import ModelConfig
from recsys.config.promote import PromoteConfig
from recsys.config.ranking import RankingConfig
from recsys.config.serve import ServeConfig
from recsys.config.train import TrainConfig
from recsys.errors import UserError

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class Config(Section):
    """Everything a run needs; each section belongs to one stage.

    `workdir` receives what the stages make (`dataset/`, `model/`, `bundle/`, `report/`, `registry/`, `logs/`).
    """

    name: str
    workdir: Path
    seed: int = 1
    data: DataConfig
    ingest: IngestConfig = IngestConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    ranking: RankingConfig | None = None
    index: IndexConfig = IndexConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    promote: PromoteConfig = PromoteConfig()
    serve: ServeConfig = ServeConfig()


def _expand(value: Any, where: str) -> Any:
    """Replace `${NAME}` and `${NAME:-default}` in every string by the environment's value."""
    if isinstance(value, str):

        def replace(match: re.Match[str]) -> str:
            name, default = match.group(1), match.group(2)
            found = os.environ.get(name, default)
            if found is None:
                raise UserError(
                    f"{where}: the environment variable {name} is not set and has no default (${{{name}:-…}})."
                )
            return found

        return _VARIABLE.sub(replace, value)
    if isinstance(value, dict):
        return {key: _expand(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, f"{where}[{index}]") for index, inner in enumerate(value)]
    return value


def _yaml(text: str) -> Any:
    """The value of a YAML text; raises ValueError where a mapping has a key twice, which YAML readers let pass."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(node, "")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_keys(node: yaml.Node, path: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for place, inner in enumerate(node.value):
            _check_keys(inner, f"{path}{place}.")
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, inner in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise ValueError(
                    f"the key {path}{name} stands twice, in line {lines[name]} and in line {line}; one must go"
                )
            lines[name] = line
            _check_keys(inner, f"{path}{name}.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).removesuffix(".")


def _set(tree: dict[str, Any], assignment: str) -> None:
    """Apply one `--set a.b=value` (the value is YAML)."""
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise UserError(f"--set {assignment}: expected KEY.PATH=VALUE, for example train.epochs=3.")
    *parents, leaf = path.strip().split(".")
    node = tree
    for key in parents:
        inner = node.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {assignment}: '{key}' is not a section.")
        node = inner
    try:
        node[leaf] = _yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"--set {assignment}: its value is not readable as YAML: {_one_line(error)}.") from None


def _keys(problem: ErrorDetails, tree: Any) -> list[str]:
    """The keys to a problem's place; pydantic puts the tag of a chosen variant among them, YAML does not."""
    keys = []
    for part in problem["loc"]:
        inner = part in tree if isinstance(tree, dict) else isinstance(tree, list) and isinstance(part, int)
        if inner or (problem["type"] == "missing" and part == problem["loc"][-1]):
            keys.append(str(part))
            tree = tree[part] if inner else None
    return keys


def parse_config(tree: dict[str, Any], where: str = "configuration") -> Config:
    """Check a parsed YAML tree; raises UserError that names every wrong key by its path in one paragraph."""
    try:
        return Config.model_validate(_expand(tree, where))
    except ValidationError as error:
        problems = []
        for item in error.errors():
            path = ".".join(_keys(item, tree)) or "(top level)"
            if item["type"] == "extra_forbidden":
                problems.append(f"{path}: no such key")
            elif item["type"] == "missing":
                problems.append(f"{path}: required, but missing")
            else:
                found = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"
                problems.append(f"{path}: {item['msg']}{found}")
        raise UserError(f"{where}: " + "; ".join(problems) + ".") from None


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read one YAML file, apply `--set` overrides, expand environment variables and check every key."""
    path = Path(path)
    try:
        tree = _yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file; the ones that ship are in configs/.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not readable as YAML: {_one_line(error)}.") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected keys such as name, data and train at the top level, found {tree!r}.")
    for assignment in overrides:
        _set(tree, assignment)
    return parse_config(tree, str(path))
