/** Who carries out each plugin of a list: a thread of ours, or the plugin's own program. */
import { FAMILY } from '../../../sys/nftables.ts';
import { remoteMount } from '../../host-paths/resolve.ts';
import { isObject, type Json } from '../../json.ts';
import { findTool } from '../programs.ts';
import type { NetworkConf, PluginConf } from '../types.ts';
import { bridgeWork, readBridge } from './bridge.ts';
import type { Work } from './call.ts';
import { NotOurs } from './fields.ts';
import { prepareTable } from './firewall.ts';
import { DATA_FOLDER, flannelWork, readFlannel, SUBNET_FILE } from './flannel.ts';
import { DEFAULT_FOLDER as HOST_LOCAL_FOLDER } from './host-local.ts';
import { type Ipam, type IsOurs, ipamFamilies } from './ipam.ts';
import { loopbackWork, readLoopback } from './loopback.ts';
import { mapsPorts, portmapWork, readPortmap } from './portmap.ts';
import { ptpWork, readPtp } from './ptp.ts';
import { isReferencePlugin, REFERENCE_PLUGINS } from './reference.ts';
import { reasonOf } from './refusal.ts';
import { nftablesSocket } from './sockets.ts';
import { readTuning, tuningWork } from './tuning.ts';

/** `[cni] in_process`: "auto" leaves programs alone that are not the reference plugins. */
export type InProcess = 'auto' | boolean;

export const BUILT_IN = 'built-in';

export interface PlanQuestion {
  network: NetworkConf;
  binDirs: readonly string[];
  inProcess: InProcess;
  /** The plugin's configuration as its program would get it, without prevResult. */
  confOf: (plugin: PluginConf) => Json;
  /** CNI_ARGS ask for a hardware address, which tuning would set. */
  asksMac: boolean;
}

interface Planned {
  work: Work;
  /** Whose work it is: the plugin, and the IPAM plugin or delegate with it. */
  types: string[];
  /** The families of addresses for which it needs nf_tables. */
  nat: (4 | 6)[];
}

export interface Plan {
  /** For each plugin of the list its work here, or undefined for its program. */
  works: (Work | undefined)[];
  /** The types of all that is done here, for the attachment's record. */
  types: string[];
  /** What is done otherwise than was to be expected, to be logged once. */
  notes: string[];
}

/**
 * Plans an ADD. Asks the kernel for the tables that will be needed, so that a refusal comes before anything was made.
 */
export async function planAdd(question: PlanQuestion): Promise<Plan> {
  const notes: string[] = [];
  const types: string[] = [];
  const ours = await oursIn(question);
  const works = question.network.plugins.map((plugin) => {
    const planned = planOne(plugin, question, ours);
    if (!planned) return undefined;
    const refused = refusedTables(question.network.name, planned.nat);
    if (refused === undefined) {
      types.push(...planned.types);
      return planned.work;
    }
    notes.push(
      `network ${question.network.name}: the plugin ${plugin.type} runs as a process, since nf_tables is refused (${refused})`,
    );
    return undefined;
  });
  return { works, types: [...new Set(types)], notes };
}

/**
 * Plans a DEL, CHECK or GC of what an ADD has made. `made` are the types that were carried out here, as the
 * attachment's record has them: who made something takes it away. Without a record the present configuration decides.
 */
export async function planLater(
  question: PlanQuestion,
  made: readonly string[] | undefined,
): Promise<(Work | undefined)[]> {
  // IPAM was done here by an ADD when the list says so.
  const ours: IsOurs = made ? (type) => made.includes(type) : await oursIn(question);
  return question.network.plugins.map((plugin) => planOne(plugin, question, ours)?.work);
}

