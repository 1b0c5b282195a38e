/**
 * The page that `npm run demo -- --report FILE.html` writes: figures, stages and charts in one file that needs nothing
 * else.
 */
import { duration } from '../src/node/observe/gantt.ts';
import { ganttSvg } from '../src/node/observe/gantt-svg.ts';
import type { JobRecord, JobShape } from '../src/node/observe/job-record.ts';
import { latencies } from '../test/bench/statistics.ts';

export interface Report {
  version: string;
  /** Of the machine: cores, kernel. */
  machine: string;
  pods: number;
  parallel: number;
  launchSeconds: number;
  removeSeconds: number;
  launches: readonly JobRecord[];
  shapes: readonly JobShape[];
  /** What was not as it should be. */
  wrong: readonly string[];
}

const html = (text: string) =>
  text.replace(/[&<>"]/g, (char) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[char] ?? char);

export function reportPage(report: Report): string {
  const { version, machine, pods, parallel, launchSeconds, removeSeconds, launches, shapes, wrong } = report;
  const ended = launches.filter((one) => one.ended !== undefined).toSorted((a, b) => (a.ended ?? 0) - (b.ended ?? 0));
  const shape = shapes.find(({ name }) => name === 'RunPodSandbox');
  const took = latencies(ended.map((one) => one.ended ?? 0));
  const at = (share: number) => ended[Math.min(ended.length - 1, Math.floor(share * ended.length))];
  const charts = [
    ['The quickest launch', ended[0]],
    ['The launch in the middle', at(0.5)],
    ['The slowest launch', ended.at(-1)],
  ] as const;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sluice: ${pods} pods</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 24px auto; padding: 0 16px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } td, th { padding: 3px 14px 3px 0; text-align: right; }
th { font-weight: normal; opacity: .7; } td:first-child, th:first-child { text-align: left; }
svg { max-width: 100%; height: auto; } .bad { color: #c0392b; } .bar { fill: #5b8dd9; } .axis { fill: currentColor; font-size: 11px; }
</style></head><body>
<h1>${pods} pods, ${parallel} at once</h1>
<p>Sluice ${html(version)} on ${html(machine)}, ${new Date().toISOString()}.</p>
<p>Launched in ${launchSeconds.toFixed(1)} s (${(pods / launchSeconds).toFixed(1)} pods a second), RunPodSandbox p50 ${duration(took.p50)}, p99 ${duration(took.p99)}; removed in ${removeSeconds.toFixed(1)} s.</p>
${wrong.length === 0 ? '<p>Each pod was looked at from outside; afterwards nothing was left.</p>' : `<ul class="bad">${wrong.map((line) => `<li>${html(line)}</li>`).join('')}</ul>`}
<h2>How long launches took</h2>
${histogram(ended.map((one) => one.ended ?? 0))}
<h2>Stages</h2>
${stageTable(ended)}
${charts.map(([title, record]) => (record ? `<h2>${title}</h2>\n${ganttSvg(record, shape, record.at + (record.ended ?? 0))}` : '')).join('\n')}
</body></html>
`;
}

/** Launches by time taken, in twenty steps. */
function histogram(values: readonly number[]): string {
  const steps = 20;
  const most = Math.max(...values, 1);
  const counts = Array.from({ length: steps }, () => 0);
  for (const value of values) {
    const step = Math.min(steps - 1, Math.floor((value / most) * steps));
    counts[step] = (counts[step] ?? 0) + 1;
  }
  const highest = Math.max(...counts, 1);
  const bars = counts.map((count, step) => {
    const height = (count / highest) * 120;
    const title = `${count} from ${duration((most / steps) * step)} to ${duration((most / steps) * (step + 1))}`;
    return `<rect class="bar" x="${step * 40 + 2}" y="${130 - height}" width="36" height="${height}"><title>${title}</title></rect>`;
  });
  return `<svg viewBox="0 0 800 150" width="800" role="img" aria-label="Launches by time taken">${bars.join('')}<text class="axis" x="0" y="147">0</text><text class="axis" x="800" y="147" text-anchor="end">${duration(most)}</text></svg>`;
}

function stageTable(launches: readonly JobRecord[]): string {
  const byStage = new Map<string, { waits: number[]; work: number[] }>();
  for (const { stages } of launches) {
    for (const { stage, ready, started, ended } of stages) {
      if (started === undefined || ended === undefined) continue;
      const row = byStage.get(stage) ?? { waits: [], work: [] };
      row.waits.push(started - ready);
      row.work.push(ended - started);
      byStage.set(stage, row);
    }
  }
  const rows = [...byStage].map(([stage, { waits, work }]) => {
    const [wait, done] = [latencies(waits), latencies(work)];
    return `<tr><td>${stage}</td><td>${duration(wait.p50)}</td><td>${duration(wait.p99)}</td><td>${duration(done.p50)}</td><td>${duration(done.p99)}</td></tr>`;
  });
  return `<table><tr><th>stage</th><th>wait p50</th><th>wait p99</th><th>work p50</th><th>work p99</th></tr>${rows.join('')}</table>`;
}
