"""FG-DM in a few lines: a prompt and a graph of factors in, maps and images out.

    pipeline = FactorGraphDiffusion.load("scenes", palette=palette("scenes"))
    drawn = pipeline("a red ball in front of a blue box", "chain", seeds=range(4), size=(64, 64))
    drawn.images, drawn.maps["depth"], drawn.recall

Prompts are obeyed by drawing many maps and making an image of the best (arXiv:2410.21638):

    variables = ["segmentation", "depth"]
    maps = pipeline(prompt, "chain", variables, seeds=range(10), size=(64, 64))
    drawn = pipeline(prompt, "chain", given=maps.best())

`fgdm_jax.painter` and `fgdm_jax.draw` have the programs that this is made of, for those who need
more; `fgdm_jax.pipeline_checks` says what may be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fgdm_jax.convert import components
from fgdm_jax.draw import Drawing, HandOver
from fgdm_jax.drawn import Drawn, clean_picture
from fgdm_jax.given import enlarged
from fgdm_jax.graph import Factor, Mode
from fgdm_jax.load import FGDMConfig, named_paths
from fgdm_jax.painter import GraphPainter
from fgdm_jax.pipeline_checks import (
    GRAPHS,
    ancestors,
    choice_problems,
    find_given,
    find_graph,
    find_objects,
    find_order,
    find_seeds,
    find_sizes,
    find_tables,
    model_problems,
    number_problems,
)
from fgdm_jax.scores import Palette, score_draws, unscored
from sd_jax.encoding import encode_prompts
from sd_jax.load import cast_params, open_each
from sd_jax.model import Model
from sd_jax.schedule import Spacing
from sd_jax.tokenizer import Tokenizer, load_tokenizer

__all__ = ["GRAPHS", "Drawn", "FactorGraphDiffusion"]


class FactorGraphDiffusion:
    """A model that draws graphs of factors: maps, and images together with them or after them.

    Args:
      model: with all components that the graphs need.
      tokenizer: of its text encoder.
      palette: of its segmentations (`input_pipeline.palettes.palette`); needed where a graph draws
        or takes one.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, palette: Palette | None = None) -> None:
        self.model, self.tokenizer, self.palette = model, tokenizer, palette

    @classmethod
    def load(
        cls,
        *checkpoints: str | Path,
        palette: Palette | None = None,
        dtype: Any = jnp.float32,
        num_heads: int | None = None,
    ) -> FactorGraphDiffusion:
        """Returns the pipeline of checkpoints.

        Args:
          *checkpoints: as `fgdm_jax.load` takes them; they complete one another.
          palette: as above.
          dtype: of the parameters and the computation.
          num_heads: attention heads where no config.json tells them; 8 unless given.

        Raises:
          ValueError: a "VARIABLE=" before a path is unknown, or there is no path.
          CheckpointError: a checkpoint is not there, damaged, or of another architecture.
        """
        items = [(path, components(variable)) for variable, path in named_paths(checkpoints)]
        opened = open_each(items, num_heads=num_heads)
        model = cast_params(opened.load(FGDMConfig), dtype)
        return cls(model, load_tokenizer(opened.tokenizer), palette)

    def __call__(
        self,
        prompt: str,
        graph: str | Sequence[Factor],
        variables: Sequence[str] | None = None,
        *,
        given: Mapping[str, np.ndarray] | Drawn | None = None,
        objects: Sequence[str] = (),
        negative_prompt: str = "",
        size: tuple[int, int] | None = None,
        map_size: tuple[int, int] | None = None,
        seeds: Sequence[int] | None = None,
        num_steps: int = 20,
        map_steps: int | None = None,
        guidance_scale: float = 7.5,
        map_guidance_scale: float | None = None,
        conditioning_scale: float = 1.0,
        sampler: str = "dpmpp_2m",
        spacing: Spacing = "trailing",
        mode: Mode = "joint",
        hand_over: HandOver = "trained",
        keep_steps: Sequence[int] = (),
        batch_size: int | None = None,
        report: Callable[[int], object] | None = None,
    ) -> Drawn:
        """Returns a draw of the graph's variables for each seed.

        Args:
          prompt: what to see.
          graph: a name of `GRAPHS`, or as `fgdm_jax.graph.parse_graph` takes it, or factors.
          variables: to draw, with what they are drawn from. All but those given, and but an image
            that Compose and Conquer composes: `cnc_jax.pipeline` makes it of the maps.
          given: variables that are not drawn: maps or pictures of them by name (`fgdm_jax.given`),
            or draws of an earlier call, whose variables and seeds are taken over.
          objects: names of the classes to look for in segmentations; those of the prompt unless
            given.
          negative_prompt: what guidance leads away from.
          size: (height, width) of images, multiples of 64; that of maps unless given.
          map_size: of maps; that of the given ones, or `size`, unless given.
          seeds: of the noise; a variable depends on its seed, its name and its parents alone. (0,)
            unless given, or those of given draws; a single given draw goes with any seeds.
          num_steps: denoising steps.
          map_steps: those of maps; `num_steps` unless given.
          guidance_scale: of the text; 1 leaves guidance out.
          map_guidance_scale: that of maps; `guidance_scale` unless given.
          conditioning_scale: of what a ControlNet adds.
          sampler: see `sd_jax.samplers`.
          spacing: of the timesteps; see `sd_jax.schedule`.
          mode: "joint", or "sequential": one variable after the other.
          hand_over: what children see of their parents: what each was "trained" on, "latents",
            noisy ones of the same step, or "x0", predicted clean ones, on which the released
            weights were trained without saying so.
          keep_steps: steps, from 0, after which predictions are kept.
          batch_size: draws on the device at once; all of them unless given.
          report: called with the number of steps done since the last call.

        Raises:
          ValueError: what is asked for is unknown, contradictory, or does not fit the model (all
            problems at once), or the result is not finite.
        """
        scales = {
            "guidance_scale": guidance_scale,
            "map_guidance_scale": guidance_scale
            if map_guidance_scale is None
            else map_guidance_scale,
            "conditioning_scale": conditioning_scale,
        }
        steps = (num_steps, num_steps if map_steps is None else map_steps)
        earlier = given if isinstance(given, Drawn) else None
        maps = {} if given is None or isinstance(given, Drawn) else given
        names = list(maps if earlier is None else earlier.latents)

        problems = choice_problems(
            {"mode": (mode, get_args(Mode)), "hand_over": (hand_over, get_args(HandOver))}
        )
        whole = find_graph(problems, graph)
        order = find_order(problems, whole, variables, names, is_drawn=earlier is not None)
        numbers = find_seeds(problems, seeds, earlier)
        pictures = find_given(problems, maps, self.palette)
        sizes = find_sizes(problems, order, size, map_size, _sizes_of(pictures, earlier))
        tables = find_tables(problems, order, self.model, sampler, spacing, steps)
        asked = find_objects(problems, prompt, objects, order, names, self.palette)
        problems += number_problems(tables, scales, keep_steps, batch_size)
        problems += model_problems(order, self.model)
        if problems:
            raise ValueError("\n".join(problems))

        scale = self.model.config.vae.downsampling
        drawing = Drawing(
            whole,
            {name: (height // scale, width // scale) for name, (height, width) in sizes.items()},
            tables,
            _guided(sizes, scales),
            mode=mode,
            what=hand_over,
            conditioning_scale=conditioning_scale,
            dtype=self._dtype,
        )
        ids = jnp.asarray(self.tokenizer([prompt, negative_prompt]))
        painter = GraphPainter(
            self.model,
            drawing,
            encode_prompts(self.model, ids, dtype=self._dtype),
            pictures,
            {
                parent: enlarged(parent, pictures[parent], sizes[factor.variable])
                for factor in order
                if factor.kind == "controlnet"
                for parent in factor.parents
                if parent in pictures
            },
        )
        if earlier is not None and len(earlier) < len(numbers):
            earlier = earlier.take([0] * len(numbers))
        try:
            return self._draw(
                painter, list(sizes), numbers, earlier, asked, keep_steps, batch_size, report
            )
        except FloatingPointError as error:
            raise ValueError(
                f"{error}; load the pipeline with dtype=bfloat16 or float32"
            ) from error

    def _draw(
        self,
        painter: GraphPainter,
        wanted: Sequence[str],
        seeds: Sequence[int],
        earlier: Drawn | None,
        objects: tuple[str, ...],
        keep: Sequence[int],
        batch_size: int | None,
        report: Callable[[int], object] | None,
    ) -> Drawn:
        """Returns all draws, with what they were drawn from if earlier ones have it."""
        size = min(batch_size or len(seeds), len(seeds))
        old = {} if earlier is None else earlier.latents
        before = {
            name: old[name] for name in old if name in ancestors(painter.drawing.graph, wanted)
        }
        parts, kept = [], []
        for first in range(0, len(seeds), size):
            rows = slice(first, first + size)
            latents, predicted = painter.draw(
                seeds[rows],
                wanted,
                {name: array[rows] for name, array in before.items()},
                size,
                keep=keep,
                report=None if report is None else lambda _, done: report(done),
            )
            parts.append(latents)
            kept.append(
                {name: self._predictions(painter, name, item) for name, item in predicted.items()}
            )
        latents = {name: np.concatenate([part[name] for part in parts]) for name in wanted}
        decoded = {name: painter.decode(array) for name, array in latents.items()}
        if earlier is not None:
            latents = before | latents
            decoded = {name: earlier.decoded[name] for name in before} | decoded
        scores = unscored(objects, len(seeds))
        if objects and "segmentation" in decoded and self.palette is not None:
            scores = score_draws(decoded["segmentation"], objects, self.palette)
        predictions = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
        return Drawn(tuple(seeds), latents, decoded, scores, self.palette, predictions)

    def _predictions(self, painter: GraphPainter, name: str, latents: np.ndarray) -> np.ndarray:
        """Returns kept latents [step draw h w c] as pictures [draw step h w 3]."""
        steps = [clean_picture(name, painter.decode(item), self.palette) for item in latents]
        return np.stack(steps, axis=1)

    @property
    def _dtype(self) -> Any:
        return jax.tree.leaves(self.model.params["unet"])[0].dtype


def _sizes_of(
    pictures: Mapping[str, np.ndarray], earlier: Drawn | None
) -> dict[str, tuple[int, int]]:
    """Returns (height, width) of what is not drawn, by variable."""
    decoded = {} if earlier is None else {name: item[0] for name, item in earlier.decoded.items()}
    shapes = {name: item.shape for name, item in {**pictures, **decoded}.items()}
    return {name: (shape[0], shape[1]) for name, shape in shapes.items()}


def _guided(variables: Iterable[str], scales: Mapping[str, float]) -> dict[str, float]:
    """Returns the guidance scales of the variables that have guidance."""
    names = {
        name: scales["guidance_scale" if name == "image" else "map_guidance_scale"]
        for name in variables
    }
    return {name: scale for name, scale in names.items() if scale != 1}
