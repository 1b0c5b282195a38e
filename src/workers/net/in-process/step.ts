/** One plugin of a list carried out in this thread: measured, and failing, as its process would be. */

import { StrandedThread } from '../../../sys/stranded-thread.ts';
import type { Json } from '../../json.ts';
import { callPlugin, PluginFailure, pluginConf } from '../plugin.ts';
import { inVersion, type ParsedResult, parseResult } from '../result.ts';
import type { CniAttachment, CniResult, NetworkConf, PluginConf, PluginRun } from '../types.ts';
import type { Call, GcCall, Work } from './call.ts';
import { INTERNAL, Refusal, reasonOf } from './refusal.ts';
import { routeSocket } from './sockets.ts';

export interface Step {
  plugin: PluginConf;
  network: NetworkConf;
  attachment: CniAttachment;
  netns: string;
  prevResult?: ParsedResult;
  isNew?: boolean;
  binDirs: readonly string[];
  timeoutMs: number;
  lock?: number;
}

/** ADD. Throws PluginFailure. */
export function addStep(work: Work, step: Step, runs: PluginRun[]): Promise<ParsedResult> {
  return measured('ADD', step, runs, async () => parsed(await work.add(callOf(step, runs)), step.network.cniVersion));
}

/** DEL. Throws PluginFailure. */
export const delStep = (work: Work, step: Step, runs: PluginRun[]): Promise<void> =>
  measured('DEL', step, runs, () => work.del(callOf(step, runs)));

/** See {@link Work.heldLink}. Where it can't be found out, the answer is that DEL has to run now. */
export function heldLinkStep(work: Work, step: Step, runs: PluginRun[]): number | undefined {
  try {
    return work.heldLink?.(callOf(step, runs));
  } catch (error) {
    if (error instanceof StrandedThread) throw error;
    return undefined;
  }
}

/** CHECK. Throws PluginFailure. */
export const checkStep = (work: Work, step: Step, runs: PluginRun[]): Promise<void> =>
  measured('CHECK', step, runs, () => work.check(callOf(step, runs)));

/** GC. Throws PluginFailure. */
export const gcStep = (
  work: Work,
  step: Pick<Step, 'plugin' | 'network'>,
  call: GcCall,
  runs: PluginRun[],
): Promise<string[]> => measured('GC', step, runs, async () => (await work.gc?.(call)) ?? []);

async function measured<T>(
  command: PluginRun['command'],
  { plugin, network }: Pick<Step, 'plugin' | 'network'>,
  runs: PluginRun[],
  work: () => Promise<T>,
): Promise<T> {
  const began = performance.now();
  const note = (outcome: PluginRun['outcome']) => {
    const seconds = (performance.now() - began) / 1000;
    runs.push({ plugin: plugin.type, command, seconds, spawnSeconds: 0, outcome });
  };
  try {
    const answer = await work();
    note('ok');
    return answer;
  } catch (error) {
    note('error');
    if (error instanceof StrandedThread) throw error;
    // Of an IPAM plugin that ran as a process: its own words are all there is to say.
    if (error instanceof PluginFailure) throw error;
    const said = `${reasonOf(error)} (CNI code ${INTERNAL})`;
    throw new PluginFailure(
      'CNI_FAILED',
      `plugin ${plugin.type} (${command}, network ${network.name}) failed: ${said}`,
      {
        cniCode: INTERNAL,
        words: said,
        // A Refusal's message has its reason already; anything else is shown with its cause.
        cause: error instanceof Refusal ? undefined : error,
      },
    );
  }
}

function callOf(step: Step, runs: PluginRun[]): Call {
  const { plugin, network, attachment, netns, prevResult, binDirs, timeoutMs, lock, isNew = false } = step;
  const before = prevResult && inVersion(prevResult, network.cniVersion);
  return {
    network,
    attachment,
    netns,
    conf: confOf(plugin, network, attachment),
    prevResult,
    limitMs: timeoutMs,
    host: routeSocket(),
    isNew,
    delegate: (program, verb) =>
      callPlugin(
        { command: verb, plugin, program, network, attachment, netns, prevResult: before, binDirs, timeoutMs, lock },
        runs,
      ),
  };
}

/** The configuration as the plugin's program would get it, less the previous result. */
export const confOf = (plugin: PluginConf, network: NetworkConf, attachment?: CniAttachment): Json =>
  pluginConf({ command: 'ADD', plugin, network, attachment });

/**
 * A result that was made here, in the shape of the configuration's version and read like a process's; or one that was
 * passed on.
 */
function parsed(answer: CniResult | ParsedResult, version: string): ParsedResult {
  if ('raw' in answer) return answer;
  const made: ParsedResult = { version: answer.cniVersion, raw: answer as unknown as Json, result: answer };
  return parseResult(JSON.stringify(inVersion(made, version)), version);
}
