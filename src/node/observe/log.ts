import { EventEmitter } from 'node:events';
import { fstatSync } from 'node:fs';
import { type DestinationStream, destination, type Logger, type LoggerOptions, pino } from 'pino';
import { redact, redactText } from './redact.ts';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Bytes that are buffered while nobody reads standard output; further lines are dropped. */
const MAX_WAITING = 16 << 20;

interface LogOptions {
  level: LogLevel;
  /** Destination instead of standard output, for tests. */
  stream?: DestinationStream;
  /**
   * Lines begin with their priority, which journald takes off and files them under. Found out by {@link toJournal} when
   * left out.
   */
  journal?: boolean;
}

/** Priorities of syslog(3), as sd-daemon(3) has them before a line. */
const PRIORITIES: Record<string, number> = { fatal: 2, error: 3, warn: 4, info: 6, debug: 7, trace: 7 };

/**
 * True when standard output is the journal's own socket: JOURNAL_STREAM names it by device and inode (systemd.exec(5)).
 */
export function toJournal(env: NodeJS.ProcessEnv = process.env, fd = 1): boolean {
  if (!env.JOURNAL_STREAM) return false;
  const { dev, ino } = fstatSync(fd);
  return env.JOURNAL_STREAM === `${dev}:${ino}`;
}

/** A line begins with `{"level":"info",`. */
function withPriority(line: string): string {
  const level = line.slice('{"level":"'.length, line.indexOf('"', '{"level":"'.length));
  return `<${PRIORITIES[level] ?? PRIORITIES.info}>${line}`;
}

/**
 * The daemon's log: a pino logger whose level can be changed at run time, for all of its children too. (A change of
 * pino's own level does not affect existing children.)
 */
export interface Log extends Logger {
  readonly currentLevel: LogLevel;
  /** Throws RangeError for a level that does not exist. */
  setLevel(level: LogLevel): void;
  /** Switches between the configured level and debug. SIGUSR2 calls it. */
  toggleDebug(): void;
  /** Writes the buffered lines synchronously. Also happens at exit. */
  flush(): void;
}

/**
 * Creates a pino logger on standard output: JSON lines with ISO times, levels as words, and credentials redacted. Lines
 * are buffered for up to 250 ms and written asynchronously, so that the main thread does not wait for a slow reader;
 * SIGKILL loses these lines. pino's transports are not used, because they lose lines at exit (pino issue 2054).
 */
export function createLog({ level: configured, stream, journal = toJournal() }: LogOptions): Log {
  const { values } = pino.levels;
  let level = configured;
  let threshold = values[configured] ?? 0;
  const options: LoggerOptions = {
    level: 'trace', // logMethod below filters
    base: undefined,
    timestamp: pino.stdTimeFunctions.isoTime,
    messageKey: 'message',
    formatters: { level: (label) => ({ level: label }), log: (fields) => redact(fields) as Record<string, unknown> },
    hooks: {
      logMethod(args, method, number) {
        if (number >= threshold) method.apply(this, args);
      },
      streamWrite: journal ? (line) => withPriority(redactText(line)) : redactText,
    },
  };
  const out =
    stream ?? destination({ fd: 1, sync: false, minLength: 4096, periodicFlush: 250, maxLength: MAX_WAITING });
  if (out instanceof EventEmitter) surviveFailures(out as unknown as LogFile);
  const setLevel = (wanted: LogLevel) => {
    if (!LOG_LEVELS.includes(wanted))
      throw new RangeError(`unknown log level "${wanted}"; the levels are ${LOG_LEVELS.join(', ')}`);
    level = wanted;
    threshold = values[wanted] ?? 0;
  };
  const log = pino(options, out);
  Object.defineProperty(log, 'currentLevel', { get: () => level });
  return Object.assign(log, {
    setLevel,
    toggleDebug: () => setLevel(level === 'debug' ? configured : 'debug'),
    flush() {
      if ('flushSync' in out && typeof out.flushSync === 'function') out.flushSync();
    },
  }) as Log;
}

/** What pino's destination is, and what of it its types leave out. */
type LogFile = EventEmitter & { flushSync(): void };

/**
 * Standard output may be a file on a full disk. Without a listener its `error` event ends the process; what could not
 * be written is tried again with the next line. A flush is left out then: sonic-boom's, also at the exit of the
 * process, tries for ever.
 */
function surviveFailures(out: LogFile): void {
  let failing = false;
  out.on('error', () => {
    failing = true;
  });
  out.on('write', () => {
    failing = false;
  });
  const flush = out.flushSync.bind(out);
  out.flushSync = () => {
    if (!failing) flush();
  };
}
