/** A Prometheus of the test's own, and the queries of our dashboards and alerts to ask it. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { privateFolder, ROOT } from '../rig/paths.ts';
import { freePort, GivenUp, start, waitFor } from '../rig/proc.ts';

export interface Sample {
  metric: Record<string, string>;
  value: [number, string];
}

export interface Prometheus extends AsyncDisposable {
  /** Instant query. Throws with Prometheus' words when it is invalid. */
  query(expr: string): Promise<Sample[]>;
  get(path: string): Promise<unknown>;
}

/** Starts Debian's prometheus on loopback, scraping `targets` once a second with our alert rules loaded. */
export async function startPrometheus(targets: string[]): Promise<Prometheus> {
  const folder = privateFolder('sluice-prometheus');
  const port = await freePort();
  const config = {
    global: { scrape_interval: '1s', evaluation_interval: '1s' },
    rule_files: [join(ROOT, 'grafana/alerts/sluice.yaml')],
    scrape_configs: [{ job_name: 'sluice', static_configs: [{ targets }] }],
  };
  mkdirSync(join(folder, 'data'));
  writeFileSync(join(folder, 'prometheus.yml'), JSON.stringify(config)); // JSON is YAML
  const args = [
    `--config.file=${join(folder, 'prometheus.yml')}`,
    `--storage.tsdb.path=${join(folder, 'data')}`,
    `--web.listen-address=127.0.0.1:${port}`,
    '--enable-feature=exemplar-storage',
    '--log.level=warn',
  ];
  const daemon = start('prometheus', args, join(folder, 'log'), process.env);
  const get = async (path: string): Promise<unknown> => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    const answer = (await response.json()) as { status: string; error?: string; data: unknown };
    if (answer.status !== 'success') throw new Error(answer.error ?? `prometheus answered ${response.status}`);
    return answer.data;
  };
  const stop = async () => {
    await daemon.stop();
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await waitFor('prometheus to be ready', 20_000, async () => {
      if (!daemon.running()) throw new GivenUp(daemon.log());
      const response = await fetch(`http://127.0.0.1:${port}/-/ready`);
      return response.ok || undefined;
    });
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    get,
    async query(expr) {
      return ((await get(`/api/v1/query?query=${encodeURIComponent(expr)}`)) as { result: Sample[] }).result;
    },
    [Symbol.asyncDispose]: stop,
  };
}

/** Waits until Prometheus has `count` good scrapes of every target. */
export async function scraped(prometheus: Prometheus, count: number): Promise<void> {
  await waitFor(`${count} scrapes`, 30_000, async () => {
    const [up] = await prometheus.query(`min(sum_over_time(up{job="sluice"}[5m]))`);
    return Number(up?.value[1] ?? 0) >= count || undefined;
  });
}

export interface BoardQuery {
  /** Dashboard and panel. */
  name: string;
  /** With Grafana's variables replaced, as for "All". */
  expr: string;
}

/** Every query of every dashboard. */
export function boardQueries(): BoardQuery[] {
  const folder = join(ROOT, 'grafana/dashboards');
  return readdirSync(folder).flatMap((file) => {
    const board: { uid: string; panels: { title: string; targets?: { expr: string }[] }[] } = JSON.parse(
      readFileSync(join(folder, file), 'utf8'),
    );
    return board.panels.flatMap(({ title, targets = [] }) =>
      targets.map(({ expr }) => ({ name: `${board.uid} / ${title}`, expr: filledIn(expr) })),
    );
  });
}

/** The variable queries of the dashboards: `label_values(series, label)`. */
export function variableQueries(): { name: string; series: string; label: string }[] {
  const folder = join(ROOT, 'grafana/dashboards');
  return readdirSync(folder).flatMap((file) => {
    const board: { uid: string; templating: { list: { name: string; type: string; query: string }[] } } = JSON.parse(
      readFileSync(join(folder, file), 'utf8'),
    );
    return board.templating.list
      .filter(({ type }) => type === 'query')
      .map(({ name, query }) => {
        const [, series = '', label = ''] = /^label_values\((.*), (\w+)\)$/.exec(query) ?? [];
        return { name: `${board.uid} / ${name}`, series: filledIn(series), label };
      });
  });
}

const filledIn = (expr: string) =>
  expr.replaceAll('$__rate_interval', '15s').replaceAll(/\$(job|instance|call|stage)/g, '.+');

/**
 * What each alert compares: its expression without the thresholds, one part for each side of `and`. Data there means
 * that it can fire.
 */
export function alertQueries(): BoardQuery[] {
  const text = readFileSync(join(ROOT, 'grafana/alerts/sluice.yaml'), 'utf8');
  const rules = [...text.matchAll(/- alert: (\w+)\n\s+expr: \|\n((?: {10}.*\n)+)/g)];
  return rules.flatMap(([, name = '', expr = '']) =>
    expr.split(/\band on \([a-z, ]+\)/).map((part) => ({
      name,
      expr: part.replace(/\s*(>=|>|==)\s*(\d+(\.\d+)?|sluice_stage_limit)\s*$/, '').replaceAll(/\[\d+[mh]\]/g, '[15s]'),
    })),
  );
}

/** The queries that answer nothing. Retried, because some data comes a moment later. */
export async function unanswered(prometheus: Prometheus, queries: BoardQuery[], tries = 5): Promise<string[]> {
  let open = queries;
  for (let i = 0; i < tries && open.length > 0; i++) {
    if (i > 0) await sleep(1000);
    const answered = await Promise.all(open.map(async ({ expr }) => (await prometheus.query(expr)).length > 0));
    open = open.filter((_, at) => !answered[at]);
  }
  return open.map(({ name, expr }) => `${name}: ${expr}`);
}
