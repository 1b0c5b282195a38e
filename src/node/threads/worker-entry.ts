import { BUNDLED } from '../../version.ts';

/** Entry files of worker threads, each of which a release bundles (scripts/release/build.ts): src/workers/NAME.ts. */
export const WORKERS = ['net', 'shim', 'image', 'registry', 'store', 'stdio', 'digest'] as const;
export type WorkerName = (typeof WORKERS)[number];

/** The entry file of a worker thread. A release has it beside the file that this function is bundled into. */
export function workerEntry(name: WorkerName): URL {
  const file = BUNDLED ? `./worker-${name}.js` : `../../workers/${name}.ts`;
  return new URL(file, import.meta.url);
}
