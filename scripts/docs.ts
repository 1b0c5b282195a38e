/**
 * Writes everything that is generated from tables in the code: the tables of the pages below docs/, and the dashboards.
 *
 *   npm run docs   after a change of an error, a configuration key, a stage, a job, a metric, an alert or a dashboard
 *
 * All of it is committed; test/unit/docs.test.ts fails where it is not what this script makes.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { dashboardFiles } from '../grafana/generate.ts';
import { PAGES, renewPage } from './doc-tables.ts';

const at = (path: string) => new URL(`../${path}`, import.meta.url);

/** The text of each generated file, by its path from the root of the repository. */
export function generatedFiles(): Map<string, string> {
  const files = new Map<string, string>();
  for (const path of PAGES) files.set(path, renewPage(path, readFileSync(at(path), 'utf8')));
  for (const [name, text] of dashboardFiles()) files.set(`grafana/dashboards/${name}`, text);
  return files;
}

if (import.meta.main) {
  for (const [path, text] of generatedFiles()) {
    if (readFileSync(at(path), { encoding: 'utf8', flag: 'a+' }) === text) continue;
    writeFileSync(at(path), text);
    console.log(`written: ${path}`);
  }
}
