import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { privateFolder, ROOT } from '../rig/paths.ts';
import {
  alertQueries,
  boardQueries,
  scraped,
  startPrometheus,
  unanswered,
  variableQueries,
} from './observe-prometheus.ts';

function promtool(args: string[], input?: string) {
  return spawnSync('promtool', args, { cwd: join(ROOT, 'grafana/alerts'), encoding: 'utf8', input });
}

test('the alerts are valid, and fire and stay quiet as their unit tests say', () => {
  const checked = promtool(['check', 'rules', 'sluice.yaml']);
  assert.equal(checked.status, 0, checked.stdout + checked.stderr);
  const tested = promtool(['test', 'rules', 'sluice.test.yaml']);
  assert.equal(tested.status, 0, tested.stdout + tested.stderr);
});

test('target-promql-rule: every query of every dashboard is valid PromQL', async () => {
  const folder = privateFolder('sluice-promql');
  try {
    const rules = boardQueries().map(({ expr }, at) => ({ record: `query:${at}`, expr }));
    writeFileSync(join(folder, 'rules.yml'), JSON.stringify({ groups: [{ name: 'boards', rules }] }));
    const { status, stdout, stderr } = promtool(['check', 'rules', join(folder, 'rules.yml')]);
    assert.equal(status, 0, stdout + stderr);
    assert.match(stdout, new RegExp(`${rules.length} rules found`));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test('a Prometheus that scrapes the exporter: clean metrics, both formats, exemplars, and data for every query', async () => {
  const exporter = spawn(process.execPath, [join(ROOT, 'test/integration/observe-exporter.ts')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    const [first] = (await once(exporter.stdout, 'data')) as [Buffer];
    const target = `127.0.0.1:${Number(first.toString())}`;
    const own = await (await fetch(`http://${target}/metrics`)).text();
    // containerd's own names break the rules on purpose, and are off by default.
    const ours = own
      .split(/^(?=# HELP )/m)
      .filter((family) => !/^# HELP (containerd_|grpc_)/.test(family))
      .join('');
    const { status, stdout, stderr } = promtool(['check', 'metrics'], ours);
    assert.equal(stdout + stderr, '');
    assert.equal(status, 0);

    await using prometheus = await startPrometheus([target]);
    await scraped(prometheus, 4);
    const queries = boardQueries();
    assert.ok(queries.length > 100);
    assert.deepEqual(await unanswered(prometheus, [...queries, ...alertQueries()]), []);
    for (const { name, series, label } of variableQueries()) {
      const values = (await prometheus.get(
        `/api/v1/label/${label}/values?match[]=${encodeURIComponent(series)}`,
      )) as string[];
      assert.ok(values.length > 0, `${name}: no values of ${label}`);
    }
    // The scrape asked for OpenMetrics, so the trace ids arrived.
    const exemplars = (await prometheus.get(
      `/api/v1/query_exemplars?query=${encodeURIComponent('sluice_stage_duration_seconds_bucket')}&start=${Date.now() / 1000 - 60}&end=${Date.now() / 1000}`,
    )) as { exemplars: { labels: { trace_id: string } }[] }[];
    assert.match(exemplars[0]?.exemplars[0]?.labels.trace_id ?? '', /^[\da-f]{32}$/);
    // Our label job gave way to Prometheus' own, which is what the dashboards count on.
    const [sample] = await prometheus.query('sluice_job_duration_seconds_count{exported_job="RunPodSandbox"}');
    assert.equal(sample?.metric.job, 'sluice');
    const { groups } = (await prometheus.get('/api/v1/rules')) as {
      groups: { rules: { health: string; name: string }[] }[];
    };
    for (const rule of groups.flatMap(({ rules }) => rules)) assert.equal(rule.health, 'ok', rule.name);
  } finally {
    exporter.kill();
  }
});
