/** Builders that all dashboards use: variables, links, and panels with common settings. */
import type { Builder } from '@grafana/grafana-foundation-sdk/cog';
import {
  GraphDrawStyle,
  LegendDisplayMode,
  LegendPlacement,
  ReduceDataOptionsBuilder,
  ScaleDistribution,
  ScaleDistributionConfigBuilder,
  SortOrder,
  StackingConfigBuilder,
  StackingMode,
  TooltipDisplayMode,
  VizLegendOptionsBuilder,
  VizTooltipOptionsBuilder,
} from '@grafana/grafana-foundation-sdk/common';
import {
  type Dashboard,
  DashboardBuilder,
  DashboardCursorSync,
  DashboardLinkBuilder,
  DashboardLinkType,
  DatasourceVariableBuilder,
  type Panel,
  QueryVariableBuilder,
  RowBuilder,
  type RowPanel,
  ThresholdsConfigBuilder,
  ThresholdsMode,
  VariableRefresh,
  VariableSort,
} from '@grafana/grafana-foundation-sdk/dashboard';
import {
  PanelBuilder as HeatmapBuilder,
  HeatmapColorMode,
  HeatmapColorOptionsBuilder,
  YAxisConfigBuilder,
} from '@grafana/grafana-foundation-sdk/heatmap';
import { DataqueryBuilder, PromQueryFormat } from '@grafana/grafana-foundation-sdk/prometheus';
import { PanelBuilder as StatBuilder } from '@grafana/grafana-foundation-sdk/stat';
import { PanelBuilder as TimeseriesBuilder } from '@grafana/grafana-foundation-sdk/timeseries';
import { METRICS } from '../src/node/observe/table.ts';
import { labelName } from './query.ts';

const DATASOURCE = { type: 'prometheus', uid: '$datasource' };
const TAG = 'sluice';

export interface Target {
  expr: string;
  legend: string;
  /** Show exemplars (trace ids) as points. They exist while tracing is on. */
  exemplar?: true;
}

interface PanelOptions {
  title: string;
  description: string;
  /** Grafana's unit id: s, ops, bytes, short, percentunit ... */
  unit: string;
  targets: Target[];
  /** Width in columns, of 24; default 12. */
  width?: number;
  height?: number;
}

interface TimeseriesOptions extends PanelOptions {
  stack?: true;
  /** Logarithmic axis, for latencies of several orders of magnitude. */
  logarithmic?: true;
  /** Bars instead of lines, for counts of events. */
  bars?: true;
}

/** A time series, with the last and the largest value in the legend. */
export function lines(options: TimeseriesOptions): Builder<Panel> {
  const builder = new TimeseriesBuilder()
    .lineWidth(1)
    .fillOpacity(options.stack || options.bars ? 40 : 8)
    .min(0)
    .legend(
      new VizLegendOptionsBuilder()
        .showLegend(true)
        .displayMode(LegendDisplayMode.Table)
        .placement(LegendPlacement.Bottom)
        .calcs(['lastNotNull', 'max']),
    )
    .tooltip(new VizTooltipOptionsBuilder().mode(TooltipDisplayMode.Multi).sort(SortOrder.Descending));
  if (options.stack) builder.stacking(new StackingConfigBuilder().mode(StackingMode.Normal).group('A'));
  if (options.bars) builder.drawStyle(GraphDrawStyle.Bars);
  if (options.logarithmic) {
    builder.scaleDistribution(new ScaleDistributionConfigBuilder().type(ScaleDistribution.Log).log(10));
  }
  return common(builder, options, 8);
}

/** A single number, green below `thresholds`, which are the values from which it is orange and red. */
export function number(options: PanelOptions & { thresholds?: [orange: number, red: number] }): Builder<Panel> {
  const [orange, red] = options.thresholds ?? [];
  const steps: { value: number | null; color: string }[] = [{ value: null, color: 'green' }];
  if (orange !== undefined) steps.push({ value: orange, color: 'orange' });
  if (red !== undefined) steps.push({ value: red, color: 'red' });
  const builder = new StatBuilder()
    .reduceOptions(new ReduceDataOptionsBuilder().calcs(['lastNotNull']).values(false))
    .thresholds(new ThresholdsConfigBuilder().mode(ThresholdsMode.Absolute).steps(steps))
    .noValue('–');
  return common(builder, { width: 4, ...options }, 4);
}

