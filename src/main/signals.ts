import { explain } from '../errors.ts';
import type { Log } from '../node/observe/log.ts';
import { SIGNALS, unblockSignal } from '../sys/signals.ts';

/** What a running daemon offers to its signals. */
interface Signalled {
  /** What the daemon does at the moment, as fields of a log line. */
  report(): Promise<Record<string, unknown>>;
}

/**
 * SIGUSR1 and SIGHUP, whose default actions would end the daemon. SIGHUP reloads the configuration. Installed before
 * the daemon starts; `daemon` returns undefined until then. SIGUSR2 is observability's.
 *
 * Node would open its inspector at SIGUSR1, on a port of 127.0.0.1 that every pod on the host's network reaches: the
 * launcher's
 * --disable-sigusr1 is what prevents that, and this handler is what operators expect of the signal in a daemon.
 */
export function handleSignals<D extends Signalled>(
  log: Log,
  { daemon, reload }: { daemon: () => D | undefined; reload: (daemon: D) => void },
): void {
  process.on('SIGUSR1', async () => {
    const running = daemon();
    if (!running) {
      log.warn({ signal: 'SIGUSR1' }, 'the daemon is starting or ending: nothing to report');
      return;
    }
    try {
      log.warn({ signal: 'SIGUSR1', ...(await running.report()) }, 'report of what the daemon does');
    } catch (error) {
      log.error({ signal: 'SIGUSR1', reason: explain(error) }, 'the report could not be made');
    }
    log.flush();
  });
  unblockSignal(SIGNALS.SIGUSR1); // Node blocks it early, and with --disable-sigusr1 leaves it so
  process.on('SIGHUP', () => {
    const running = daemon();
    if (running) reload(running);
    else log.warn({ signal: 'SIGHUP' }, 'the daemon is starting or ending: nothing to reload');
  });
}
