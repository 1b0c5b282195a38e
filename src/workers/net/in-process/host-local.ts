/** host-local: an address for the pod from each range set of the configuration, kept in files (host-local-store.ts). */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Address, addressText, parseAddress, parsePrefix, prefixText } from '../../../sys/ip.ts';
import { isObject, type Json } from '../../json.ts';
import { atLeast } from '../cni-version.ts';
import type { CniResult } from '../types.ts';
import { type Call, cniArg, type GcCall, type Owner } from './call.ts';
import { Fields, NotOurs } from './fields.ts';
import { type Store, withStore } from './host-local-store.ts';
import { candidates, RANGE_KEYS, type RangeSet, rangeOf, readRangeSet, refuseOverlaps, setText } from './ranges.ts';
import { during, Refusal } from './refusal.ts';

export const DEFAULT_FOLDER = '/var/lib/cni/networks';
const KEYS = ['type', 'name', 'routes', 'dataDir', 'resolvConf', 'ranges', ...RANGE_KEYS];

/** The part of a result that IPAM plugins make. */
export type IpamResult = Pick<CniResult, 'ips' | 'routes' | 'dns'>;

interface Settings {
  folder: string;
  sets: RangeSet[];
  routes: { dst: string; gw?: string }[];
  resolvConf: string;
  requested: Address[];
}

/** Is this a configuration that can be handled here? Throws NotOurs otherwise; what is wrong with it shows at ADD. */
export function readHostLocal(network: string, conf: Json): void {
  try {
    settingsOf(network, conf, '');
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
  }
}

/** The families in which pods get addresses, as far as the configuration says; 4 and 6. */
export function familiesOf(network: string, conf: Json): (4 | 6)[] {
  try {
    const { sets } = settingsOf(network, conf, '');
    return [...new Set(sets.map(([range]) => (range?.first.length === 16 ? 6 : 4)))];
  } catch {
    return [4]; // it shows at ADD
  }
}

export async function hostLocalAdd(call: Call): Promise<IpamResult> {
  const settings = settingsOf(call.network.name, call.conf, cniArg(call.attachment, 'IP'), call.network.cniVersion);
  const owner = ownerOf(call);
  const dns = settings.resolvConf === '' ? undefined : during('', () => resolvConf(settings.resolvConf));
  const ips = await withStore(settings.folder, call.limitMs, (store) => {
    try {
      return allocate(store, settings, owner, call.isNew);
    } catch (error) {
      if (error instanceof Halfway) store.release(owner, error.taken);
      throw error;
    }
  });
  return { ips, routes: settings.routes, ...(dns ? { dns } : {}) };
}

/** Gives the addresses back; `known` ones spare reading the whole folder. */
export async function hostLocalDel(call: Call, known: readonly Address[]): Promise<void> {
  const folder = folderAtDel(call);
  if (folder === undefined) return;
  await withStore(folder, call.limitMs, (store) => store.release(ownerOf(call), known));
}

/** The addresses that the files name for this pod: those of an ADD that never finished too. */
export async function hostLocalHolds(call: Call): Promise<Address[]> {
  const folder = folderAtDel(call);
  return folder === undefined ? [] : withStore(folder, call.limitMs, (store) => store.addressesOf(ownerOf(call)));
}

/**
 * The folder of addresses; undefined when nothing was ever put there, for DEL must not fail for ever: with a
 * configuration that ADD refused, or where the folder can't even be made.
 */
function folderAtDel(call: Call): string | undefined {
  try {
    const { folder } = settingsOf(call.network.name, call.conf, '');
    return existsSync(folder) ? folder : undefined;
  } catch (error) {
    if (error instanceof Refusal) return undefined;
    throw error;
  }
}

export async function hostLocalCheck(call: Call): Promise<void> {
  if ((await hostLocalHolds(call)).length === 0) {
    throw new Refusal(`host-local: Failed to find address added by container ${call.attachment.containerId}`);
  }
}

/** Gives back the addresses that belong to no attachment, and returns what that was, in words. */
export async function hostLocalGc(call: GcCall): Promise<string[]> {
  const { folder } = settingsOf(call.network.name, call.conf, '');
  if (!existsSync(folder)) return [];
  return withStore(folder, call.limitMs, (store) => store.releaseOthers(call));
}

const ownerOf = ({ attachment: { containerId, ifName } }: Call): Owner => ({ containerId, ifName });

/** A failure after some sets had given their address, which go back. */
class Halfway extends Refusal {
  readonly taken: Address[];

  constructor(message: string, taken: Address[]) {
    super(message);
    this.taken = taken;
  }
}

function allocate(
  store: Store,
  { sets, requested }: Settings,
  owner: Owner,
  isNew: boolean,
): NonNullable<CniResult['ips']> {
  const taken: Address[] = [];
  const wanted = [...requested];
  const ips = sets.map((set, index) => {
    const at = wanted.findIndex((address) => rangeOf(set, address));
    const [asked] = at < 0 ? [] : wanted.splice(at, 1);
    try {
      if (!asked && !isNew) refuseSecond(store, set, owner);
      const { address, range } = asked
        ? reserveOne(store, set, asked, owner, index)
        : reserveNext(store, set, owner, index);
      taken.push(address);
      return {
        address: prefixText({ address, length: range.subnet.length }),
        gateway: addressText(range.gateway),
      };
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      throw new Halfway(`failed to allocate for range ${index}: ${error.message}`, taken);
    }
  });
  if (wanted.length > 0) {
    throw new Halfway(`failed to allocate all requested IPs: ${wanted.map(addressText).join(' ')}`, taken);
  }
  return ips;
}

