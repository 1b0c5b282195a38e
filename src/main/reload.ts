/** SIGHUP: reads the configuration again and applies what a running daemon can take over. */
import type { Config, RuntimeConfig } from '../node/config/config.ts';
import { type Change, differences, needsRestart } from '../node/config/values.ts';
import type { Observability } from '../node/observe/observability.ts';
import { readAllFeatures } from '../node/oci/runtime-features.ts';
import type { Services } from './services.ts';

export interface Reloaded {
  /** Dotted keys. */
  applied: string[];
  /** Keys that differ now from what the daemon runs with, until it is started anew. */
  needRestart: string[];
}

/**
 * Makes `services.config`, which everyone reads, agree with `next` as far as that can be done while pods run. Throws
 * CONFIG_INVALID when an address cannot be listened on, with nothing changed.
 */
export async function reload(services: Services, { server, log }: Observability, next: Config): Promise<Reloaded> {
  const { config } = services;
  const changes = differences(config, next);
  const applied: Change[] = [];
  const kept: Change[] = [];
  const used = services.store.runtimesInUse();
  for (const change of changes) (needsRestart(change, used) ? kept : applied).push(change);

  if (applied.some(({ key }) => key.join('.') === 'metrics.listen')) await server.moveTo(next.metrics.listen);
  for (const change of applied) put(config, change);
  // A runtime that lost its last key is gone.
  for (const [name, runtime] of Object.entries(config.runtimes))
    if (Object.keys(runtime).length === 0) delete config.runtimes[name];

  const { max_running: launch, max_teardowns: teardown, max_queued: maxQueued, limits } = config.pipeline;
  services.engine.setLimits(limits);
  services.admission.setLimits({ maxRunning: { launch, teardown, image: launch }, maxQueued });
  services.images.layers.maxDownloads = config.images.max_downloads;
  log.setLevel(config.log.level);
  if (applied.some(({ key }) => key[0] === 'cni')) await services.network.reconfigure();
  if (applied.some(({ key }) => key[0] === 'runtimes'))
    replace(services.features, await readAllFeatures(config, services.host, log));
  return { applied: applied.map(({ key }) => key.join('.')), needRestart: kept.map(({ key }) => key.join('.')) };
}

function put(config: Config, { key, to }: Change): void {
  let table = config as unknown as Record<string, unknown>;
  for (const name of key.slice(0, -1)) {
    table[name] ??= {} satisfies Partial<RuntimeConfig>;
    table = table[name] as Record<string, unknown>;
  }
  const last = key.at(-1) ?? '';
  if (to === undefined) delete table[last];
  else table[last] = to;
}

function replace<T>(record: Record<string, T>, by: Record<string, T>): void {
  for (const name of Object.keys(record)) if (!Object.hasOwn(by, name)) delete record[name];
  Object.assign(record, by);
}
