"""The page of a report: one file that opens without a network."""

from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import mmser
from mmser.report.drawing import Figure
from mmser.report.examine import Examined
from mmser.report.learning import courses, learned_layers
from mmser.report.matrices import confusions, of_speakers
from mmser.report.provenance import made_by, sources_of, tested_on
from mmser.report.read import Row, Study
from mmser.report.scores import intervals, over_granularities, over_layers, over_text_layers
from mmser.report.tables import Table
from mmser.train.folder import as_json


def figures_of(examined: Sequence[Examined]) -> list[Figure]:
    """The figures that there are data for, in the order of the page."""
    makers = (
        intervals,
        over_layers,
        over_text_layers,
        over_granularities,
        confusions,
        of_speakers,
        learned_layers,
        courses,
    )
    return [figure for make in makers if (figure := make(examined)) is not None]


def page_of(study: Study, examined: Sequence[Examined], baseline: Row, table: Table, explorer: str | None) -> str:
    """The HTML of a report.

    Whatever comes from a corpus or a user is escaped by jinja2: as text, or as JSON in a script.

    Args:
        study: what it is of.
        examined: its rows.
        baseline: the row that the others are compared with.
        table: the same as a table.
        explorer: a page beside this one to link to.
    """
    environment = Environment(
        loader=PackageLoader("mmser.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = figures_of(examined)
    plots = {figure.key: [{"data": one.data, "layout": one.layout} for one in figure.drawings] for figure in figures}
    return environment.get_template("report.html").render(
        study=study,
        baseline=baseline,
        table=table,
        figures=figures,
        plots=as_json(plots),
        tested=tested_on(examined),
        sources=sources_of(study.rows),
        made=made_by(study.rows),
        explorer=explorer,
        version=mmser.__version__,
        style=_own("palette.css") + _own("report.css"),
        script=_own("report.js"),
        plotly=_plotly() if figures else "",
    )


def _own(name: str) -> Markup:
    """A file of ours that goes into the page as it is."""
    return Markup((files("mmser.report") / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704


def _plotly() -> Markup:
    """The script that comes with the Python package plotly."""
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())  # noqa: S704
