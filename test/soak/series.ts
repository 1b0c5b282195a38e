/** Samples over time, whether they grow, and their picture. */

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

const WIDTH = 460;
const HEIGHT = 150;
const LEFT = 52;
const TOP = 34;
const GAP = 26;
const COLUMNS = 2;

/** Small multiples, one for each series: the samples and the fitted line. */
export function drawSeries(title: string, all: readonly Series[]): string {
  const rows = Math.ceil(all.length / COLUMNS);
  const width = COLUMNS * (WIDTH + GAP) + GAP;
  const height = rows * (HEIGHT + TOP + GAP) + 56;
  const panels = all.map((series, at) => {
    const x = GAP + (at % COLUMNS) * (WIDTH + GAP);
    const y = 44 + Math.floor(at / COLUMNS) * (HEIGHT + TOP + GAP);
    return `<g transform="translate(${x} ${y})">${panel(series)}</g>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">
<rect width="${width}" height="${height}" fill="#ffffff"/>
<text x="${GAP}" y="26" font-size="15" font-weight="bold" fill="#1c2430">${escaped(title)}</text>
${panels.join('\n')}
</svg>
`;
}

function panel(series: Series): string {
  const { name, unit, points } = series;
  const { growth, flat, line, median: middle } = trendOf(series);
  const end = points.at(-1)?.seconds || 1;
  const top = niceAbove(Math.max(...points.map(({ value }) => value), 1));
  const x = (seconds: number) => (LEFT + (seconds / end) * (WIDTH - LEFT)).toFixed(1);
  const y = (value: number) => (TOP + HEIGHT - (value / top) * HEIGHT).toFixed(1);
  const path = (some: readonly { seconds: number; value: number }[]) =>
    some.map(({ seconds, value }, at) => `${at === 0 ? 'M' : 'L'}${x(seconds)} ${y(value)}`).join(' ');
  const ticks = [0, top / 2, top].map(
    (value) =>
      `<path d="M${LEFT} ${y(value)}H${WIDTH}" stroke="#e3e7ec"/><text x="${LEFT - 6}" y="${Number(y(value)) + 4}" text-anchor="end" fill="#5b6675">${round(value)}</text>`,
  );
  const minutes = [0, end / 2, end].map(
    (seconds) =>
      `<text x="${x(seconds)}" y="${TOP + HEIGHT + 15}" text-anchor="${seconds === end ? 'end' : 'middle'}" fill="#5b6675">${round(seconds / 60)} min</text>`,
  );
  const sign = growth >= 0 ? '+' : '−';
  const verdict = `median ${round(middle)} ${unit}, trend ${sign}${round(Math.abs(growth))}${flat ? '' : ': GROWS'}`;
  return `<text x="0" y="14" font-weight="bold" fill="#1c2430">${escaped(name)}</text>
<text x="${WIDTH}" y="14" text-anchor="end" fill="${flat ? '#5b6675' : '#b3261e'}">${escaped(verdict)}</text>
${[...ticks, ...minutes].join('\n')}
<path d="${path(points)}" fill="none" stroke="#2f6fb0" stroke-width="1.2"/>
<path d="${path(line)}" fill="none" stroke="${flat ? '#1b8a5a' : '#b3261e'}" stroke-width="2" stroke-dasharray="6 4"/>`;
}

/** 1, 2, 2.5 or 5 times a power of ten, at or above the value. */
function niceAbove(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 2.5, 5, 10].find((step) => step * power >= value) ?? 10) * power;
}

const round = (value: number) => (value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1));
const escaped = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
