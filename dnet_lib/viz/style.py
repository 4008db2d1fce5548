"""The look of the book: its colours, and matplotlib set up for it."""

BLUE, ORANGE, GREEN, PINK, SKY, RUST, INK = "#3d7ab8", "#e08e1b", "#2f9e77", "#c7709f", "#62b0e0", "#cf5f26", "#2b3440"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RUST, INK)  # told apart by colour-blind readers, in this order
GROUPS = (*PALETTE[:6], "#8a929b", "#8e5bb5", "#8fa12a", "#e0607e")  # for the groups of `points`, on light and dark
PAPER, SHAPE = "#f6f7f9", "#6ca0d6"


def plot_style() -> None:
    """Set matplotlib up for the book: opaque paper, colours that colour-blind readers can tell apart, readable text."""
    from matplotlib import rc
    from matplotlib.rcsetup import cycler

    rc("figure", figsize=(7.0, 3.4), dpi=144, facecolor=PAPER)
    rc("figure.constrained_layout", use=True, h_pad=0.12, w_pad=0.12)
    rc("savefig", dpi=144, facecolor=PAPER)
    rc("axes", facecolor=PAPER, edgecolor="#8a94a0", labelcolor=INK, titlecolor=INK, titlesize=11, labelsize=10)
    rc("axes", grid=True, axisbelow=True, prop_cycle=cycler(color=PALETTE))
    rc("axes.spines", top=False, right=False)
    rc("grid", color="#dfe3e8", linewidth=0.8)
    rc("text", color=INK)
    rc("xtick", color=INK)
    rc("ytick", color=INK)
    rc("font", size=10)
    rc("legend", frameon=False, fontsize=9)
    rc("lines", linewidth=1.8)
