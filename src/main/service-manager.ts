/**
 * The daemon's side of systemd's protocols: what it sends to the manager (sd_notify(3)), the watchdog that it feeds
 * (sd_watchdog_enabled(3)), and the listening socket that it is handed (sd_listen_fds(3)). Outside a unit all of it
 * does nothing.
 */
import { type Fd, keepFromChildren } from '../sys/fd.ts';
import { connectDatagram, sendDatagram } from '../sys/unix-socket.ts';

/** The first descriptor that systemd hands over (SD_LISTEN_FDS_START). */
const FIRST_LISTEN_FD = 3;
/** So often a changed status is sent. */
const STATUS_MS = 2000;
/** The watchdog is fed three times in its limit. */
const FEEDS_PER_LIMIT = 3;

export interface ServiceManagerOptions {
  /** Gets what could not be sent; the daemon goes on. */
  onError?: (error: unknown) => void;
}

export class ServiceManager implements Disposable {
  /** A unix socket that listens already, for the CRI server; undefined without socket activation. */
  readonly listener: number | undefined;
  readonly #socket: Fd | undefined;
  readonly #watchdogMs: number | undefined;
  readonly #onError: (error: unknown) => void;
  #timers: NodeJS.Timeout[] = [];
  #status = '';

  /**
   * Takes its variables out of `env`, so that no child mistakes them for its own. Throws when NOTIFY_SOCKET leads
   * nowhere.
   */
  constructor(env: NodeJS.ProcessEnv = process.env, { onError = () => {} }: ServiceManagerOptions = {}) {
    this.#onError = onError;
    const taken = Object.fromEntries(VARIABLES.map((name) => [name, env[name]])) as Partial<Record<Variable, string>>;
    for (const name of VARIABLES) delete env[name];
    if (taken.NOTIFY_SOCKET) this.#socket = connectDatagram(taken.NOTIFY_SOCKET);
    if (taken.WATCHDOG_USEC && forUs(taken.WATCHDOG_PID)) this.#watchdogMs = Number(taken.WATCHDOG_USEC) / 1000;
    if (Number(taken.LISTEN_FDS) >= 1 && forUs(taken.LISTEN_PID)) {
      keepFromChildren(FIRST_LISTEN_FD);
      this.listener = FIRST_LISTEN_FD;
    }
  }

  /** True when a manager listens. */
  get present(): boolean {
    return this.#socket !== undefined;
  }

  /** The daemon serves. From now on the main thread's event loop feeds the watchdog, and `status` is asked for news. */
  ready(status: () => string): void {
    this.#status = status();
    this.#send(`READY=1\nSTATUS=${this.#status}`);
    if (!this.present) return;
    if (this.#watchdogMs !== undefined)
      this.#timers.push(setInterval(() => this.#send('WATCHDOG=1'), this.#watchdogMs / FEEDS_PER_LIMIT).unref());
    this.#timers.push(setInterval(() => this.status(status()), STATUS_MS).unref());
  }

  /** Sends one line for `systemctl status`, where it is news. */
  status(text: string): void {
    if (text === this.#status) return;
    this.#status = text;
    this.#send(`STATUS=${text}`);
  }

  /** Runs a reload between RELOADING=1 and READY=1, so that `systemctl reload` ends with it. */
  async reload(work: () => Promise<void> | void): Promise<void> {
    this.#send(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
    try {
      await work();
    } finally {
      this.#send('READY=1');
    }
  }

  stopping(): void {
    this.#send('STOPPING=1\nSTATUS=running jobs finish, pods stay up');
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers) clearInterval(timer);
    this.#timers = [];
    this.#socket?.[Symbol.dispose]();
  }

  #send(text: string): void {
    if (!this.#socket) return;
    try {
      sendDatagram(this.#socket, Buffer.from(text));
    } catch (error) {
      this.#onError(error);
    }
  }
}

const VARIABLES = [
  'NOTIFY_SOCKET',
  'WATCHDOG_USEC',
  'WATCHDOG_PID',
  'LISTEN_FDS',
  'LISTEN_PID',
  'LISTEN_FDNAMES',
] as const;
type Variable = (typeof VARIABLES)[number];

/** Variables with another process's id were inherited by mistake. */
function forUs(pid: string | undefined): boolean {
  return pid === undefined || Number(pid) === process.pid;
}
