import { BOARDS } from './boards/all.ts';

/** The text of each dashboard's file, by its name below grafana/dashboards. `npm run docs` writes them. */
export function dashboardFiles(): Map<string, string> {
  return new Map(BOARDS.map(({ name, json }) => [`${name}.json`, `${JSON.stringify(json, null, 2)}\n`]));
}
