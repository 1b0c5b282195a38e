import { type Bar, bars, duration, printable } from '../../node/observe/gantt.ts';
import type { JobRecord, JobShape } from '../../node/observe/job-record.ts';

interface TextOptions {
  /** Columns of the terminal. */
  width: number;
  color: boolean;
  /** Milliseconds since the epoch, for jobs that still run. */
  now: number;
}

const COLORS = { grey: 90, red: 31, yellow: 33, bold: 1 };

/** Returns a function that wraps text in ANSI colour sequences, or one that does not when `color` is false. */
export function painter(color: boolean): (text: string, ...how: (keyof typeof COLORS)[]) => string {
  return (text, ...how) =>
    color && how.length > 0 ? `\x1b[${how.map((one) => COLORS[one]).join(';')}m${text}\x1b[0m` : text;
}

/** Draws one job as text: `░` waiting for the limit, `█` work, `▒` undo, `*` stages of the critical path. */
export function ganttText(record: JobRecord, shape: JobShape | undefined, options: TextOptions): string {
  const paint = painter(options.color);
  const rows = bars(record, shape, options.now);
  const total = Math.max(record.ended ?? options.now - record.at, 0.01);
  const left = Math.max(...rows.map(({ name }) => name.length)) + 2;
  const right = 30;
  const space = Math.max(20, options.width - left - right - 1);
  const scale = (ms: number) => Math.round((Math.min(ms, total) / total) * space);

  const line = (bar: Bar): string => {
    const ready = scale(bar.ready);
    const from = Math.max(scale(bar.from), ready);
    const to = bar.kind === 'admit' ? from : Math.max(scale(bar.to), from + 1);
    const work = (bar.kind === 'undo' ? '▒' : '█').repeat(Math.max(0, Math.min(to, space) - Math.min(from, space - 1)));
    const chart =
      ' '.repeat(Math.min(ready, space)) +
      paint('░'.repeat(from - ready), 'yellow') +
      (bar.error === undefined ? work : paint(work, 'red'));
    const drawn = Math.min(ready, space) + (from - ready) + work.length;
    const waited = bar.from - bar.ready;
    const notes = [
      bar.kind === 'admit' ? '' : duration(bar.to - bar.from),
      waited >= 0.05 ? `+${duration(waited)} queue` : '',
      bar.running ? '…' : '',
    ];
    const name = `${bar.critical ? '*' : ' '}${bar.name.padEnd(left - 1)}`;
    return `${bar.critical ? paint(name, 'bold') : name}${chart}${' '.repeat(Math.max(0, space - drawn) + 1)}${notes.filter((note) => note !== '').join(' ')}`.trimEnd();
  };

  const lines = [
    heading(record, paint),
    `${' '.repeat(left)}${axis(total, space)}`,
    ...rows.map(line),
    ...waits(rows, left),
    ...rows
      .filter(({ error }) => error !== undefined)
      .map(({ name, error }) => paint(`${name}: ${printable(error ?? '')}`, 'red')),
  ];
  if (record.error !== undefined && record.stages.every(({ error }) => error === undefined)) {
    lines.push(paint(`${record.code}: ${printable(record.error)}`, 'red'));
  }
  return `${lines.join('\n')}\n`;
}

function heading(record: JobRecord, paint: ReturnType<typeof painter>): string {
  const what = printable(record.pod ?? record.image ?? '');
  const outcome = record.outcome ?? (record.started === undefined ? 'queued' : 'running');
  const parts = [
    paint(`${record.job} ${what}`, 'bold'),
    outcome === 'error' ? paint(`error ${record.code ?? ''}`, 'red') : outcome,
    record.ended === undefined ? '' : duration(record.ended),
    `at ${new Date(record.at).toISOString()}`,
    `request ${record.id}`,
    record.sandbox === undefined ? '' : `sandbox ${record.sandbox.slice(0, 13)}`,
    record.container === undefined ? '' : `container ${record.container.slice(0, 13)}`,
    record.joined > 0 ? `joined by ${record.joined}` : '',
    record.traceId === undefined ? '' : `trace ${record.traceId}`,
  ];
  return parts.filter((part) => part !== '').join('  ');
}

/** The time axis, `0         20 ms     40 ms …`: each label starts at the column of its time. */
function axis(total: number, space: number): string {
  const step =
    [1, 2, 5]
      .flatMap((digit) => [-1, 0, 1, 2, 3, 4, 5].map((power) => digit * 10 ** power))
      .sort((a, b) => a - b)
      .find((one) => (one / total) * space >= 12) ?? total;
  let text = '';
  for (let ms = 0; ms <= total; ms += step) {
    const at = Math.round((ms / total) * space);
    const label = ms === 0 ? '0' : step >= 1000 ? `${ms / 1000} s` : `${Number(ms.toFixed(1))} ms`;
    if (at + label.length <= space) text = `${text.padEnd(at)}${label}`;
  }
  return text;
}

/** The critical path as text; empty when it has fewer than two stages. */
function waits(rows: Bar[], left: number): string[] {
  const chain = rows.filter(({ critical, kind }) => critical && kind === 'stage').map(({ name }) => name);
  return chain.length < 2 ? [] : [`${' '.repeat(left)}longest chain: ${chain.join(' → ')}`];
}
