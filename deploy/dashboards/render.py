"""A Board as the JSON that Grafana imports, by Grafana's own types (grafana-foundation-sdk, made from its schema)."""

from __future__ import annotations

import json

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, statetimeline
from grafana_foundation_sdk.builders import timeseries as graph
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as queries

from deploy.dashboards.board import PROMETHEUS, Board, Mark, Panel, Row, Variable
from deploy.dashboards.common import TAG

SOURCE = models.DataSourceRef(type_val="prometheus", uid=PROMETHEUS)
# What Grafana's Prometheus data source reads of an annotation; its schema of annotations leaves it to the data source.
EXTRAS_OF_MARKS = ("textFormat", "titleFormat", "step", "useValueForTime")


def to_json(board: Board) -> str:
    """The file's text."""
    made = dashboard.Dashboard(board.title).uid(board.uid).description(board.description).tags([TAG]).editable()
    made = made.time(board.since, "now").refresh("30s").timezone("browser")
    made = made.tooltip(models.DashboardCursorSync.CROSSHAIR).link(_links())
    made = made.variables([_source(), *map(_variable, board.variables)]).annotations([_mark(m) for m in board.marks])
    whole = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    whole["panels"] = json.loads(json.dumps(_panels(board.rows), cls=JSONEncoder))
    for variable in whole["templating"]["list"]:
        del variable["id"]     # an empty one: Grafana 10 makes its own, later ones know none
    for written, mark in zip(whole["annotations"].get("list", []), board.marks, strict=True):
        written |= {"titleFormat": mark.title, "textFormat": mark.text, "step": mark.step, "useValueForTime": False}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _links() -> dashboard.DashboardLink:
    """To the other dashboards, with what is chosen here."""
    link = dashboard.DashboardLink("Understudy").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(True).include_vars(True).keep_time(True)


def _source() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _variable(variable: Variable) -> Builder[models.VariableModel]:
    if variable.values:
        made = dashboard.IntervalVariable(variable.name).values(",".join(variable.values))
        chosen = models.VariableOption(text=variable.values[0], value=variable.values[0], selected=True)
        return made.label(variable.title).description(variable.description).current(chosen)
    every = models.VariableOption(text=["All"], value=["$__all"], selected=True)
    return (
        dashboard.QueryVariable(variable.name).label(variable.title).description(variable.description)
        .query(f"label_values({variable.of}, {variable.label})").datasource(SOURCE).current(every)
        .multi(True).include_all(True).all_value(".+")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    )  # fmt: skip


def _mark(mark: Mark) -> dashboard.AnnotationQuery:
    made = dashboard.AnnotationQuery().name(mark.name).expr(mark.expr).icon_color(mark.colour)
    return made.datasource(SOURCE).enable(True)


def _panels(rows: tuple[Row, ...]) -> list[models.Panel | models.RowPanel]:
    """Left to right, then down; a heading over each row."""
    made: list[models.Panel | models.RowPanel] = []
    top, number = 0, 1
    for row in rows:
        heading = dashboard.Row(row.title).id(number).grid_pos(models.GridPos(x=0, y=top, w=24, h=1))
        made.append(heading.build())
        top, number, left, tallest = top + 1, number + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > 24:
                top, left, tallest = top + tallest, 0, 0
            placed = _panel(panel)
            placed.id_val, placed.grid_pos = number, models.GridPos(x=left, y=top, w=panel.width, h=panel.height)
            made.append(placed)
            number, left, tallest = number + 1, left + panel.width, max(tallest, panel.height)
        top += tallest
    return made


def _panel(panel: Panel) -> models.Panel:
    """One panel, whatever its kind; not yet in its place."""
    made = _of_kind(panel).build()
    made.title, made.description, made.datasource = panel.title, panel.description, SOURCE
    made.targets = [_target(panel, number) for number in range(len(panel.queries))]
    made.field_config = made.field_config or models.FieldConfigSource()
    shown = made.field_config.defaults
    shown.unit, shown.min_val, shown.max_val = panel.unit, panel.minimum, panel.maximum
    steps = [models.Threshold(value=value, color=colour) for value, colour in panel.thresholds]
    shown.thresholds = models.ThresholdsConfig(mode=models.ThresholdsMode.ABSOLUTE, steps=steps)
    if panel.names:
        texts = {value: models.ValueMappingResult(text=text) for value, text in panel.names}
        shown.mappings = [models.ValueMap(options=texts)]
    if panel.kind in ("stat", "timeline", "bars"):
        shown.color = models.FieldColor(mode=models.FieldColorModeId.THRESHOLDS)
    return made


def _target(panel: Panel, number: int) -> queries.Dataquery:
    query = panel.queries[number]
    made = prometheus.Dataquery().expr(query.expr).legend_format(query.legend or "__auto").datasource(SOURCE)
    made = made.ref_id(chr(ord("A") + number)).editor_mode(queries.QueryEditorMode.CODE)
    made = made.format(queries.PromQueryFormat.HEATMAP) if panel.kind == "heatmap" else made
    return (made.instant() if panel.kind == "bars" else made.range()).build()


def _of_kind(panel: Panel) -> Builder[models.Panel]:
    """The builder of a kind, with how it looks."""
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    match panel.kind:
        case "stat":
            return stat.Panel().reduce_options(last).graph_mode(shapes.BigValueGraphMode.AREA)
        case "timeline":
            return statetimeline.Panel().merge_values(True).show_value(shapes.VisibilityMode.AUTO)
        case "bars":
            return bargauge.Panel().reduce_options(last).orientation(shapes.VizOrientation.HORIZONTAL)
        case "heatmap":
            return heatmap.Panel().calculate(False)
    legend = common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.LIST).show_legend(True)
    legend = legend.placement(shapes.LegendPlacement.BOTTOM)
    made = graph.Panel().legend(legend).tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI))
    made = made.fill_opacity(30 if panel.stacked else 5).line_width(1)
    if panel.stacked:
        made = made.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))
    if len(panel.thresholds) > 1:
        made = made.thresholds_style(common.GraphThresholdsStyleConfig().mode(shapes.GraphTresholdsStyleMode.DASHED))
    return made
