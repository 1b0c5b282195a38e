/**
 * The shapes of CNI that cross module borders. Field names inside configurations and results are the CNI specification's own
 * (https://www.cni.dev/docs/spec/, versions 0.3.1 to 1.1.0).
 */

/** A plugin's configuration as it stands in the conflist, unknown keys included. */
export type PluginConf = { type: string; capabilities?: Record<string, boolean>; ipam?: unknown } & Record<
  string,
  unknown
>;

export interface NetworkConf {
  name: string;
  cniVersion: string;
  disableCheck?: boolean;
  plugins: PluginConf[];
  /** File it came from, or "built-in". */
  source: string;
}

/** One attachment of a pod to a network: what ADD was, or will be, called with, so that DEL can be called alike. */
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

/** A plugin's result in the newest shape (1.1.0), whatever version the plugin spoke. */
export interface CniResult {
  cniVersion: string;
  interfaces?: { name: string; mac?: string; mtu?: number; sandbox?: string; socketPath?: string; pciID?: string }[];
  ips?: { address: string; gateway?: string; interface?: number }[];
  routes?: ({ dst: string; gw?: string } & Record<string, unknown>)[];
  dns?: { nameservers?: string[]; domain?: string; search?: string[]; options?: string[] };
}

/** One run of one plugin, as it is measured; a retried plugin has several. */
export interface PluginRun {
  /** The plugin's `type`. */
  plugin: string;
  command: 'ADD' | 'DEL' | 'STATUS';
  /** From before its start to after its end. */
  seconds: number;
  /** What starting the process took: the time a thread was blocked. */
  spawnSeconds: number;
  outcome: 'ok' | 'error' | 'timeout';
}

/** Where plugins are and how they are run: what ADD and DEL need beside the attachment. */
export interface CniCall {
  attachment: CniAttachment;
  /** CNI_PATH: folders of plugins, in the order they are searched. */
  binDirs: string[];
  /** libcni's cache folder, with results/ in it; "" keeps no record (the loopback plugin, whose undo is the namespace's end). */
  cacheDir: string;
  /** Milliseconds that one plugin may take, its retries included. */
  timeoutMs: number;
}
