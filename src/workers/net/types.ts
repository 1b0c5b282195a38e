/**
 * CNI's data types and the input of the net worker's CNI calls. Field names inside configurations and results are those
 * of the CNI specification (https://www.cni.dev/docs/spec/, versions 0.3.1 to 1.1.0).
 */

/** A plugin's configuration from the conflist, unknown keys included. */
export type PluginConf = { type: string; capabilities?: Record<string, boolean>; ipam?: unknown } & Record<
  string,
  unknown
>;

export interface NetworkConf {
  name: string;
  cniVersion: string;
  disableCheck?: boolean;
  plugins: PluginConf[];
  /** Path of its file, or "built-in". */
  source: string;
}

/** One attachment of a pod to a network: the parameters of ADD, stored so that DEL gets the same ones. */
export interface CniAttachment {
  network: NetworkConf;
  containerId: string;
  netns: string;
  ifName: string;
  /** CNI_ARGS in order. */
  args: [key: string, value: string][];
  /** runtimeConfig values by capability name. */
  capabilityArgs: Record<string, unknown>;
}

/** A plugin's result in the shape of version 1.1.0, converted from the version that the plugin uses. */
export interface CniResult {
  cniVersion: string;
  interfaces?: { name: string; mac?: string; mtu?: number; sandbox?: string; socketPath?: string; pciID?: string }[];
  ips?: { address: string; gateway?: string; interface?: number }[];
  routes?: ({ dst: string; gw?: string } & Record<string, unknown>)[];
  dns?: { nameservers?: string[]; domain?: string; search?: string[]; options?: string[] };
}

/** One measured run of one plugin; a retried plugin has several. */
export interface PluginRun {
  /** The plugin's `type`. */
  plugin: string;
  command: 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'STATUS';
  /** Seconds from before the start to after the end of the process. */
  seconds: number;
  /** Seconds that starting the process took, during which the thread was blocked. */
  spawnSeconds: number;
  outcome: 'ok' | 'error' | 'timeout';
}

/** The input of ADD and DEL. */
export interface CniCall {
  attachment: CniAttachment;
  /** CNI_PATH: folders of plugins in search order. */
  binDirs: string[];
  /**
   * libcni's cache folder, which contains results/. "" keeps no record: for loopback, which ends with the namespace.
   */
  cacheDir: string;
  /** Time limit of one plugin in milliseconds, its retries included. */
  timeoutMs: number;
  /** Which plugins run without a process (in-process/plan.ts); absent: none. */
  inProcess?: 'auto' | boolean;
}
