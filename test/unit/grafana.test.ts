import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { METRICS, type MetricDefinition } from '../../src/node/observe/table.ts';

const HERE = new URL('../../', import.meta.url);
const read = (path: string) => readFileSync(new URL(path, HERE), 'utf8');

interface Target {
  expr: string;
  legendFormat: string;
  refId: string;
  datasource: { uid: string };
}

interface Panel {
  id: number;
  type: string;
  title: string;
  description?: string;
  datasource?: { type: string; uid: string };
  fieldConfig?: { defaults: { unit?: string } };
  targets?: Target[];
  gridPos: { x: number; y: number; w: number; h: number };
}

interface Variable {
  name: string;
  type: string;
  label: string;
  query: string;
  refresh?: number;
  multi: boolean;
  includeAll: boolean;
  allValue?: string;
  datasource?: { uid: string };
}

interface Dashboard {
  id?: number | null;
  uid: string;
  title: string;
  description: string;
  editable: boolean;
  schemaVersion: number;
  tags: string[];
  links: { type: string; tags: string[]; keepTime: boolean; includeVars: boolean }[];
  templating: { list: Variable[] };
  panels: Panel[];
}

const NAMES = readdirSync(new URL('grafana/dashboards/', HERE)).sort();
const BOARDS: Dashboard[] = NAMES.map((name) => JSON.parse(read(`grafana/dashboards/${name}`)));

/** Every panel that shows data, with a name for messages. */
const PANELS = BOARDS.flatMap((board) =>
  board.panels
    .filter(({ type }) => type !== 'row')
    .map((panel) => ({ board, panel, name: `${board.uid} / ${panel.title}` })),
);
const TARGETS = PANELS.flatMap(({ name, panel }) => (panel.targets ?? []).map((target) => ({ name, target })));

// The rules below are those of the public dashboard-linter (grafana/dashboard-linter, docs/index.md), by their names
// there.

test('template-datasource-rule: the data source is a variable', () => {
  for (const { uid, templating } of BOARDS) {
    const sources = templating.list.filter(({ type }) => type === 'datasource');
    assert.deepEqual(
      sources.map(({ name, label, query }) => ({ name, label, query })),
      [{ name: 'datasource', label: 'Data source', query: 'prometheus' }],
      uid,
    );
  }
});

test('template-job-rule, template-instance-rule: both are there, with many values and .+ for all', () => {
  for (const { uid, templating } of BOARDS) {
    for (const [name, label] of [
      ['job', 'Job'],
      ['instance', 'Instance'],
    ]) {
      const variable = templating.list.find((one) => one.name === name);
      assert.ok(variable, `${uid} lacks ${name}`);
      assert.equal(variable.type, 'query');
      assert.equal(variable.label, label);
      assert.equal(variable.datasource?.uid, '$datasource');
      assert.equal(variable.multi, true);
      assert.equal(variable.allValue, '.+');
    }
  }
});

test('template-label-promql-rule, template-on-time-change-reload-rule: variables come from label_values and follow the time range', () => {
  for (const { uid, templating } of BOARDS) {
    for (const variable of templating.list.filter(({ type }) => type === 'query')) {
      assert.match(variable.query, /^label_values\([a-z_]+(\{[^}]*\})?, [a-z_]+\)$/, `${uid} ${variable.name}`);
      assert.equal(variable.refresh, 2, `${uid} ${variable.name}`);
      assert.ok(knownMetric(/\(([a-z_]+)/.exec(variable.query)?.[1] ?? ''), variable.query);
    }
  }
});

test('panel-datasource-rule, panel-no-targets-rule: every panel asks the variable data source something', () => {
  assert.ok(PANELS.length > 60);
  for (const { name, panel } of PANELS) {
    assert.equal(panel.datasource?.uid, '$datasource', name);
    assert.ok((panel.targets?.length ?? 0) > 0, name);
    for (const target of panel.targets ?? []) assert.equal(target.datasource.uid, '$datasource', name);
    const ids = panel.targets?.map(({ refId }) => refId) ?? [];
    assert.equal(new Set(ids).size, ids.length, name);
  }
});

test('panel-title-description-rule, panel-units-rule: every panel says what it shows and in which unit', () => {
  const units = new Set(['s', 'ops', 'Bps', 'bytes', 'short', 'percentunit']);
  for (const { name, panel } of PANELS) {
    assert.match(panel.title, /^[A-Z]/, name);
    assert.match(panel.description ?? '', /^\S.*\.$/, `description of ${name}`);
    assert.ok(units.has(panel.fieldConfig?.defaults.unit ?? ''), `unit of ${name}`);
  }
});

