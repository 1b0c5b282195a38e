/** Samples over time, whether they grow, and their picture. */
import { COLOURS, drawChart, type Panel, round } from '../rig/chart.ts';

export interface Series {
  name: string;
  unit: string;
  /** Growth over the whole time that is still flat: noise of the garbage collector, of how many pods are under way. */
  allowed: number;
  points: { seconds: number; value: number }[];
}

export interface Trend {
  median: number;
  /** Of the fitted line, from the end of the warm-up to the end. */
  growth: number;
  flat: boolean;
  /** Ends of the fitted line. */
  line: { seconds: number; value: number }[];
}

/** The first part of a soak, in which caches fill. */
const WARM_UP = 0.25;

/** Theil and Sen's line: the median of the slopes of all pairs, which single peaks do not move. */
export function trendOf({ points, allowed }: Series): Trend {
  const end = points.at(-1)?.seconds ?? 0;
  const steady = points.filter(({ seconds }) => seconds >= end * WARM_UP);
  const slopes: number[] = [];
  for (const [at, one] of steady.entries()) {
    for (const other of steady.slice(at + 1)) slopes.push((other.value - one.value) / (other.seconds - one.seconds));
  }
  const slope = slopes.length === 0 ? 0 : median(slopes);
  const start = steady[0]?.seconds ?? 0;
  const base = median(steady.map(({ seconds, value }) => value - slope * (seconds - start)));
  const growth = slope * (end - start);
  const line = [
    { seconds: start, value: base },
    { seconds: end, value: base + growth },
  ];
  return { median: median(steady.map(({ value }) => value)), growth, flat: growth <= allowed, line };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) / 2;
  return ((sorted[Math.floor(at)] ?? 0) + (sorted[Math.ceil(at)] ?? 0)) / 2;
}

/** Small multiples, one for each series: the samples and the fitted line. */
export function drawSeries(title: string, all: readonly Series[]): string {
  return drawChart(title, all.map(panel));
}

function panel(series: Series): Panel {
  const { name, unit, points } = series;
  const { growth, flat, line, median: middle } = trendOf(series);
  const end = points.at(-1)?.seconds || 1;
  const sign = growth >= 0 ? '+' : '−';
  const drawn = (some: readonly { seconds: number; value: number }[]) =>
    some.map(({ seconds, value }) => ({ x: seconds, y: value }));
  return {
    name,
    note: `median ${round(middle)} ${unit}, trend ${sign}${round(Math.abs(growth))}${flat ? '' : ': GROWS'}`,
    alarm: !flat,
    ticks: [0, end / 2, end].map((seconds) => ({ x: seconds, label: `${round(seconds / 60)} min` })),
    lines: [
      { colour: COLOURS[0], points: drawn(points) },
      { colour: flat ? COLOURS[2] : '#b3261e', points: drawn(line), dashed: true },
    ],
  };
}
