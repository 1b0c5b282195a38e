import { type Bar, bars, duration } from './gantt.ts';
import type { JobRecord, JobShape } from './job-record.ts';

const ROW = 24;
const LEFT = 150;
const CHART = 760;
const RIGHT = 190;
const TOP = 64;

/**
 * Draws one job as SVG: dark bars for work, pale bars for waiting, thin lines from a stage to those that waited for it.
 * `now` is in milliseconds since the epoch.
 */
export function ganttSvg(record: JobRecord, shape: JobShape | undefined, now: number): string {
  const rows = bars(record, shape, now);
  const total = Math.max(record.ended ?? now - record.at, 0.01);
  const x = (ms: number) => Math.round((LEFT + (Math.min(ms, total) / total) * CHART) * 100) / 100;
  const y = (row: number) => TOP + row * ROW;
  const height = y(rows.length) + 36;
  const at = new Map(rows.map(({ name }, row) => [name, row]));
  const parts: string[] = [];
  for (let tick = 0; tick <= 10; tick++) {
    const ms = (total * tick) / 10;
    parts.push(`<line class="grid" x1="${x(ms)}" y1="${TOP - 6}" x2="${x(ms)}" y2="${y(rows.length)}"/>`);
    if (tick % 2 === 0) parts.push(`<text class="axis" x="${x(ms)}" y="${TOP - 12}">${duration(ms)}</text>`);
  }
  for (const [row, bar] of rows.entries()) {
    parts.push(...drawBar(bar, x, y(row)));
    const from = bar.after === undefined ? undefined : at.get(bar.after);
    const before = from === undefined ? undefined : rows[from];
    if (from !== undefined && before) {
      const path = `M${x(before.to)} ${y(from) + ROW / 2} V${y(row) + ROW / 2} H${x(bar.ready)}`;
      parts.push(`<path class="${bar.critical && before.critical ? 'need critical' : 'need'}" d="${path}"/>`);
    }
  }
  const what = record.pod ?? record.image ?? '';
  const outcome =
    record.outcome === 'error' ? `failed: ${(record.error ?? '').slice(0, 120)}` : (record.outcome ?? 'running');
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${LEFT + CHART + RIGHT}" height="${height}" viewBox="0 0 ${LEFT + CHART + RIGHT} ${height}" role="img">
<title>${xml(`${record.job} ${what}`)}</title>
<style>
  svg { background: #fff; font: 12px sans-serif; }
  .head { font-size: 15px; font-weight: bold; } .sub, .axis, .note { fill: #666; font-size: 11px; } .axis { text-anchor: middle; }
  .grid { stroke: #eee; } .wait { fill: #f3c969; } .work { fill: #5b8dd9; } .critical.work { fill: #1f4e9c; } .undo { fill: #b9a3d4; }
  .failed { fill: #cc3d3d; } .name { text-anchor: end; } .critical.name { font-weight: bold; }
  .need { fill: none; stroke: #aaa; } .critical.need { stroke: #1f4e9c; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    svg { background: #1d2129; } text { fill: #e6e8ec; } .sub, .axis, .note { fill: #9aa3b2; } .grid { stroke: #2f3541; }
    .work { fill: #4b76b8; } .critical.work { fill: #8ab4ff; } .critical.need { stroke: #8ab4ff; }
  }
</style>
<text class="head" x="12" y="22">${xml(`${record.job} ${what}`)} · ${duration(total)}</text>
<text class="sub" x="12" y="38">${xml(`${outcome} · ${new Date(record.at).toISOString()} · request ${record.id}`)}</text>
${parts.join('\n')}
<text class="sub" x="12" y="${height - 12}">pale: waiting for the limit of the stage; dark: the longest chain of stages; lines: from a stage to those that waited for it</text>
</svg>
`;
}

function drawBar(bar: Bar, x: (ms: number) => number, top: number): string[] {
  const { name, kind, ready, from, to, error, critical } = bar;
  const width = (a: number, b: number) => Math.max(1, Math.round((x(b) - x(a)) * 100) / 100);
  const style = error !== undefined ? 'failed' : kind === 'undo' ? 'undo' : `${critical ? 'critical ' : ''}work`;
  const parts = [
    `<text class="${critical ? 'critical ' : ''}name" x="${LEFT - 10}" y="${top + 16}">${xml(name)}</text>`,
  ];
  if (from - ready > 0) {
    parts.push(
      `<rect class="wait" x="${x(ready)}" y="${top + 5}" width="${width(ready, from)}" height="${ROW - 10}"/>`,
    );
  }
  if (kind !== 'admit') {
    const title = `${name}: ${duration(to - from)}${error === undefined ? '' : `, ${error}`}`;
    parts.push(
      `<rect class="${style}" x="${x(from)}" y="${top + 4}" width="${width(from, to)}" height="${ROW - 8}"><title>${xml(title)}</title></rect>`,
    );
  }
  const waited = from - ready >= 0.05 ? ` + ${duration(from - ready)} queue` : '';
  const note = kind === 'admit' ? waited.slice(3) : `${duration(to - from)}${waited}`;
  parts.push(`<text class="note" x="${LEFT + CHART + 8}" y="${top + 16}">${note}</text>`);
  return parts;
}

function xml(text: string): string {
  const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
  // XML 1.0 does not allow these control characters, not even as references.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it replaces
  return text.replace(/[&<>"]/g, (char) => entities[char] ?? char).replace(/[\x00-\x08\x0b\x0c\x0e-\x1f]/g, '?');
}