test('target-job-rule, target-instance-rule: every selector has both matchers', () => {
  assert.ok(TARGETS.length > 80);
  for (const { name, target } of TARGETS) {
    const selectors = [...target.expr.matchAll(/\b((?:sluice|process)_[a-z_]+)(\{[^}]*\})?/g)];
    assert.ok(selectors.length > 0, `${name}: ${target.expr}`);
    for (const [, metric = '', matchers = ''] of selectors) {
      assert.ok(matchers.startsWith('{job=~"$job",instance=~"$instance"'), `${name}: ${metric}${matchers}`);
    }
  }
});

test('target-rate-interval-rule, target-counter-agg-rule: ranges are $__rate_interval, counters go through rate or increase', () => {
  for (const { name, target } of TARGETS) {
    for (const [, range] of target.expr.matchAll(/\[([^\]]*)\]/g)) assert.equal(range, '$__rate_interval', name);
    for (const { index } of target.expr.matchAll(/\b(sluice|process)_[a-z_]+_(total|bucket|count|sum)\{/g)) {
      const before = target.expr.slice(0, index);
      assert.match(before, /(rate|increase)\($/, `${name}: ${target.expr}`);
    }
  }
});

test('uneditable-dashboard-rule, and what file provisioning wants: fixed uid, no id, no inputs', () => {
  const uids = BOARDS.map(({ uid }) => uid);
  assert.equal(new Set(uids).size, uids.length);
  for (const [index, board] of BOARDS.entries()) {
    assert.equal(board.editable, false);
    assert.equal(board.id ?? null, null);
    assert.equal(`${board.uid}.json`, `sluice-${NAMES[index]}`);
    assert.ok(board.schemaVersion >= 36);
    assert.ok(!('__inputs' in board) && !('dashboard' in board));
    assert.deepEqual(board.tags, ['sluice']);
    assert.ok(board.description.length > 20);
    const [link] = board.links;
    assert.ok(link?.type === 'dashboards' && link.keepTime && link.includeVars && link.tags[0] === 'sluice');
  }
});

/** The scalars of a provisioning file by key, which are all different there; values as Grafana expands them. */
function provisioning(path: string, environment: Record<string, string>): Map<string, string> {
  const lines = read(`grafana/provisioning/${path}`).matchAll(/^ *(?:- )?([A-Za-z]+): (\S.*)$/gm);
  const values = [...lines].map(([, key = '', value = '']) => {
    const expanded = value.replace(/\$\{?([A-Z_]+)\}?/g, (_, name: string) => {
      assert.ok(name in environment, `${path} wants ${name}, which grafana/README.md does not know`);
      return environment[name] ?? '';
    });
    return [key, expanded] as const;
  });
  const fields = new Map(values);
  assert.equal(fields.size, values.length, `${path} has a key twice`);
  return fields;
}

const UID = /^[A-Za-z0-9_-]{1,40}$/;

test('provisioning shows the folder of dashboards, in a folder of its own, with SLUICE_GRAFANA as grafana/README.md says', () => {
  assert.deepEqual(readdirSync(new URL('grafana/provisioning/', HERE)).sort(), ['dashboards', 'datasources']);
  const provider = provisioning('dashboards/sluice.yaml', { SLUICE_GRAFANA: fileURLToPath(new URL('grafana', HERE)) });
  assert.equal(provider.get('apiVersion'), '1');
  assert.equal(provider.get('type'), 'file');
  const path = provider.get('path') ?? '';
  assert.ok(isAbsolute(path), path);
  // Grafana walks the whole tree, and takes each .json in it for a dashboard.
  assert.deepEqual(readdirSync(path, { recursive: true }).sort(), NAMES);
  // A folder and folders from the file structure exclude one another.
  assert.equal(provider.get('folder'), 'Sluice');
  assert.equal(provider.has('foldersFromFilesStructure'), false);
  // Up to Grafana 10, folders are dashboards as well, and share their uids.
  const uids = [provider.get('folderUid') ?? '', ...BOARDS.map(({ uid }) => uid)];
  for (const uid of uids) assert.match(uid, UID);
  assert.equal(new Set(uids).size, uids.length);
  const titles = [provider.get('folder') ?? '', ...BOARDS.map(({ title }) => title)];
  assert.equal(new Set(titles).size, titles.length);
});

test('the provisioned data source is one that the dashboards find, and takes nothing from others', () => {
  const source = provisioning('datasources/prometheus.yaml', { PROMETHEUS_URL: 'http://127.0.0.1:9090' });
  assert.equal(source.get('apiVersion'), '1');
  assert.equal(source.get('url'), 'http://127.0.0.1:9090');
  assert.match(source.get('uid') ?? '', UID);
  // Grafana overwrites a data source of the same name, and ends where two files have a default.
  assert.match(source.get('name') ?? '', /Sluice/);
  assert.equal(source.has('isDefault'), false);
  for (const { uid, templating, panels } of BOARDS) {
    const variable = templating.list.find(({ type }) => type === 'datasource');
    assert.equal(variable?.query, source.get('type'), uid);
    assert.equal(`$${variable?.name}`, '$datasource', uid);
    for (const { datasource } of panels) assert.equal(datasource?.type ?? source.get('type'), source.get('type'), uid);
  }
  // $__rate_interval is four times this: with a longer scrape interval the rates would have nothing to look at.
  const interval = source.get('timeInterval');
  for (const page of ['grafana/README.md', 'docs/operate/metrics.md']) {
    assert.equal(/scrape_interval: (\S+)/.exec(read(page))?.[1], interval, page);
  }
  assert.ok(read('grafana/README.md').includes(`/api/datasources/uid/${source.get('uid')}/health`));
});

test('panels lie on the grid without overlap, and their ids are unique', () => {
  for (const board of BOARDS) {
    const ids = board.panels.map(({ id }) => id);
    assert.equal(new Set(ids).size, ids.length);
    const taken = new Set<string>();
    for (const { gridPos, title } of board.panels) {
      assert.ok(gridPos.x + gridPos.w <= 24, title);
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          assert.ok(!taken.has(`${x},${y}`), `${board.uid} / ${title} overlaps`);
          taken.add(`${x},${y}`);
        }
      }
    }
  }
});

