"""The look of pictures, and files that are replaced at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from yt8m_ray.local_files import replace_file

BLUE = "#2f6db3"
GREY = "#5f6368"
GRID = "#e3e5e8"
SIZE_INCHES = (8.0, 4.8)
DPI = 150


def save_picture(path: Path, draw: Callable[[Figure], None], *, size: tuple[float, float] = SIZE_INCHES) -> None:
    """Writes the PNG of a figure of `size` inches that `draw` fills."""
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    # Never a window, whatever the user's settings say.
    FigureCanvasAgg(figure)
    draw(figure)
    replace_file(path, lambda aside: figure.savefig(aside, format="png"))


def label_axes(axes: Axes, *, title: str, subtitle: str, x: str, y: str) -> None:
    """Sets the texts and the grid of axes."""
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=24)
    axes.annotate(
        subtitle, (0, 1), xycoords="axes fraction", xytext=(0, 9), textcoords="offset points", fontsize=9, color=GREY
    )
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def count_in_thousands(*axes: Axis) -> None:
    """Writes numbers such as 12,000 along an axis."""
    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
