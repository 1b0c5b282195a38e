import { stat } from 'node:fs/promises';
import { flushCompileCache } from 'node:module';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { explain } from '../errors.ts';
import { loadConfig } from '../node/config/load.ts';
import { createLog, type Log } from '../node/observe/log.ts';
import { limitHeapsOfThreads } from '../node/threads/heaps.ts';
import { raiseMainPriority } from '../sys/nice.ts';
import { VERSION } from '../version.ts';
import { compileWorkers } from './compile-workers.ts';
import { Daemon } from './daemon.ts';
import { setUmask } from './folders.ts';
import { Phases } from './phases.ts';
import { ServiceManager } from './service-manager.ts';
import { handleSignals } from './signals.ts';

/** Seconds that running jobs get to finish after SIGTERM. */
const SHUTDOWN_SECONDS = 90;

/** The daemon in the foreground: `sluiced [--config FILE]`. SIGTERM or SIGINT end it with status 0, pods stay up. */
async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { config: { type: 'string' }, version: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help) {
    console.log('usage: sluiced [--config FILE]   (default /etc/sluice/config.toml, or built-in defaults)');
    return;
  }
  if (values.version) {
    console.log(`sluiced ${VERSION}`);
    return;
  }
  const file = values.config === undefined ? undefined : resolve(values.config);
  // The folder that it was started in may be removed, or be on a disk that is to be unmounted.
  process.chdir('/');
  const phases = new Phases();
  phases.end('load');
  setUmask();
  limitHeapsOfThreads();
  const config = loadConfig(file);
  const log = createLog(config.log);
  // Every promise has its own handler; one that was forgotten must not end the pods' management.
  process.on('unhandledRejection', (err) => {
    log.error({ err }, 'a promise was rejected and nothing handled it: please report this');
  });
  let daemon: Daemon | undefined;
  const manager = new ServiceManager(process.env, {
    onError: (err) => log.warn({ err }, 'the service manager could not be notified'),
  });
  let reloading = Promise.resolve();
  const reload = (running: Daemon) => {
    // One after the other.
    reloading = reloading.then(() => manager.reload(() => reloadConfig(running, log, file)));
  };
  handleSignals(log, { daemon: () => daemon, reload });
  manager.status('starting');
  // libuv's pool threads inherit the namespace of the thread that first needs them: let it be main, before any worker.
  await Promise.all(Array.from({ length: 4 }, () => stat('/')));

  const uncompiled = await compileWorkers();
  if (uncompiled)
    log.warn({ reason: uncompiled }, 'worker threads compile for themselves: more memory, a slower start');
  const refused = raiseMainPriority();
  if (refused)
    log.warn({ reason: refused }, 'the main thread keeps its priority: answers will be late while pods are launched');

  phases.end('process');
  manager.status('finding earlier pods again');
  const started = await Daemon.start(config, { log, phases, listener: manager.listener });
  daemon = started;
  manager.ready(() => started.summary);
  flushCompileCache(); // now, since a daemon seldom ends in a way that lets it be written then
  let ending = false;
  const end = async (signal: string) => {
    if (ending) return;
    ending = true;
    log.info({ signal }, 'ending: no new jobs, running ones finish, pods stay up');
    manager.stopping();
    const timer = setTimeout(() => {
      log.error('running jobs did not finish in time');
      process.exit(1);
    }, SHUTDOWN_SECONDS * 1000);
    try {
      daemon = undefined;
      await started.close();
      log.info('ended');
    } catch (err) {
      log.error({ err }, 'ending failed half-way; the next start finds the pods again');
    }
    clearTimeout(timer);
    log.flush();
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => void end(signal));
}

/** Reads the configuration again and applies what a running daemon can take over. Never rejects. */
async function reloadConfig(daemon: Daemon, log: Log, path: string | undefined): Promise<void> {
  try {
    const { applied, needRestart } = await daemon.reload(path);
    log.info({ applied }, 'configuration reloaded');
    if (needRestart.length > 0) log.warn({ keys: needRestart }, 'these keys have changed and need a restart');
  } catch (err) {
    log.error({ err }, 'the configuration was not reloaded: everything is as it was');
  }
}

// A release is CommonJS, which cannot wait at this place.
main().catch((error: unknown) => {
  console.error(`sluiced: ${explain(error)}`);
  process.exit(1);
});
