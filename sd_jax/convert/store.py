"""The converted directory: parameters in Orbax, sizes in JSON, and what is needed to go back.

    DIR/config.json           format, sizes of every component, noise schedule
    DIR/params/<component>/   Orbax, in the types that the source had; checksums beside it
    DIR/source.json           where every tensor of the sources went
    DIR/extras_0.safetensors  tensors of the first source that no network uses (buffers, averages)
    DIR/tokenizer/            tokenizer files, if a source had any

A directory appears under its name only when it is complete.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from sd_jax.convert.component import Component
from sd_jax.convert.config_json import from_json, to_json
from sd_jax.convert.load import Plan, Record, read_component
from sd_jax.convert.params_store import load_params, params_shapes, save_params
from sd_jax.convert.source import CheckpointError
from sd_jax.files import write_safetensors
from sd_jax.files.directory import complete_directory
from sd_jax.schedule import ScheduleConfig
from sd_jax.typing import Params, flat_params, nested_params

FORMAT = "cnc_fgdm_jax"
VERSION = 1

_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class Origin:
    """What one source of a converted directory looked like.

    Attributes:
      layout: "ldm" or "diffusers".
      records: one for each tensor of the source, in its order.
      hints: config.json of each component's folder.
      scheduler: scheduler_config.json.
      bare: prefix that the source's names lacked.
      extras: name of the file with its tensors that no network uses, if there are any.
      metadata: text that a safetensors file held beside its tensors.
    """

    layout: str
    records: tuple[Record, ...] = ()
    hints: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    scheduler: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    bare: str = ""
    extras: str | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Converted:
    """An opened converted directory.

    Attributes:
      path: of the directory.
      configs: sizes by component.
      schedule: noise schedule.
      origins: the sources; none if the weights were put together here.
      replaced: component -> arrays by path that stand in the place of stored ones (what a training
        run made of them); None for none.
    """

    path: Path
    configs: Mapping[str, Any]
    schedule: ScheduleConfig
    origins: tuple[Origin, ...]
    replaced: Callable[[str], Mapping[str, Any]] | None = None

    def shapes(self, component: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shape and stored type of every parameter of a component by path."""
        return params_shapes(self.path / "params" / component)

    def read(self, component: str, abstract: Params | None = None) -> Params:
        """Returns a component's parameters as NumPy arrays.

        Args:
          component: its name.
          abstract: tree of the expected shapes; those that are stored unless given.

        Raises:
          CheckpointError: the parameters are damaged, or are not those expected.
        """
        params = load_params(self.path / "params" / component, abstract)
        if self.replaced is None:
            return params
        return nested_params({**flat_params(params), **self.replaced(component)})

    @property
    def tokenizer(self) -> Path | None:
        """Folder with the tokenizer's files, if the source had any."""
        folder = self.path / "tokenizer"
        return folder if folder.is_dir() else None


def is_converted(path: str | Path) -> bool:
    """Returns whether `path` looks like a converted directory."""
    file = Path(path) / "config.json"
    if not file.is_file():
        return False
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("format") == FORMAT
    except (ValueError, AttributeError, OSError):
        return False


def save_plans(
    plans: Sequence[Plan],
    components: Sequence[Component],
    output: str | Path,
    schedule: ScheduleConfig,
    *,
    overwrite: bool = False,
    report: Callable[[str], object] = lambda component: None,
) -> None:
    """Writes what `plans` load as a converted directory, one component in memory at a time.

    Args:
      plans: from `plan_loading`, one for each source; of a component that two have, the first is
        taken.
      components: that the plans were made with.
      output: directory to make.
      schedule: noise schedule.
      overwrite: replace a directory that is there.
      report: called with each component's name once it is written.
    """
    configs: dict[str, Any] = {}
    with complete_directory(output, overwrite=overwrite) as folder:
        origins = []
        for number, plan in enumerate(plans):
            for component in components:
                if component.name in plan.configs and component.name not in configs:
                    tree = read_component(plan, component)
                    save_params(folder / "params" / component.name, tree)
                    configs[component.name] = plan.configs[component.name]
                    report(component.name)
            origins.append(_save_origin(folder, number, plan))
            tokenizer = plan.source.tokenizer
            if tokenizer is not None and not (folder / "tokenizer").exists():
                shutil.copytree(tokenizer, folder / "tokenizer")
        _write_json(folder, configs, schedule, origins)


