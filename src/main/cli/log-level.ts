import { parseArgs } from 'node:util';
import { CLIENT_HELP, CLIENT_OPTIONS, DebugClient } from './client.ts';

const HELP = `usage: sluice log-level [LEVEL] [options]

Prints the daemon's log level, or changes it while the daemon runs: trace, debug, info, warn, error.
After a restart, the level is log.level of the configuration again.

${CLIENT_HELP}
`;

/** `sluice log-level [LEVEL]`. Resolves to the exit status; rejects as {@link DebugClient.call} does. */
export async function logLevel(args: string[], out: NodeJS.WritableStream = process.stdout): Promise<number> {
  const { values, positionals } = parseArgs({ args, options: CLIENT_OPTIONS, allowPositionals: true });
  if (values.help) {
    out.write(HELP);
    return 0;
  }
  const [level] = positionals;
  const client = new DebugClient(values);
  const path = level === undefined ? '' : `?level=${encodeURIComponent(level)}`;
  const answer = await client.call<{ level: string }>(`/debug/log-level${path}`, level === undefined ? 'GET' : 'PUT');
  out.write(`${answer.level}\n`);
  return 0;
}
