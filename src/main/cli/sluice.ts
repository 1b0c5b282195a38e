import { parseArgs } from 'node:util';
import { explain } from '../../errors.ts';
import { checkConfig, DEFAULT_PATH } from '../../node/config/load.ts';
import { printDefault } from '../../node/config/print.ts';
import { VERSION } from '../../version.ts';
import { image } from './image.ts';
import { logLevel } from './log-level.ts';
import { top } from './top.ts';
import { trace } from './trace.ts';

const USAGE = `usage: sluice COMMAND

  config default          print the default configuration, with comments
  config check [FILE]     check a configuration (default ${DEFAULT_PATH})
  top                     live view of stages, limits and launches
  trace POD [--svg FILE]  one launch as a Gantt chart
  image COMMAND           ls, pull, inspect, rm, gc, import, export (see sluice image --help)
  log-level [LEVEL]       show or change the log level of a running daemon
  version

top, trace and log-level take the daemon's address from --metrics HOST:PORT or --config FILE.`;

/** Runs a command; returns the exit status. */
async function main([command, ...args]: string[]): Promise<number> {
  switch (command) {
    case 'config':
      return config(args);
    case 'top':
      return top(args);
    case 'image':
      return image(args);
    case 'trace':
      return trace(args);
    case 'log-level':
      return logLevel(args);
    case 'version':
    case '--version':
      console.log(`sluice ${VERSION}`);
      return 0;
    case 'help':
    case '--help':
    case '-h':
      console.log(USAGE);
      return 0;
    default:
      console.error(command === undefined ? USAGE : `sluice: unknown command "${command}"\n\n${USAGE}`);
      return 2;
  }
}

function config(args: string[]): number {
  const { positionals } = parseArgs({ args, allowPositionals: true });
  const [what, file = DEFAULT_PATH] = positionals;
  if (what === 'default') {
    process.stdout.write(printDefault());
    return 0;
  }
  if (what === 'check') {
    const problems = checkConfig(file);
    for (const problem of problems) console.error(problem);
    if (problems.length === 0) console.log(`${file}: valid`);
    return problems.length === 0 ? 0 : 1;
  }
  console.error(USAGE);
  return 2;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(`sluice: ${explain(error)}`);
  process.exitCode = 1;
}
