/** The one table of commands. Help, completion, the manual page and docs/operate/cli.md are made from it. */
import { VERSION } from '../../version.ts';
import { type Command, EXIT, printJson } from './command.ts';
import { completionOf } from './completion.ts';
import { CONFIG_COMMANDS } from './config.ts';
import { DOCTOR } from './doctor.ts';
import { EXEC } from './exec.ts';
import { IMAGE_COMMANDS } from './image.ts';
import { LOG_LEVEL } from './log-level.ts';
import { LOGS } from './logs.ts';
import { NETWORK_CHECK, NETWORK_REMOVE, NETWORK_SHOW } from './network.ts';
import { PODS, PS } from './pods.ts';
import { STATS } from './stats.ts';
import { STATUS } from './status.ts';
import { SUPPORT_BUNDLE } from './support-bundle.ts';
import { TOP } from './top.ts';
import { TRACE } from './trace.ts';

/** What the first word of commands of two words is about. */
export const GROUPS: Record<string, string> = {
  config: 'the configuration: defaults, check, values, differences',
  image: 'images on the node',
  network: 'the pod network',
};

const VERSION_COMMAND: Command = {
  name: 'version',
  summary: 'print the version of this tool',
  description: 'sluice status has that of the daemon.',
  json: true,
  run({ options, out }) {
    if (options.json) printJson(out, { version: VERSION });
    else out.write(`sluice ${VERSION}\n`);
    return EXIT.ok.status;
  },
};

export const COMMANDS: readonly Command[] = [
  STATUS,
  DOCTOR,
  TOP,
  TRACE,
  PODS,
  PS,
  LOGS,
  EXEC,
  STATS,
  ...IMAGE_COMMANDS,
  NETWORK_SHOW,
  NETWORK_CHECK,
  NETWORK_REMOVE,
  ...CONFIG_COMMANDS,
  LOG_LEVEL,
  SUPPORT_BUNDLE,
  completionOf(
    () => COMMANDS,
    () => GROUPS,
  ),
  VERSION_COMMAND,
];
