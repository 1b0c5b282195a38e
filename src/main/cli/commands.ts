/** The one table of commands. Help, completion, the manual page and docs/operate/cli.md are made from it. */
import type { Command } from './command.ts';
import { completionOf } from './completion.ts';
import { CONFIG_COMMANDS } from './config.ts';
import { DOCTOR } from './doctor.ts';
import { EXEC } from './exec.ts';
import { IMAGE_COMMANDS } from './image.ts';
import { LOG_LEVEL } from './log-level.ts';
import { LOGS } from './logs.ts';
import { NETWORK_SHOW } from './network.ts';
import { PODS, PS } from './pods.ts';
import { STATS } from './stats.ts';
import { STATUS } from './status.ts';
import { SUPPORT_BUNDLE } from './support-bundle.ts';
import { TOP } from './top.ts';
import { TRACE } from './trace.ts';

/** What the first word of commands of two words is about. */
export const GROUPS: Record<string, string> = {
  image: 'images: list, pull, inspect, remove, archives',
  config: 'the configuration: defaults, check, values, differences',
  network: 'the pod network',
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
  NETWORK_SHOW,
  ...IMAGE_COMMANDS,
  ...CONFIG_COMMANDS,
  LOG_LEVEL,
  SUPPORT_BUNDLE,
  completionOf(
    () => COMMANDS,
    () => GROUPS,
  ),
];