/** Which plugins are done here, as the configuration and the programs of the moment decide. */
async function oursIn({ network, binDirs, inProcess }: PlanQuestion): Promise<IsOurs> {
  if (inProcess !== 'auto') return () => inProcess;
  if (network.source === BUILT_IN) return () => true;
  // Of the types that can be done here, those of the list, and those that one of them may call.
  const types = new Set([...network.plugins.map(({ type }) => type), 'host-local']);
  if (types.has('flannel')) types.add('bridge');
  const ours = new Set<string>();
  for (const type of types) {
    if (!REFERENCE_PLUGINS.includes(type)) continue;
    const found = await findTool(type, [...binDirs]);
    // A file on a mount that may hang is not read in this thread; its process does the work.
    if (found && !found.remote && isReferencePlugin(type, found.path)) ours.add(type);
  }
  return (type) => ours.has(type);
}

function planOne(plugin: PluginConf, { network, confOf, asksMac }: PlanQuestion, isOurs: IsOurs): Planned | undefined {
  if (!isOurs(plugin.type)) return undefined;
  try {
    const conf = confOf(plugin);
    const hanging = network.source === BUILT_IN ? undefined : pathsIn(plugin.type, conf).find(remoteMount);
    if (hanging !== undefined) throw new NotOurs(`${hanging}, on a mount that may hang`);
    return read(plugin.type, network.name, conf, isOurs, asksMac);
  } catch (error) {
    if (error instanceof NotOurs) return undefined;
    throw error;
  }
}

/** Files and folders of the host that the work would touch in this thread. */
function pathsIn(type: string, { ipam, subnetFile, dataDir }: Json): string[] {
  const own = type === 'flannel' ? [subnetFile || SUBNET_FILE, dataDir || DATA_FOLDER] : [];
  const { type: ipamType, dataDir: store, resolvConf } = isObject(ipam) ? ipam : {};
  const hostLocal = type === 'flannel' || ipamType === 'host-local' ? [store || HOST_LOCAL_FOLDER, resolvConf] : [];
  return [...own, ...hostLocal].filter((path) => typeof path === 'string' && path.startsWith('/')) as string[];
}

function read(type: string, network: string, conf: Json, isOurs: IsOurs, asksMac: boolean): Planned | undefined {
  switch (type) {
    case 'bridge': {
      const bridge = readBridge(network, conf, isOurs);
      const nat = bridge.ipMasq && bridge.ipam.type !== '' ? ipamFamilies(bridge.ipam, network, conf) : [];
      return { work: bridgeWork(bridge), types: [type, ...ipamTypes(bridge.ipam)], nat };
    }
    case 'ptp': {
      const ptp = readPtp(network, conf, isOurs);
      const nat = ptp.ipMasq ? ipamFamilies(ptp.ipam, network, conf) : [];
      return { work: ptpWork(ptp), types: [type, ...ipamTypes(ptp.ipam)], nat };
    }
    case 'flannel':
      return {
        work: flannelWork(readFlannel(network, conf, isOurs)),
        types: [type, 'bridge', 'host-local'],
        nat: [4],
      };
    case 'portmap': {
      const portmap = readPortmap(conf);
      return { work: portmapWork(portmap), types: [type], nat: mapsPorts(portmap) ? [4] : [] };
    }
    case 'tuning':
      return asksMac ? undefined : { work: tuningWork(readTuning(conf)), types: [type], nat: [] };
    case 'loopback':
      readLoopback(conf);
      return { work: loopbackWork, types: [type], nat: [] };
    default:
      return undefined;
  }
}

const ipamTypes = ({ type, inProcess }: Ipam): string[] => (inProcess ? [type] : []);

/** Why nf_tables can't be used here; undefined when it can. The tables stay for the pods to come. */
function refusedTables(network: string, families: readonly (4 | 6)[]): string | undefined {
  if (families.length === 0) return undefined;
  try {
    const socket = nftablesSocket();
    for (const family of families) prepareTable(socket, family === 4 ? FAMILY.IPV4 : FAMILY.IPV6, network);
    return undefined;
  } catch (error) {
    return reasonOf(error);
  }
}
