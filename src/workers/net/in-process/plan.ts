/** Who carries out each plugin of a list: a thread of ours, or the plugin's own program. */
import { FAMILY } from '../../../sys/nftables.ts';
import type { Json } from '../../json.ts';
import { findTool } from '../programs.ts';
import type { NetworkConf, PluginConf } from '../types.ts';
import { bridgeWork, readBridge } from './bridge.ts';
import type { Work } from './call.ts';
import { NotOurs } from './fields.ts';
import { prepareTable } from './firewall.ts';
import { flannelWork, readFlannel } from './flannel.ts';
import { type Ipam, ipamFamilies } from './ipam.ts';
import { loopbackWork, readLoopback } from './loopback.ts';
import { mapsPorts, portmapWork, readPortmap } from './portmap.ts';
import { ptpWork, readPtp } from './ptp.ts';
import { isReferencePlugin } from './reference.ts';
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
export function planAdd(question: PlanQuestion): Plan {
  const notes: string[] = [];
  const types: string[] = [];
  const works = question.network.plugins.map((plugin) => {
    const planned = planOne(plugin, question);
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
export function planLater(question: PlanQuestion, made: readonly string[] | undefined): (Work | undefined)[] {
  return question.network.plugins.map((plugin) => {
    if (made === undefined) return planOne(plugin, question)?.work;
    if (!made.includes(plugin.type)) return undefined;
    return planOne(plugin, { ...question, inProcess: true }, made)?.work;
  });
}

function planOne(plugin: PluginConf, question: PlanQuestion, made?: readonly string[]): Planned | undefined {
  const { network, binDirs, inProcess, confOf, asksMac } = question;
  if (inProcess === false) return undefined;
  // IPAM was done here by an ADD when the list says so.
  const isOurs = (type: string): boolean => {
    if (made) return made.includes(type);
    if (inProcess === true || network.source === BUILT_IN) return true;
    const path = findTool(type, [...binDirs]);
    return path !== undefined && isReferencePlugin(type, path);
  };
  if (!isOurs(plugin.type)) return undefined;
  try {
    return read(plugin.type, network.name, confOf(plugin), isOurs, asksMac);
  } catch (error) {
    if (error instanceof NotOurs) return undefined;
    throw error;
  }
}

function read(
  type: string,
  network: string,
  conf: Json,
  isOurs: (type: string) => boolean,
  asksMac: boolean,
): Planned | undefined {
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
