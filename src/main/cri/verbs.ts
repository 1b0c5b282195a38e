import type { RuntimeVerbs } from './call.ts';
import { containerVerbs } from './containers.ts';
import { eventVerbs } from './events.ts';
import { execVerbs } from './exec.ts';
import { podVerbs } from './pods.ts';
import { daemonVerbs } from './runtime.ts';
import type { CriServices } from './services.ts';
import { statsVerbs } from './stats.ts';

/**
 * All of RuntimeService: a method that no topic implements fails to compile here, unless call.ts lists it as
 * unimplemented.
 */
export const runtimeVerbs = (services: CriServices): RuntimeVerbs => ({
  ...daemonVerbs(services),
  ...podVerbs(services),
  ...containerVerbs(services),
  ...execVerbs(services),
  ...statsVerbs(services),
  ...eventVerbs(services),
});
