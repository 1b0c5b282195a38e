/** Writes grafana/dashboards/*.json: `node grafana/generate.ts`. The JSON is committed; test/unit/grafana.test.ts fails when it differs. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { BOARDS } from './boards/all.ts';

/** The text of each file, by its name. */
export function dashboardFiles(): Map<string, string> {
  return new Map(BOARDS.map(({ name, json }) => [`${name}.json`, `${JSON.stringify(json, null, 2)}\n`]));
}

if (import.meta.main) {
  const folder = new URL('./dashboards/', import.meta.url);
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of dashboardFiles()) writeFileSync(new URL(name, folder), text);
}
