/** Line charts as SVG, small multiples of one size: what the soak and the benchmarks measured. */

export interface Point {
  x: number;
  y: number;
}

export interface Line {
  /** Named in the panel's legend. */
  label?: string;
  colour: string;
  points: readonly Point[];
  dashed?: boolean;
  /** A dot at each point: where each was measured by itself. */
  dots?: boolean;
}

export interface Panel {
  name: string;
  /** Beside the name, at the right; red when `alarm`. */
  note?: string;
  alarm?: boolean;
  /** The x axis goes from 0 to the last tick, or, with `logarithmic`, from the first one. */
  ticks: readonly { x: number; label: string }[];
  logarithmic?: boolean;
  lines: readonly Line[];
}

/** Told apart by people with the common kinds of colour blindness, too. */
export const COLOURS = ['#2f6fb0', '#c9641a', '#1b8a5a', '#8a4fa3'] as const;

const INK = '#1c2430';
const PALE = '#5b6675';
const ALARM = '#b3261e';

const WIDTH = 460;
const HEIGHT = 150;
const LEFT = 52;
const TOP = 34;
const GAP = 26;
const COLUMNS = 2;

export function drawChart(title: string, panels: readonly Panel[]): string {
  const rows = Math.ceil(panels.length / COLUMNS);
  const width = COLUMNS * (WIDTH + GAP) + GAP;
  const height = rows * (HEIGHT + TOP + GAP) + 56;
  const groups = panels.map((panel, at) => {
    const x = GAP + (at % COLUMNS) * (WIDTH + GAP);
    const y = 44 + Math.floor(at / COLUMNS) * (HEIGHT + TOP + GAP);
    return `<g transform="translate(${x} ${y})">${drawPanel(panel)}</g>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">
<title>${escaped(title)}</title>
<rect width="${width}" height="${height}" fill="#ffffff"/>
<text x="${GAP}" y="26" font-size="15" font-weight="bold" fill="${INK}">${escaped(title)}</text>
${groups.join('\n')}
</svg>
`;
}

function drawPanel({ name, note = '', alarm = false, ticks, logarithmic = false, lines }: Panel): string {
  const top = niceAbove(Math.max(...lines.flatMap(({ points }) => points.map(({ y }) => y)), 1));
  const x = horizontal(ticks, logarithmic);
  const y = (value: number) => (TOP + HEIGHT - (value / top) * HEIGHT).toFixed(1);
  const levels = [0, top / 2, top].map(
    (value) =>
      `<path d="M${LEFT} ${y(value)}H${WIDTH}" stroke="#e3e7ec"/><text x="${LEFT - 6}" y="${Number(y(value)) + 4}" text-anchor="end" fill="${PALE}">${round(value)}</text>`,
  );
  const last = ticks.length - 1;
  const marks = ticks.map(
    (tick, at) =>
      `<text x="${x(tick.x)}" y="${TOP + HEIGHT + 15}" text-anchor="${at === last ? 'end' : 'middle'}" fill="${PALE}">${escaped(tick.label)}</text>`,
  );
  const drawn = lines.map(({ points, colour, dashed, dots }) => {
    const path = points.map((point, at) => `${at === 0 ? 'M' : 'L'}${x(point.x)} ${y(point.y)}`).join(' ');
    const stroke = dashed ? 'stroke-width="2" stroke-dasharray="6 4"' : 'stroke-width="1.2"';
    const circles = dots
      ? points.map((point) => `<circle cx="${x(point.x)}" cy="${y(point.y)}" r="3" fill="${colour}"/>`)
      : [];
    return `<path d="${path}" fill="none" stroke="${colour}" ${stroke}/>${circles.join('')}`;
  });
  const legend = lines
    .filter(({ label }) => label !== undefined)
    .map(({ label = '', colour }, at) => {
      const left = LEFT + at * 130;
      return `<path d="M${left} 26h16" stroke="${colour}" stroke-width="3"/><text x="${left + 21}" y="30" fill="${PALE}">${escaped(label)}</text>`;
    });
  return `<text x="0" y="14" font-weight="bold" fill="${INK}">${escaped(name)}</text>
<text x="${WIDTH}" y="14" text-anchor="end" fill="${alarm ? ALARM : PALE}">${escaped(note)}</text>
${[...legend, ...levels, ...marks, ...drawn].join('\n')}`;
}

function horizontal(ticks: Panel['ticks'], logarithmic: boolean): (value: number) => string {
  const scale = logarithmic ? Math.log2 : (value: number) => value;
  const low = logarithmic ? scale(ticks[0]?.x || 1) : 0;
  const span = scale(ticks.at(-1)?.x || 1) - low || 1;
  return (value) => (LEFT + ((scale(value) - low) / span) * (WIDTH - LEFT)).toFixed(1);
}

/** 1, 2, 2.5 or 5 times a power of ten, at or above the value. */
function niceAbove(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 2.5, 5, 10].find((step) => step * power >= value) ?? 10) * power;
}

export const round = (value: number) => (value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1));
const escaped = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
