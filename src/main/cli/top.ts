import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../../errors.ts';
import type { JobRecord } from '../../node/observe/job-record.ts';
import type { NowView } from '../../node/observe/metrics-server.ts';
import { DebugClient } from './client.ts';
import { type Call, type Command, EXIT, printJson, useColor } from './command.ts';
import { LastMinute, topView } from './top-view.ts';

const ENTER = '\x1b[?1049h\x1b[?25l'; // alternate screen, no cursor
// the same in reverse
const LEAVE = '\x1b[?25h\x1b[?1049l';

/**
 * Ends on q, Ctrl-C or SIGTERM, and leaves the terminal as it was. Throws NOT_READY when no daemon answers at the
 * start, and INVALID_REQUEST for an interval that is none.
 */
async function top(call: Call): Promise<number> {
  const { out, options } = call;
  const interval = Number(options.interval ?? 1);
  if (!(interval >= 0.1 && interval <= 60))
    throw new SluiceError('INVALID_REQUEST', '--interval must be from 0.1 to 60 seconds');
  const client = new DebugClient(call);
  if (options.json) {
    printJson(out, await client.call<NowView>('/debug/now'));
    return EXIT.ok.status;
  }
  const view = viewer(client);
  const color = useColor(out);
  if (options.once || out.isTTY !== true) {
    const lines = await view({ width: out.columns ?? 120, height: out.rows ?? 60, color });
    out.write(`${lines.map((line) => line.trimEnd()).join('\n')}\n`);
    return EXIT.ok.status;
  }
  const first = await view({ width: out.columns ?? 120, height: out.rows ?? 40, color });
  const ended = new AbortController();
  const restore = keyboard(() => ended.abort());
  out.write(ENTER);
  try {
    for (let lines = first; !ended.signal.aborted; ) {
      out.write(`\x1b[H${lines.map((line) => `${line}\x1b[K`).join('\r\n')}\x1b[J`);
      await sleep(interval * 1000, undefined, { signal: ended.signal }).catch(() => undefined); // aborted
      if (ended.signal.aborted) break;
      const size = { width: out.columns ?? 120, height: out.rows ?? 40, color };
      lines = await view(size).catch((error: Error) => [`${error.message}; trying again`]);
    }
  } finally {
    out.write(LEAVE);
    restore();
  }
  return EXIT.ok.status;
}

export const TOP: Command = {
  name: 'top',
  summary: 'stages, limits and launches, live',
  description:
    'Shows each stage with what runs and waits, times over the last minute, how many pods each shim serves, the jobs of this moment and where each one is, and the slowest launches. q ends it.',
  options: [
    { flags: '--once', description: 'print one view and exit (also when standard output is not a terminal)' },
    { flags: '--interval <seconds>', description: 'time between views (default: 1)' },
  ],
  peers: ['metrics'],
  json: true,
  run: top,
};

/** Returns a function that reads the present state and the newly ended jobs from the daemon, and formats a view. */
function viewer(client: DebugClient) {
  const minute = new LastMinute();
  let before: { cpu: number; up: number } | undefined;
  return async (size: { width: number; height: number; color: boolean }): Promise<string[]> => {
    const now = await client.call<NowView>('/debug/now');
    // One second earlier than the newest known end, because ends are not recorded in their order.
    const since = Math.max(now.now - 60_000, (minute.newest ?? 0) - 1000);
    const { launches } = await client.call<{ launches: JobRecord[] }>(`/debug/launches?since=${since}&limit=2000`);
    minute.add(launches, now.now);
    let cores: number | undefined;
    if (before && now.uptimeSeconds > before.up)
      cores = (now.cpuSeconds - before.cpu) / (now.uptimeSeconds - before.up);
    before = { cpu: now.cpuSeconds, up: now.uptimeSeconds };
    return topView(now, minute, { ...size, cores, address: client.address });
  };
}

/** Calls `end` for q, Ctrl-C and SIGTERM. Returns a function that restores the terminal's input mode. */
function keyboard(end: () => void): () => void {
  const { stdin } = process;
  const onKey = (key: Buffer) => {
    if (key.includes('q') || key.includes('\x03')) end();
  };
  if (stdin.isTTY) {
    stdin.setRawMode(true);
    stdin.on('data', onKey);
    stdin.resume();
  }
  process.on('SIGTERM', end);
  process.on('SIGINT', end);
  return () => {
    process.off('SIGTERM', end);
    process.off('SIGINT', end);
    if (!stdin.isTTY) return;
    stdin.off('data', onKey);
    stdin.setRawMode(false);
    stdin.pause();
  };
}
