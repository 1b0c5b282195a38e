/**
 * CNI configurations, found as libcni does: files ending in .conflist, .conf and .json in the byte order of their
 * names; the first valid one is the pod network.
 */
import { basename, dirname, extname, join } from 'node:path';
import { codeOf, SluiceError } from '../../errors.ts';
import type { HostFiles } from '../../workers/host-paths/read-file.ts';
import { isObject, type Json } from '../../workers/json.ts';
import { CNI_VERSIONS, DEFAULT_VERSION, isKnownVersion } from '../../workers/net/cni-version.ts';
import type { NetworkConf, PluginConf } from '../../workers/net/types.ts';

const EXTENSIONS = ['.conflist', '.conf', '.json'];

/** libcni's rule for network names, which become parts of file names. */
const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;

/** The content of a configuration folder. */
export interface FolderConf {
  /** The network to use; absent when no file is valid. */
  network?: NetworkConf;
  /** Number of files with one of the extensions. */
  files: number;
  /** Path and reason of each invalid file before the first valid one. */
  problems: string[];
}

/** Above any real configuration; a larger file is cut off and is no JSON then. */
const MAX_BYTES = 1 << 20;

/**
 * Reads a folder. A folder that cannot be read is a problem, an absent one has no files. Throws TIMED_OUT alone, for a
 * mount that hangs: then nothing is known of what the folder contains.
 */
export async function loadFolder(folder: string, host: HostFiles): Promise<FolderConf> {
  let names: string[];
  try {
    const all = await host.names(folder);
    if (!all) return { files: 0, problems: [] };
    names = all.filter((name) => EXTENSIONS.includes(extname(name)));
  } catch (error) {
    if (codeOf(error) === 'TIMED_OUT') throw error;
    return { files: 1, problems: [`${folder} cannot be read: ${(error as Error).message}`] };
  }
  const problems: string[] = [];
  for (const name of names) {
    try {
      return { network: await loadFile(join(folder, name), host), files: names.length, problems };
    } catch (error) {
      if (codeOf(error) === 'TIMED_OUT') throw error;
      problems.push((error as Error).message);
    }
  }
  return { files: names.length, problems };
}

/**
 * Reads one file and the plugin files of specification 1.1 beside it. Throws NETWORK_NOT_READY with path and reason.
 */
async function loadFile(path: string, host: HostFiles): Promise<NetworkConf> {
  try {
    const text = await host.read(path, MAX_BYTES);
    if (extname(path) !== '.conflist') return parseSingle(text, path);
    const { network, onlyInlined } = parseList(text, path);
    if (!onlyInlined) network.plugins.push(...(await loadPlugins(join(dirname(path), network.name), host)));
    if (network.plugins.length === 0) throw new Error('it has no plugins');
    return network;
  } catch (cause) {
    if (codeOf(cause) === 'TIMED_OUT') throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new SluiceError('NETWORK_NOT_READY', `${path}: ${reason}`, { cause });
  }
}

/** Parses a list (.conflist). Its plugins may be empty here, because files beside it can add some. */
function parseList(text: string, source: string): { network: NetworkConf; onlyInlined: boolean } {
  const raw = parseObject(text);
  const onlyInlined = flag(raw, 'loadOnlyInlinedPlugins');
  if (raw.plugins === undefined && raw.type !== undefined)
    throw new Error('it has a single plugin; rename the file to .conf');
  if (raw.plugins === undefined && onlyInlined) throw new Error('it has no plugins');
  const plugins = raw.plugins ?? [];
  if (!Array.isArray(plugins)) throw new Error('"plugins" is not a list');
  if (raw.plugins !== undefined && plugins.length === 0) throw new Error('it has no plugins');
  const network = {
    name: networkName(raw),
    cniVersion: chooseVersion(raw),
    disableCheck: flag(raw, 'disableCheck'),
    plugins: plugins.map((plugin, index) => checkPlugin(plugin, `plugin ${index + 1}`)),
    source,
  };
  return { network, onlyInlined };
}

/** Parses a file with a single plugin (.conf, .json) into a list of one. */
function parseSingle(text: string, source: string): NetworkConf {
  const raw = parseObject(text);
  if (raw.type === undefined && raw.plugins !== undefined)
    throw new Error('it has a list of plugins; rename the file to .conflist');
  const plugin = checkPlugin(raw, basename(source));
  return { name: networkName(raw), cniVersion: chooseVersion(raw), disableCheck: false, plugins: [plugin], source };
}

/** Reads <conf_dir>/<network>/*.conf (specification 1.1, loadOnlyInlinedPlugins). */
async function loadPlugins(folder: string, host: HostFiles): Promise<PluginConf[]> {
  const names = (await host.names(folder)) ?? [];
  const files = names.filter((name) => extname(name) === '.conf').sort();
  return Promise.all(
    files.map(async (name) => checkPlugin(parseObject(await host.read(join(folder, name), MAX_BYTES)), name)),
  );
}

function parseObject(text: string): Json {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch (cause) {
    throw new Error(`it is not JSON: ${(cause as Error).message}`, { cause });
  }
  if (!isObject(raw)) throw new Error('it is not a JSON object');
  return raw;
}

function networkName({ name }: Json): string {
  if (name === undefined || name === '') throw new Error('it has no name');
  if (typeof name !== 'string' || !NAME.test(name)) {
    throw new Error(
      `${JSON.stringify(name)} is not a valid network name; it may have letters, digits, "_", "." and "-"`,
    );
  }
  return name;
}

/** The newest supported version of `cniVersion` and `cniVersions` (specification 1.1). */
function chooseVersion({ cniVersion, cniVersions }: Json): string {
  const offered: unknown[] = [];
  if (cniVersion !== undefined && cniVersion !== '') offered.push(cniVersion);
  if (cniVersions !== undefined) {
    if (!Array.isArray(cniVersions)) throw new Error('"cniVersions" is not a list');
    offered.push(...cniVersions);
  }
  if (offered.length === 0) return DEFAULT_VERSION;
  const supported = offered.filter((version) => typeof version === 'string' && isKnownVersion(version));
  const newest = CNI_VERSIONS.findLast((version) => supported.includes(version));
  if (newest === undefined) throw new Error(`CNI version ${offered.join(', ')} is not supported`);
  return newest;
}

function checkPlugin(raw: unknown, which: string): PluginConf {
  if (!isObject(raw)) throw new Error(`${which} is not an object`);
  const { type, capabilities } = raw;
  if (typeof type !== 'string' || type === '') throw new Error(`${which} has no type`);
  if (type.includes('/'))
    throw new Error(`${which}: type ${JSON.stringify(type)} is a path; it must be the name of a program`);
  if (capabilities !== undefined && capabilities !== null && !isObject(capabilities)) {
    throw new Error(`${which}: "capabilities" is not an object`);
  }
  return raw as PluginConf;
}

/** Reads a boolean, which libcni also accepts as a string. */
function flag(raw: Json, key: string): boolean {
  const value = raw[key];
  const text = typeof value === 'string' ? value.toLowerCase() : value;
  if (text === undefined || text === false || text === 'false') return false;
  if (text === true || text === 'true') return true;
  throw new Error(`"${key}" is neither true nor false`);
}
