"""Pictures of shapes, and figures: for notebooks with a kernel, for pages without, for readers who cannot see them.

The live panels stand apart in `dnet_lib.viz.panels`, which needs models; the rest draws arrays and knows no model.
"""

from dnet_lib.viz.figures import MimeBundle, Picture, figure
from dnet_lib.viz.flipbooks import flipbook, frames
from dnet_lib.viz.scenes import Points, Scene, points, show
from dnet_lib.viz.style import BLUE, GREEN, GROUPS, INK, ORANGE, PALETTE, PAPER, PINK, RUST, SHAPE, SKY, plot_style
from dnet_lib.viz.views import SCENE_JS, WIDTH, View

__all__ = ["figure", "flipbook", "frames", "plot_style", "points", "show"]
__all__ += ["MimeBundle", "Picture", "Points", "Scene", "View"]
__all__ += ["BLUE", "GREEN", "GROUPS", "INK", "ORANGE", "PALETTE", "PAPER", "PINK", "RUST", "SHAPE", "SKY"]
__all__ += ["SCENE_JS", "WIDTH"]
