/**
 * Writes what is generated from the tables in the code: grafana/dashboards/*.json, and the tables in docs/metrics.md and
 * docs/stages.md. Run it after a change of metrics, stages, jobs or dashboards: `node grafana/generate.ts`. All of it is committed;
 * tests fail when it differs.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { BOARDS } from './boards/all.ts';
import { PAGES, renewPage } from './pages.ts';

/** The text of each dashboard's file, by its name. */
export function dashboardFiles(): Map<string, string> {
  return new Map(BOARDS.map(({ name, json }) => [`${name}.json`, `${JSON.stringify(json, null, 2)}\n`]));
}

if (import.meta.main) {
  const folder = new URL('./dashboards/', import.meta.url);
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of dashboardFiles()) writeFileSync(new URL(name, folder), text);
  for (const name of PAGES) {
    const file = new URL(`../docs/${name}`, import.meta.url);
    writeFileSync(file, renewPage(name, readFileSync(file, 'utf8')));
  }
}