const FAMILIES = new Map<string, MetricDefinition>(Object.values(METRICS).map((one) => [one.name, one]));

function knownMetric(series: string): MetricDefinition | undefined {
  return FAMILIES.get(series) ?? FAMILIES.get(series.replace(/_(bucket|count|sum)$/, ''));
}

/** Labels that are not the metric's own. */
const FOREIGN = new Set(['job', 'instance', 'le']);

test('dashboards and alerts use metrics, labels and label values that exist', () => {
  const alerts = [...read('grafana/alerts/sluice.yaml').matchAll(/expr: \|\n((?: {10}.*\n)+)/g)].map(
    ([, expr = '']) => expr,
  );
  assert.ok(alerts.length >= 15);
  for (const expr of [...TARGETS.map(({ target }) => target.expr), ...alerts]) {
    for (const [, series = '', matchers = ''] of expr.matchAll(/\b((?:sluice|process)_[a-z_]+)(\{[^}]*\})?/g)) {
      const metric = knownMetric(series);
      assert.ok(metric, `no metric ${series}`);
      for (const [, name = '', operator, value = ''] of matchers.matchAll(/([a-z_]+)(=~|!=|!~|=)"([^"]*)"/g)) {
        if (FOREIGN.has(name) || value.startsWith('$')) continue;
        const own = name === 'exported_job' ? 'job' : name;
        assert.ok(own in metric.labels, `${series} has no label ${own}`);
        for (const one of operator?.includes('~') ? value.split('|') : [value]) {
          assert.ok(metric.labels[own]?.includes(one), `${series}: ${own} is never ${one}`);
        }
      }
    }
  }
});

test('every metric is shown in a dashboard', () => {
  const shown = TARGETS.map(({ target }) => target.expr).join('\n');
  for (const name of FAMILIES.keys()) assert.ok(shown.includes(name), `${name} is in no dashboard`);
});

test('every alert has a severity, texts, a runbook in docs/operate/alerts.md and a dashboard that exists', () => {
  const text = read('grafana/alerts/sluice.yaml');
  const runbooks = read('docs/operate/alerts.md');
  const tests = read('grafana/alerts/sluice.test.yaml');
  const rules = text.split(/^ {6}- alert: /m).slice(1);
  for (const rule of rules) {
    const name = rule.slice(0, rule.indexOf('\n'));
    assert.match(rule, /severity: (warning|critical)\n/, name);
    assert.match(rule, /summary: .+\$labels\.instance/, name);
    assert.match(rule, /description: .+\$labels\.instance/, name);
    assert.ok(rule.includes(`runbook_url: docs/operate/alerts.md#${name.toLowerCase()}\n`), name);
    assert.ok(runbooks.includes(`\n## ${name}\n`), `docs/operate/alerts.md lacks ${name}`);
    assert.ok(tests.includes(`alertname="${name}"`), `no test of ${name}`);
    const uid = /dashboard_uid: (\S+)/.exec(rule)?.[1];
    assert.ok(
      BOARDS.some((board) => board.uid === uid),
      `${name} names dashboard ${uid}`,
    );
  }
  assert.equal(runbooks.match(/^## /gm)?.length, rules.length, 'a runbook without an alert');
});
