"""Live panels: hide voxels and watch a chain bring them back (Algorithm 4); walk through a generator's latent space."""

from dataclasses import asdict
from typing import Any

import ipywidgets as w
import torch
from torch import Tensor

from dnet_lib.checks import check_shapes
from dnet_lib.errors import ShapeError
from dnet_lib.fast import freeze
from dnet_lib.generator import GeneratorNet, latents
from dnet_lib.langevin import langevin
from dnet_lib.pretrained import Pretrained
from dnet_lib.projections import hidden_voxels
from dnet_lib.viz.figures import MimeBundle, Picture
from dnet_lib.viz.scenes import Scene, show
from dnet_lib.voxels import Kind, centre, corrupt, fill_hidden, hide, uncentre

PLACES: dict[str, Kind | None] = {"anywhere": None, "in one half": "half", "in a cube": "cube", "behind": "behind"}
"""Where voxels are hidden: the panel's words for the whole grid and for each kind of `hide`."""


def hide_share(occupancy: Tensor, place: str, share: float, *, generator: torch.Generator | None = None) -> Tensor:
    """A mask (N, 1, R, R, R), True for a random share of the voxels of a place; 1 hides all that is there.

    Occupancy (N, 1, R, R, R); `place` is one of `PLACES`, `share` lies in [0, 1].
    """
    if place not in PLACES:
        raise ValueError(f"unknown place {place!r}: choose from {', '.join(PLACES)}")
    kind = PLACES[place]
    _, hidden = corrupt(occupancy, share, generator=generator)
    return hidden if kind is None else hidden & hide(occupancy, kind, generator=generator)


class RecoveryPanel:
    """Controls, a progress bar and a view of original, visible and recovered shapes, with the chain's slider.

    model   a model of recovery
    shapes  occupancy (N, 1, R, R, R) of the model's resolution
    seed    of the masks; each press draws new ones
    page    what a page without a kernel shows in the panel's place
    """

    def __init__(self, model: Pretrained, shapes: Tensor, *, seed: int = 0, page: Scene | None = None):
        resolution = model.net.architecture.resolution
        self.model, self.shapes, self.page = model, check_shapes(shapes, resolution=resolution), page
        self.generator = torch.Generator(shapes.device).manual_seed(seed)
        self.place = w.Dropdown(options=list(PLACES), description="hide")
        self.share = w.FloatSlider(0.7, min=0.05, max=1.0, step=0.05, description="share", readout_format=".0%")
        self.button = w.Button(description="recover", button_style="primary")
        self.progress = w.IntProgress(0, max=model.settings.num_steps, description="steps")
        self.screen = w.VBox()
        controls = w.HBox([self.place, self.share, self.button, self.progress], layout=w.Layout(flex_flow="row wrap"))
        self.box = w.VBox([controls, self.screen])
        self.button.on_click(lambda _: self.recover())
        self.hidden = torch.zeros_like(shapes, dtype=torch.bool)
        self.recovered = shapes
        self._draw(show(shapes, alt="Whole shapes"))

    def recover(self) -> Scene:
        """Hide what the controls say, run the model's chain, and show it. The visible voxels stay as they are."""
        self.button.disabled, self.progress.value = True, 0
        try:
            truth, mean, run = self.shapes, self.model.mean, asdict(self.model.settings)
            hidden = hide_share(truth, self.place.value, self.share.value, generator=self.generator)
            start, keep = centre(fill_hidden(truth, hidden), mean), hidden_voxels(hidden)
            energy = freeze(self.model.net, start, num_steps=run["num_steps"])
            film = [seen := truth.masked_fill(hidden, 0)]
            for y, _ in langevin(start, energy, **run, projection=keep, generator=self.generator):
                self.progress.value += 1
                film.append(torch.where(hidden, uncentre(y, mean), truth))
            self.hidden, self.recovered = hidden, film[-1]
            rows = [torch.stack([truth, seen, step], 1).flatten(0, 1) for step in film]
            captions, alt = ["original", "visible", "recovered"] * len(truth), "Original, visible and recovered shapes"
            return self._draw(show(rows, chain=True, captions=captions, columns=3, alt=alt))
        finally:
            self.button.disabled = False

    def _draw(self, scene: Scene) -> Scene:
        before, self.screen.children = self.screen.children, (scene.widget(),)
        for old in before:
            old.close()
        return scene

    def _repr_mimebundle_(self, **kwargs: Any) -> MimeBundle:
        twin = self.page or show(self.shapes, alt="The shapes of a recovery panel, which needs a kernel")
        return Picture(twin.png(), twin.alt, twin.html(), self.box)._repr_mimebundle_(**kwargs)


class LatentPanel:
    """Sliders through a generator's latent space: from one shape to another, and along named directions.

    net         the generator
    ends        latent vectors (2, d) of the shapes between which the first slider walks
    directions  latent vectors (d,) to be added, each with a slider from -1 to 1: a part, say
    seed        of other ends
    page        what a page without a kernel shows in the panel's place
    """

    def __init__(
        self,
        net: GeneratorNet,
        ends: Tensor,
        directions: dict[str, Tensor] | None = None,
        *,
        seed: int = 0,
        page: Scene | None = None,
    ):
        if tuple(ends.shape) != (2, net.layout.latent):
            raise ShapeError(f"the ends must be two latent vectors (2, {net.layout.latent}), not {tuple(ends.shape)}")
        self.net, self.ends, self.directions, self.page = net, ends, directions or {}, page
        self.generator = torch.Generator(ends.device).manual_seed(seed)
        slide = {"max": 1.0, "step": 0.05, "readout_format": ".2f"}
        self.between = w.FloatSlider(0.0, min=0.0, description="between", **slide)
        self.along = {name: w.FloatSlider(0.0, min=-1.0, description=name, **slide) for name in self.directions}
        self.button = w.Button(description="other ends", button_style="primary")
        self.view = self.scene().widget()
        sliders = [self.between, *self.along.values()]
        controls = w.HBox([*sliders, self.button], layout=w.Layout(flex_flow="row wrap"))
        self.box = w.VBox([controls, self.view])
        for slider in sliders:
            slider.observe(lambda _: self.scene().redraw(self.view), "value")
        self.button.on_click(lambda _: self.renew())

    @property
    def latent(self) -> Tensor:
        """Where the sliders stand, (1, d): (1 - rho) Z_0 + rho Z_1 plus the directions (section 6.4)."""
        z = torch.lerp(self.ends[:1], self.ends[1:], self.between.value)
        moved: Tensor = z + sum(slider.value * self.directions[name] for name, slider in self.along.items())
        return moved

    @torch.no_grad()
    def scene(self) -> Scene:
        """The two ends and, between them, the shape of the latent vector where the sliders stand."""
        shapes = self.net(torch.cat([self.ends[:1], self.latent, self.ends[1:]]))
        captions, alt = ["one end", "here", "the other"], "Two shapes of a generator, and one between them"
        return show(shapes, captions=captions, columns=3, alt=alt)

    def renew(self) -> None:
        """Draw two other ends, and show them."""
        self.ends = latents(self.net, 2, self.generator)
        self.scene().redraw(self.view)

    def _repr_mimebundle_(self, **kwargs: Any) -> MimeBundle:
        twin = self.page or self.scene()
        return Picture(twin.png(), twin.alt, twin.html(), self.box)._repr_mimebundle_(**kwargs)
