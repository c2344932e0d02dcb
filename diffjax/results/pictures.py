"""What all pictures share: matplotlib where it is there, style and palette, panels and legend, whole files.

A picture is the same whatever is set for matplotlib where it is drawn (``MPLBACKEND``, ``matplotlibrc``): it has
matplotlib's own defaults with ours, is drawn in memory, and a ``$`` in a name is a ``$``.
"""

import io
import logging
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffjax.errors import UserError
from diffjax.files import check_parent, whole_file
from diffjax.results.charts import LINES, MARKERS, Style, log_ticks, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
INSTALL = 'install it with pip install "diffjax[plots]"'
# Okabe and Ito's palette, told apart with every kind of colour vision; its yellow is too faint for a line.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, VERMILION = COLORS[:2]
_LETTER = 0.0077  # inches for each point of a font's size, about
_LINE = 0.0205  # inches from one line of text to the next, likewise
_LINES = dict(zip(LINES, ("-", "--", "-.", ":"), strict=True))
_SHAPES = dict(zip(MARKERS, ("o", "s", "^", "D", "v", "P", "X"), strict=True))
_RC: dict[Any, Any] = {
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "diffjax",
    "text.parse_math": False,
}


def can_draw() -> bool:
    """Whether matplotlib is there and can be loaded."""
    try:
        _load()
    except ImportError:  # found but broken is not there, so it is loaded and not only looked for
        return False
    return True


def _load() -> None:
    """Import matplotlib without the window system that ``MPLBACKEND`` names, which may not be there.

    Nor without its remarks on a home that cannot be written to or a faulty ``matplotlibrc``: neither is used.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib  # noqa: F401
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def check_plot_path(path: str | Path) -> str:
    """The format a file name asks for.

    Raises:
      UserError: it is none of ``FORMATS``.
    """
    suffix = Path(path).suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        raise UserError(f"--plot={path} does not end in {', '.join('.' + name for name in FORMATS)}")
    return suffix


def check_plot(path: str | Path) -> None:
    """Finds before the work what would keep the picture of ``--plot`` from being drawn.

    Raises:
      UserError: for another ending or a folder that is not there, or without matplotlib.
    """
    check_plot_path(path)
    check_parent("plot", path)
    check_matplotlib("plot")


def check_matplotlib(flag: str) -> None:
    """Raises ``UserError`` that names the flag without matplotlib."""
    if not can_draw():
        raise UserError(f"--{flag} needs matplotlib; {INSTALL}")


@contextmanager
def style(flag: str, font_points: float = 11.0) -> Iterator[None]:
    """The style of every file; raises ``UserError`` that names the flag without matplotlib."""
    check_matplotlib(flag)
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC | {"font.size": font_points, "savefig.dpi": 1760 / font_points})
        yield


def _font_points() -> float:
    import matplotlib

    return float(matplotlib.rcParams["font.size"])


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, that is drawn in memory; within :func:`style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def drawn(figure: "Figure", format_name: str) -> bytes:
    """A figure as the content of a file, which depends on nothing but the figure."""
    picture = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format_name)
    figure.savefig(picture, format=format_name, metadata=undated)
    return picture.getvalue()


def write_picture(picture: bytes, path: str | Path) -> None:
    """Write a whole picture, or leave what was there."""
    with whole_file(path) as temporary:
        temporary.write_bytes(picture)


def write_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure in the format of its file name, whole or not at all; within :func:`style`.

    Raises:
      UserError: for another ending than ``FORMATS``.
    """
    write_picture(drawn(figure, check_plot_path(path)), path)


def line_style(found: Style) -> dict[str, Any]:
    """A column's line, in matplotlib's words."""
    width = 0.164 * _font_points()
    return {"color": COLORS[found.color], "linestyle": _LINES[found.line], "linewidth": width} | marker_style(found)


def marker_style(found: Style) -> dict[str, Any]:
    """A column's marker, in matplotlib's words."""
    return {"color": COLORS[found.color], "marker": _SHAPES[found.marker], "markersize": 0.37 * _font_points()}


def panel_grid(
    count: int, most: int = 3, height: float = 3.4, width: float | None = None
) -> "tuple[Figure, list[Axes]]":
    """A figure with so many panels, at most ``most`` in a line, each so high; :func:`add_legend` makes it higher.

    ``width``: of the figure; without it, what the panels need.
    """
    across = min(most, count)
    down = -(-count // across)
    figure = new_figure(width or max(5.2, 4.4 * across), height * down)
    found = figure.subplots(down, across, squeeze=False).flatten()
    for panel in found[count:]:
        panel.set_axis_off()
    return figure, list(found[:count])


def wrapped(figure: "Figure", text: str) -> str:
    """Text in as many lines as the width of a figure asks for."""
    return textwrap.fill(text, int(figure.get_figwidth() / (_LETTER * _font_points())) - 4)


def add_title(figure: "Figure", panel: "Axes", title: str) -> None:
    """A title above a panel, in as many lines as keep it within the panel's own width."""
    spec = panel.get_subplotspec()
    across = spec.get_gridspec().ncols if spec is not None else 1
    letter = _LETTER * _font_points()
    width = figure.get_figwidth() / across - 10 * letter  # beside it stand the numbers of the axis
    letters = max(8, int(width / letter))
    parts = [title] if len(title) <= letters else re.split(r" (?=\()", title)
    panel.set_title("\n".join(textwrap.fill(part, letters) for part in parts))


def log_scale(panel: "Axes", low: float, high: float, axis: str = "x") -> None:
    """A logarithmic axis, ``x`` or ``y``, from ``low`` to ``high``, its values written as on a linear one."""
    marks: Sequence[float] = log_ticks(low, high)
    panel.set(**{f"{axis}scale": "log", f"{axis}lim": (low, high)})
    place = {"x": panel.set_xticks, "y": panel.set_yticks}[axis]
    place(marks, [short(value) for value in marks])
    place([], minor=True)


def add_legend(figure: "Figure", title: str) -> None:
    """One legend for all panels, below them: the figure becomes higher by it, and no name is broken."""
    lines = {line.get_label(): line for panel in figure.axes for line in panel.get_lines()}
    shown = {str(name): line for name, line in lines.items() if not str(name).startswith("_")}
    letter, line = _LETTER * _font_points(), _LINE * _font_points()
    width = figure.get_figwidth() - 4 * letter
    title = wrapped(figure, title)
    across = max(1, min(len(shown), int(width / (letter * (max(map(len, shown)) + 7)))))
    lines_below = -(-len(shown) // across) + (title.count("\n") + 1 if title else 0) + 1
    figure.set_figheight(figure.get_figheight() + line * lines_below)
    figure.legend(
        shown.values(),
        shown.keys(),
        loc="outside lower center",
        ncols=across,
        frameon=False,
        title=title,
    )
