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
  /** Gives back what belongs to no attachment (specification 1.1, GC), and returns what that was, in words. */
  gc?(call: GcCall): Promise<string[]>;
}

/** Whose something is. Early versions of host-local wrote no interface; then it is "". */
export interface Owner {
  containerId: string;
  ifName: string;
}

export interface GcCall {
  network: Pick<NetworkConf, 'name' | 'cniVersion'>;
  conf: Json;
  /**
   * Is this an attachment? To be asked after the thing was seen: an ADD has its record before it takes anything, so one
   * that begins meanwhile is known then.
   */
  isValid: (owner: Owner) => boolean;
  /** Files of addresses that are younger stay: other runtimes write their record when ADD is done. */
  minAgeMs: number;
  /** Only says what would be given back. */
  dryRun: boolean;
  limitMs: number;
}

/** As the comments of nf_tables' elements have it. */
export const ownerText = ({ containerId, ifName }: Owner): string =>
  ifName === '' ? containerId : `${containerId}/${ifName}`;

/** The value of CNI_ARGS with this name, whatever its case; "" without one. */
export function cniArg({ args }: CniAttachment, name: string): string {
  return args.find(([key]) => key.toUpperCase() === name)?.[1] ?? '';
}
