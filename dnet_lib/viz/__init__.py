"""Pictures of voxel shapes and figures, for notebooks with a kernel, for pages without, and for readers who cannot see.

The live panels stand apart in `dnet_lib.viz.panels`, which needs models; the rest draws arrays and knows no model.
"""

from dnet_lib.viz.figures import Picture, figure
from dnet_lib.viz.flipbooks import Flipbook, flipbook, frames
from dnet_lib.viz.scenes import SCENE_JS, WIDTH, Points, Scene, points, show
from dnet_lib.viz.shown import MimeBundle, mime_bundle
from dnet_lib.viz.style import BLUE, GREEN, GROUPS, INK, ORANGE, PALETTE, PAPER, PINK, RUST, SHAPE, SKY, plot_style

__all__ = ["figure", "flipbook", "frames", "plot_style", "points", "show"]
__all__ += ["Flipbook", "MimeBundle", "Picture", "Points", "Scene", "mime_bundle"]
__all__ += ["BLUE", "GREEN", "GROUPS", "INK", "ORANGE", "PALETTE", "PAPER", "PINK", "RUST", "SHAPE", "SKY"]
__all__ += ["SCENE_JS", "WIDTH"]
