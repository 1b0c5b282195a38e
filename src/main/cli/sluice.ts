import { parseArgs } from 'node:util';
import { explain } from '../../errors.ts';
import { checkConfig, DEFAULT_PATH, loadConfig } from '../../node/config/load.ts';
import { printDefault } from '../../node/config/print.ts';
import { VERSION } from '../../version.ts';
import { doctor, doctorLeaks } from './doctor.ts';
import { logLevel } from './log-level.ts';
import { top } from './top.ts';
import { trace } from './trace.ts';

const USAGE = `usage: sluice COMMAND

  config default          print the default configuration, with comments
  config check [FILE]     check a configuration (default ${DEFAULT_PATH})
  doctor [--json]         what this machine lacks for the configuration
  doctor --leaks [--fix]  what the daemon made and no row of its store names; --fix removes it
  top                     live view of stages, limits and launches
  trace POD [--svg FILE]  one launch as a Gantt chart
  log-level [LEVEL]       show or change the log level of a running daemon
  version

top, trace and log-level take the daemon's address from --metrics HOST:PORT or --config FILE.`;

/** Runs a command; returns the exit status. */
async function main([command, ...args]: string[]): Promise<number> {
  switch (command) {
    case 'config':
      return config(args);
    case 'doctor':
      return examine(args);
    case 'top':
      return top(args);
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

function examine(args: string[]): Promise<number> {
  const flag = { type: 'boolean', default: false } as const;
  const { values } = parseArgs({ args, options: { config: { type: 'string' }, leaks: flag, fix: flag, json: flag } });
  const { leaks, fix, json } = values;
  const chosen = loadConfig(values.config);
  return leaks ? doctorLeaks(chosen, process.stdout, { fix, json }) : doctor(chosen, process.stdout, json);
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
