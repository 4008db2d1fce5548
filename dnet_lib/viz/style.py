"""The look of the book: its colours, and matplotlib set up for it."""

BLUE, ORANGE, GREEN, PINK, SKY, RUST, INK = "#3d7ab8", "#e08e1b", "#2f9e77", "#c7709f", "#62b0e0", "#cf5f26", "#2b3440"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RUST, INK)  # told apart by colour-blind readers, in this order
GROUPS = (*PALETTE[:6], "#8a929b", "#8e5bb5", "#8fa12a", "#e0607e")  # for the groups of `points`, on light and dark
PAPER, SHAPE = "#f6f7f9", "#6ca0d6"


def plot_style() -> None:
    """Set matplotlib up for the book: opaque paper, colours that colour-blind readers can tell apart, readable text."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (7.0, 3.4),
            "figure.dpi": 144,
            "savefig.dpi": 144,
            "figure.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.h_pad": 0.12,
            "figure.constrained_layout.w_pad": 0.12,
            "axes.facecolor": PAPER,
            "axes.edgecolor": "#8a94a0",
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": cycler(color=PALETTE),
            "grid.color": "#dfe3e8",
            "grid.linewidth": 0.8,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "font.size": 10,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 1.8,
        }
    )