def _save_origin(folder: Path, number: int, plan: Plan) -> Origin:
    """Writes the tensors that no network uses and returns what the source looked like."""
    source, extras = plan.source, None
    if plan.unused:
        extras = f"extras_{number}.safetensors"
        tensors = [dataclasses.replace(source.tensors[name], name=name) for name in plan.unused]
        write_safetensors(folder / extras, tensors, None)
    return Origin(
        source.layout,
        tuple(plan.records()),
        source.hints,
        source.scheduler,
        source.bare,
        extras,
        source.metadata,
    )


def save_model(
    params: Mapping[str, Params],
    configs: Mapping[str, Any],
    output: str | Path,
    schedule: ScheduleConfig,
    *,
    tokenizer: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Writes parameters that were put together here as a converted directory.

    Args:
      params: by component.
      configs: sizes by component.
      output: directory to make.
      schedule: noise schedule.
      tokenizer: folder with the tokenizer's files.
      overwrite: replace a directory that is there.
    """
    with complete_directory(output, overwrite=overwrite) as folder:
        for name, tree in params.items():
            save_params(folder / "params" / name, tree)
        if tokenizer is not None:
            shutil.copytree(tokenizer, folder / "tokenizer")
        _write_json(folder, configs, schedule, [])


def open_converted(path: str | Path, components: Sequence[Component]) -> Converted:
    """Returns the converted directory at `path`, without reading weights.

    Args:
      path: of the directory.
      components: known ones; others in the directory are left alone.

    Raises:
      CheckpointError: the directory is incomplete, or of another version.
    """
    path = Path(path)
    content = _read_json(path / "config.json")
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise CheckpointError(
            f"{path / 'config.json'}: expected format {FORMAT} version {VERSION}, found "
            f"{content.get('format')} version {content.get('version')}; convert the source again"
        )
    try:
        configs = {
            component.name: from_json(component.config_class, content["components"][component.name])
            for component in components
            if component.name in content["components"]
        }
        schedule = from_json(ScheduleConfig, content["schedule"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / 'config.json'}: {error}") from error
    missing = [name for name in configs if not (path / "params" / name).is_dir()]
    if missing:
        raise CheckpointError(
            f"{path}: config.json names {', '.join(missing)}, but params/ has no such folder; "
            "the directory was copied in part: copy or convert it again"
        )
    return Converted(path, configs, schedule, _read_origins(path / "source.json"))


def _read_origins(path: Path) -> tuple[Origin, ...]:
    content = _read_json(path)
    try:
        return tuple(
            Origin(**{**source, "records": tuple(Record(*item) for item in source["records"])})
            for source in content["sources"]
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not as this version writes it ({error!r}); convert the source again"
        ) from error


def _write_json(
    folder: Path,
    configs: Mapping[str, Any],
    schedule: ScheduleConfig,
    origins: Sequence[Origin],
) -> None:
    config = {
        "format": FORMAT,
        "version": VERSION,
        "components": {name: to_json(config) for name, config in configs.items()},
        "schedule": to_json(schedule),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    sources = [
        {
            **{
                field.name: getattr(origin, field.name)
                for field in dataclasses.fields(origin)
                if field.name != "records"
            },
            "records": [dataclasses.astuple(record) for record in origin.records],
        }
        for origin in origins
    ]
    (folder / "source.json").write_text(json.dumps({"sources": sources}) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not readable as JSON ({error}); convert the source again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: expected a JSON object, got {type(content).__name__}; "
            "convert the source again"
        )
    return content