function reserveOne(store: Store, set: RangeSet, address: Address, owner: Owner, index: number) {
  const range = rangeOf(set, address);
  if (!range) throw new Refusal(`${addressText(address)} not in range set ${setText(set)}`);
  if (address.equals(range.gateway)) throw new Refusal(`requested ip ${addressText(address)} is subnet's gateway`);
  if (!during('', () => store.reserve(owner, address, index))) {
    throw new Refusal(`requested IP address ${addressText(address)} is not available in range set ${setText(set)}`);
  }
  return { address, range };
}

/**
 * An ADD without a DEL after the last one gets nothing. Reads every file, so it is left out for an attachment that is
 * new.
 */
function refuseSecond(store: Store, set: RangeSet, owner: Owner): void {
  const before = store.addressesOf(owner).find((address) => rangeOf(set, address));
  if (!before) return;
  const text = `${addressText(before)} has been allocated to ${owner.containerId}`;
  throw new Refusal(`${text}, duplicate allocation is not allowed`);
}

function reserveNext(store: Store, set: RangeSet, owner: Owner, index: number) {
  for (const candidate of candidates(set, store.last(index))) {
    if (during('', () => store.reserve(owner, candidate.address, index))) return candidate;
  }
  throw new Refusal(`no IP addresses available in range set: ${setText(set)}`);
}

/**
 * Throws NotOurs for what only the program understands, and Refusal, in its words, for a configuration that cannot be
 * used.
 */
function settingsOf(network: string, conf: Json, requestedByArgs: string, cniVersion?: string): Settings {
  const fields = new Fields(conf.ipam, KEYS);
  const runtime = isObject(conf.runtimeConfig) ? conf.runtimeConfig : {};
  const ofRuntime = new Fields({ ipRanges: runtime.ipRanges, ips: runtime.ips }, ['ipRanges', 'ips']);
  const args = isObject(conf.args) && isObject(conf.args.cni) ? conf.args.cni : {};
  const ofArgs = new Fields({ ips: args.ips }, ['ips']);

  const requested = [
    ...(requestedByArgs === '' ? [] : [requestedByArgs]),
    ...ofArgs.list('ips'),
    ...ofRuntime.list('ips'),
  ].map(requestedAddress);
  const routes = fields.list('routes').map(routeOf);
  const folder = join(fields.text('dataDir') || DEFAULT_FOLDER, network);
  const resolvConfPath = fields.text('resolvConf');

  const lists = [...ofRuntime.list('ipRanges')];
  // The old way: a single range without a list around it.
  if (fields.text('subnet') !== '') {
    lists.push([Object.fromEntries(RANGE_KEYS.flatMap((key) => (fields.has(key) ? [[key, fields.text(key)]] : [])))]);
  }
  lists.push(...fields.list('ranges'));
  if (lists.length === 0) throw new Refusal('no IP ranges specified');
  const sets = lists.map((list, index) => during(`invalid range set ${index}`, () => readRangeSet(list)));
  const sixes = sets.filter(([range]) => range?.first.length === 16).length;
  if (cniVersion !== undefined && !atLeast(cniVersion, '0.3.0') && Math.max(sixes, sets.length - sixes) > 1) {
    throw new Refusal(`CNI version ${cniVersion} does not support more than 1 address per family`);
  }
  refuseOverlaps(sets);
  return { folder, sets, routes, resolvConf: resolvConfPath, requested };
}

function requestedAddress(value: unknown): Address {
  // A prefix may follow, which has no say.
  const address = typeof value === 'string' ? parseAddress(value.split('/')[0] ?? '') : undefined;
  if (!address) throw new NotOurs('a requested address that is none');
  return address;
}

function routeOf(value: unknown): { dst: string; gw?: string } {
  const fields = new Fields(value, ['dst', 'gw']);
  const dst = parsePrefix(fields.text('dst'));
  const gw = fields.text('gw') === '' ? undefined : parseAddress(fields.text('gw'));
  if (!dst || (fields.text('gw') !== '' && !gw)) throw new NotOurs('a route that is none');
  return { dst: prefixText(dst), ...(gw ? { gw: addressText(gw) } : {}) };
}

function resolvConf(path: string): NonNullable<CniResult['dns']> {
  const dns: NonNullable<CniResult['dns']> = {};
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    const [key = '', ...values] = line.trim().split(/\s+/);
    const [value] = values;
    if (value === undefined || /^[#;]/.test(key)) continue;
    if (key === 'nameserver') dns.nameservers = [...(dns.nameservers ?? []), value];
    else if (key === 'domain') dns.domain = value;
    else if (key === 'search') dns.search = [...(dns.search ?? []), ...values];
    else if (key === 'options') dns.options = [...(dns.options ?? []), ...values];
  }
  return dns;
}