/** A heat map of the buckets of a histogram over time. */
export function heatmap(options: Omit<PanelOptions, 'targets'> & { expr: string }): Builder<Panel> {
  const builder = new HeatmapBuilder()
    .calculate(false)
    .yAxis(new YAxisConfigBuilder().unit(options.unit))
    .color(new HeatmapColorOptionsBuilder().mode(HeatmapColorMode.Scheme).scheme('Oranges').steps(64));
  const target = query({ expr: options.expr, legend: '{{le}}' }).format(PromQueryFormat.Heatmap);
  return describe(builder, options, 8).withTarget(target);
}

type AnyBuilder = TimeseriesBuilder | StatBuilder | HeatmapBuilder;

function describe<B extends AnyBuilder>(builder: B, options: Omit<PanelOptions, 'targets'>, height: number): B {
  builder.title(options.title).description(options.description).unit(options.unit).datasource(DATASOURCE);
  builder.span(options.width ?? 12).height(options.height ?? height);
  return builder;
}

function common<B extends AnyBuilder>(builder: B, options: PanelOptions, height: number): Builder<Panel> {
  describe(builder, options, height);
  for (const target of options.targets) builder.withTarget(query(target));
  return builder;
}

function query({ expr, legend, exemplar }: Target): DataqueryBuilder {
  const one = new DataqueryBuilder().expr(expr).legendFormat(legend).datasource(DATASOURCE).range();
  return exemplar ? one.exemplar(true) : one;
}

interface BoardOptions {
  /** File name and uid: sluice-<name>. */
  name: string;
  title: string;
  description: string;
  /** Variables for labels of Sluice's metrics, in addition to data source, job and instance. */
  choose?: { name: string; label: string; metric: keyof typeof METRICS; values: string }[];
  rows: { title: string; panels: Builder<Panel>[] }[];
}

/** A dashboard for a provisioning folder: with a fixed uid, without an id, with numbered panels. */
export function board(options: BoardOptions): { name: string; json: Dashboard } {
  const all = (metric: string, label: string) => `label_values(${metric}, ${label})`;
  const variable = (name: string, label: string, definition: string) =>
    new QueryVariableBuilder(name)
      .label(label)
      .datasource(DATASOURCE)
      .query(definition)
      .definition(definition)
      .refresh(VariableRefresh.OnTimeRangeChanged)
      .sort(VariableSort.AlphabeticalAsc)
      .multi(true)
      .includeAll(true)
      .allValue('.+')
      .current({ selected: true, text: ['All'], value: ['$__all'] });
  const info = METRICS.buildInfo.name;
  const builder = new DashboardBuilder(options.title)
    .uid(`sluice-${options.name}`)
    .description(options.description)
    .tags([TAG])
    .timezone('browser')
    .time({ from: 'now-1h', to: 'now' })
    .refresh('30s')
    .readonly()
    .tooltip(DashboardCursorSync.Crosshair)
    .withVariable(new DatasourceVariableBuilder('datasource').label('Data source').type('prometheus'))
    .withVariable(variable('job', 'Job', all(info, 'job')))
    .withVariable(variable('instance', 'Instance', all(`${info}{job=~"$job"}`, 'instance')))
    .link(
      new DashboardLinkBuilder('Sluice')
        .type(DashboardLinkType.Dashboards)
        .tags([TAG])
        .asDropdown(false)
        .keepTime(true)
        .includeVars(true),
    );
  for (const { name, label, metric, values } of options.choose ?? []) {
    const series = `${METRICS[metric].name}_count{job=~"$job",instance=~"$instance"}`;
    builder.withVariable(variable(name, label, all(series, labelName(values))));
  }
  for (const { title, panels } of options.rows) {
    builder.withRow(new RowBuilder(title));
    for (const panel of panels) builder.withPanel(panel);
  }
  return { name: options.name, json: numbered(builder.build()) };
}

/** Sets the ids of panels and targets that Grafana would set, so that a saved copy does not differ in them. */
function numbered(dashboard: Dashboard): Dashboard {
  const links = dashboard.links?.map((link) => ({ ...link, icon: 'external link' }));
  const panels = dashboard.panels?.map((panel: Panel | RowPanel, index) => {
    if (!('targets' in panel)) return { ...panel, id: index + 1 };
    const targets = panel.targets?.map((target, at) => ({ ...target, refId: String.fromCharCode(65 + at) }));
    return { ...panel, id: index + 1, targets };
  });
  return { ...dashboard, links, panels };
}
