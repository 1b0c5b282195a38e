import type { NetlinkSocket } from '../../../sys/netlink.ts';
import type { Json } from '../../json.ts';
import type { ParsedResult } from '../result.ts';
import type { CniAttachment, CniResult, NetworkConf, PluginRun } from '../types.ts';

/** One verb of one plugin of a list, with what the plugin's program would get. */
export interface Call {
  network: Pick<NetworkConf, 'name' | 'cniVersion'>;
  attachment: CniAttachment;
  /** CNI_NETNS; "" when the namespace is gone. */
  netns: string;
  /** The configuration as the program would find it on stdin. */
  conf: Json;
  /** No ADD with this container and interface was ever begun: there is nothing to look for of an earlier one. */
  isNew: boolean;
  /** What the plugin before this one answered; in DEL and CHECK what the whole list did. */
  prevResult?: ParsedResult;
  /** Milliseconds for waiting: for a lock, for addresses to settle. */
  limitMs: number;
  /** rtnetlink in the host's namespace. */
  host: NetlinkSocket;
  /**
   * Runs a plugin as a process with this call's configuration (an IPAM plugin); returns what it printed. Throws
   * PluginFailure.
   */
  delegate: (program: string, command: PluginRun['command']) => Promise<string>;
}

/**
 * A plugin's work without its process. Each verb throws Refusal or an error of the system; what ADD did until then is
 * taken back by DEL. The configuration was read before: `read` of the plugin's own file throws NotOurs for what it
 * leaves to the program.
 */
export interface Work {
  /** The result to go on with. */
  add(call: Call): Promise<CniResult | ParsedResult>;
  del(call: Call): Promise<void>;
  check(call: Call): Promise<void>;
  /**
   * Index, on the host, of the link after whose end DEL may run, without deleting it itself; undefined when DEL has to
   * run now.
   */
  heldLink?(call: Call): number | undefined;
  /** Gives back what belongs to none of the attachments (specification 1.1, GC). */
  gc?(call: GcCall): Promise<void>;
}

export interface GcCall {
  network: Pick<NetworkConf, 'name' | 'cniVersion'>;
  conf: Json;
  valid: readonly { containerId: string; ifName: string }[];
  limitMs: number;
}

/** The value of CNI_ARGS with this name, whatever its case; "" without one. */
export function cniArg({ args }: CniAttachment, name: string): string {
  return args.find(([key]) => key.toUpperCase() === name)?.[1] ?? '';
}
