/**
 * Masquerading and host ports of one network, as a table of its own in nf_tables (one per address family): chains and
 * maps are made once, a pod is one element of a map for its way out and one for each of its host ports. The comment of
 * an element is its owner, container/interface, so that nothing is ever taken from another pod which has got the same
 * address or port since.
 *
 *     chain prerouting, output   to an address of this host: jump hostports
 *     chain hostports            jump marks, then lead to the pod that @ports_at (address and port) or @ports has
 *     chain marks                pods of the same subnet and localhost: set the mark, so that answers come back this way
 *     chain postrouting          jump marked, then what @pods says of the sender
 *     chain marked               packets with the mark: masquerade
 *     chain from_SUBNET          to the own subnet or to multicast: as it is; everything else: masquerade
 */
import {
  type Address,
  addressText,
  isSix,
  maskOf,
  networkOf,
  type Prefix,
  parsePrefix,
  prefixText,
} from '../../../sys/ip.ts';
import { SysError } from '../../../sys/libc.ts';
import { NetlinkError, type NetlinkSocket, type Request } from '../../../sys/netlink.ts';
import {
  addChain,
  addElements,
  addRule,
  addSet,
  addTable,
  commit,
  concatenation,
  deleteElements,
  deleteTable,
  type Element,
  expression,
  FAMILY,
  type Family,
  findElement,
  flushChain,
  HOOK,
  hasTable,
  listElements,
  PRIORITY,
  ruleComments,
  type SetName,
  TYPE,
} from '../../../sys/nftables.ts';
import { type GcCall, type Owner, ownerText } from './call.ts';
import { nftablesSocket } from './sockets.ts';

export type Protocol = 'tcp' | 'udp' | 'sctp';

export interface PortMapping {
  hostPort: number;
  containerPort: number;
  protocol: Protocol;
  /** The only address of the host that leads into the pod; absent for all. */
  hostAddress?: Address;
}

const PROTOCOL_NUMBER: Record<Protocol, number> = { tcp: 6, udp: 17, sctp: 132 };
/** RTN_LOCAL of <linux/rtnetlink.h>, as `fib daddr type local` compares it: in the machine's byte order. */
const LOCAL = Buffer.from([2, 0, 0, 0]);
const MULTICAST = { 4: parsePrefix('224.0.0.0/4'), 6: parsePrefix('ff00::/8') } as const;
const LOCALHOST = Buffer.from([127, 0, 0, 1]);
/** So often a change is tried anew that another thread or daemon got in the way of. */
const ATTEMPTS = 5;

export const tableName = (network: string): string => `sluice_${network}`;
export const familyOf = (address: Address): Family => (isSix(address) ? FAMILY.IPV6 : FAMILY.IPV4);
const families = [FAMILY.IPV4, FAMILY.IPV6] as const;

/**
 * What is known to be set up already, by this thread: table and part. A table that has vanished meanwhile shows at the
 * first use.
 */
const prepared = new Set<string>();

/**
 * Makes the network's table where it is missing. Throws what the kernel says: it may have no nf_tables or no NAT in it.
 */
export function prepareTable(socket: NetlinkSocket, family: Family, network: string): void {
  once(family, network, '', () => commit(socket, baseOf(family, tableName(network))));
}

function once(family: Family, network: string, part: string, work: () => void): void {
  const key = `${family} ${network} ${part}`;
  if (prepared.has(key)) return;
  work();
  prepared.add(key);
}

function forget(network: string): void {
  for (const key of prepared) if (key.split(' ')[1] === network) prepared.delete(key);
}

/** Chains, maps, and the rules that are the same for all networks. Repeating it changes nothing: elements stay. */
function baseOf(family: Family, table: string): Request[] {
  const four = family === FAMILY.IPV4;
  const address = { type: four ? TYPE.IPV4 : TYPE.IPV6, length: four ? 4 : 16 };
  const target = { type: concatenation(address.type, TYPE.SERVICE), length: address.length + 4 };
  const chain = (name: string, base?: { hook: number; priority: number }) => [
    addChain(family, table, name, base),
    flushChain(family, table, name),
  ];
  const rule = (name: string, ...expressions: Buffer[]) => addRule({ family, table, chain: name, expressions });
  const toHost = [expression.destinationKind(0), expression.compare(0, LOCAL), expression.jump('hostports')];
  const words = address.length / 4;
  return [
    addTable(family, table),
    addSet({ family, table, name: 'pods', key: address, data: 'verdict', id: 1 }),
    addSet({
      family,
      table,
      name: 'ports',
      key: { type: concatenation(TYPE.PROTOCOL, TYPE.SERVICE), length: 8 },
      data: target,
      id: 2,
    }),
    addSet({
      family,
      table,
      name: 'ports_at',
      key: { type: concatenation(address.type, TYPE.PROTOCOL, TYPE.SERVICE), length: address.length + 8 },
      data: target,
      id: 3,
    }),
    addChain(family, table, 'marks'),
    addChain(family, table, 'marked'),
    ...chain('hostports'),
    ...chain('prerouting', { hook: HOOK.PREROUTING, priority: PRIORITY.DNAT }),
    ...chain('output', { hook: HOOK.OUTPUT, priority: PRIORITY.DNAT }),
    ...chain('postrouting', { hook: HOOK.POSTROUTING, priority: PRIORITY.SNAT }),
    rule('hostports', expression.jump('marks')),
    rule('hostports', ...portsAtLookup(family), expression.destinationNat(family, 0, words)),
    rule('hostports', ...portsLookup(), expression.destinationNat(family, 0, words)),
    rule('prerouting', ...toHost),
    rule('output', ...toHost),
    rule('postrouting', expression.jump('marked')),
    rule('postrouting', loadAddress(family, 'source', 0), expression.verdictMap('pods', 0)),
  ];
}

/** Looks the packet's protocol and port up; the pod's address and port go into the registers from 0 on. */
const portsLookup = (): Buffer[] => [
  expression.protocol(0),
  expression.payload(1, 2, 2, 2), // the destination port is at the same place in TCP, UDP and SCTP
  expression.lookup('ports', 0, 0),
];

const portsAtLookup = (family: Family): Buffer[] => {
  const words = family === FAMILY.IPV4 ? 1 : 4;
  return [
    loadAddress(family, 'destination', 0),
    expression.protocol(words),
    expression.payload(words + 1, 2, 2, 2),
    expression.lookup('ports_at', 0, 0),
  ];
};

/** The IP header's source or destination into a register. */
function loadAddress(family: Family, which: 'source' | 'destination', register: number): Buffer {
  const at = { source: { 4: 12, 6: 8 }, destination: { 4: 16, 6: 24 } }[which];
  return family === FAMILY.IPV4
    ? expression.payload(register, 1, at[4], 4)
    : expression.payload(register, 1, at[6], 16);
}

/** Goes on when the address in the register belongs to the prefix, or with `not` when it does not. */
function within(register: number, { address, length }: Prefix, { not = false } = {}): Buffer[] {
  const mask = maskOf(address.length, length);
  return [
    expression.bitwise(register, mask, Buffer.alloc(mask.length)),
    expression.compare(register, networkOf({ address, length }), { not }),
  ];
}

const chainFrom = (subnet: Prefix): string =>
  `from_${addressText(networkOf(subnet)).replaceAll(':', '-')}_${subnet.length}`;

/**
 * Gives what the pod sends beyond its subnet the host's address. `ip` is the pod's address with its subnet's length.
 */
export function masquerade(socket: NetlinkSocket, network: string, owner: Owner, ip: Prefix): void {
  const family = familyOf(ip.address);
  const table = tableName(network);
  const name = chainFrom(ip);
  const multicast = MULTICAST[family === FAMILY.IPV4 ? 4 : 6];
  const element = { key: ip.address, data: { goto: name }, comment: ownerText(owner) };
  persist(network, () => {
    prepareTable(socket, family, network);
    once(family, network, name, () =>
      commit(socket, [
        addChain(family, table, name),
        flushChain(family, table, name),
        addRule({
          family,
          table,
          chain: name,
          expressions: [loadAddress(family, 'destination', 0), ...within(0, ip), expression.leave()],
        }),
        addRule({
          family,
          table,
          chain: name,
          expressions: [
            loadAddress(family, 'destination', 0),
            ...(multicast ? within(0, multicast, { not: true }) : []),
            expression.masquerade(),
          ],
        }),
      ]),
    );
    put(socket, [{ set: { family, table, set: 'pods' }, element }]);
  });
}

export interface PortOptions {
  /**
   * Traffic from the pod's own subnet and from localhost gets the host's address, without which answers would go
   * astray.
   */
  snat: boolean;
  /** The bit of the packet mark that carries this from one chain to the other. */
  markBit: number;
}

/**
 * Leads ports of the host to the pod. `ip` is the pod's address with its subnet's length; mappings of the other family
 * are left out.
 */
export function mapPorts(
  socket: NetlinkSocket,
  network: string,
  owner: Owner,
  ip: Prefix,
  mappings: readonly PortMapping[],
  options: PortOptions,
): void {
  const family = familyOf(ip.address);
  const table = tableName(network);
  const elements = mappings.flatMap((mapping) => {
    const key = keyOf(family, table, mapping);
    const data = Buffer.concat([ip.address, word(mapping.containerPort)]);
    return key ? [{ set: key.set, element: { key: key.key, data, comment: ownerText(owner) } }] : [];
  });
  if (elements.length === 0) return;
  persist(network, () => {
    prepareTable(socket, family, network);
    if (options.snat) prepareMarks(socket, network, ip, options.markBit);
    put(socket, elements);
  });
}

/** The rules that mark connections from a subnet and from localhost, and those that masquerade by the mark. */
function prepareMarks(socket: NetlinkSocket, network: string, subnet: Prefix, bit: number): void {
  const family = familyOf(subnet.address);
  const table = tableName(network);
  const mask = Buffer.alloc(4);
  mask.writeUInt32LE((1 << bit) >>> 0);
  const rest = Buffer.from(mask.map((byte) => ~byte & 0xff));
  const zero = Buffer.alloc(4);
  const target = Buffer.alloc(family === FAMILY.IPV4 ? 8 : 16); // a comparison takes 16 bytes at most
  const setMark = [expression.loadMark(0), expression.bitwise(0, rest, mask), expression.storeMark(0)];

  const marks = (name: string, from: Buffer[]) => {
    once(family, network, `marks ${name} ${bit}`, () => {
      const comment = `${name} ${bit}`;
      if (ruleComments(socket, family, table, 'marks').includes(comment)) return;
      // A map's answer is compared with nothing at all: that it has one is what counts.
      const mapped = [portsAtLookup(family), portsLookup()];
      commit(
        socket,
        mapped.map((lookup) =>
          addRule({
            family,
            table,
            chain: 'marks',
            comment,
            expressions: [...from, ...lookup, expression.compare(0, target, { not: true }), ...setMark],
          }),
        ),
      );
    });
  };
  marks(prefixText({ address: networkOf(subnet), length: subnet.length }), [
    loadAddress(family, 'source', 0),
    ...within(0, subnet),
  ]);
  if (family === FAMILY.IPV4) marks('localhost', [loadAddress(family, 'source', 0), expression.compare(0, LOCALHOST)]);

  once(family, network, `marked ${bit}`, () => {
    const comment = `mark ${bit}`;
    if (ruleComments(socket, family, table, 'marked').includes(comment)) return;
    const marked = [expression.loadMark(0), expression.bitwise(0, mask, zero), expression.compare(0, mask)];
    commit(socket, [
      addRule({ family, table, chain: 'marked', comment, expressions: [...marked, expression.masquerade()] }),
    ]);
  });
}

/**
 * Takes out what the owner has for these addresses and mappings; what is not there, or has become another's, is left
 * alone.
 */
export function release(
  socket: NetlinkSocket,
  network: string,
  owner: Owner,
  addresses: readonly Address[],
  mappings: readonly PortMapping[],
): void {
  const table = tableName(network);
  const keys = [
    ...addresses.map((key) => ({ set: { family: familyOf(key), table, set: 'pods' }, key })),
    ...families.flatMap((family) => mappings.flatMap((mapping) => keyOf(family, table, mapping) ?? [])),
  ];
  takeOut(socket, () => keys.filter(({ set, key }) => findElement(socket, set, key)?.comment === ownerText(owner)));
}

/** Takes out what belongs to nobody, and returns what that was, in words. No table, no work. */
export function releaseOthers(network: string, { isValid, dryRun }: Pick<GcCall, 'isValid' | 'dryRun'>): string[] {
  const socket = openIfSupported();
  if (!socket) return [];
  const table = tableName(network);
  const said = new Set<string>();
  const find = () =>
    families.flatMap((family) =>
      (['pods', 'ports', 'ports_at'] as const).flatMap((name) => {
        const set = { family, table, set: name };
        return listElements(socket, set).flatMap(({ key, comment }) => {
          const owner = comment === undefined ? undefined : ownerOf(comment);
          if (!owner || isValid(owner)) return [];
          said.add(`${elementText(name, key)} of ${ownerText(owner)}`);
          return [{ set, key }];
        });
      }),
    );
  if (dryRun) find();
  else takeOut(socket, find);
  return [...said];
}

/** The owner in a comment; neither name has a slash. Undefined for a comment that is not ours. */
function ownerOf(comment: string): Owner | undefined {
  const [containerId, ifName, ...more] = comment.split('/');
  return containerId && ifName && more.length === 0 ? { containerId, ifName } : undefined;
}

function elementText(set: 'pods' | 'ports' | 'ports_at', key: Buffer): string {
  if (set === 'pods') return `masquerading of ${addressText(key)}`;
  // A register each for the protocol and the port, after that of the address.
  const [protocol, port] = [key.readUInt8(key.length - 8), key.readUInt16BE(key.length - 4)];
  const name = Object.entries(PROTOCOL_NUMBER).find(([, number]) => number === protocol)?.[0] ?? protocol;
  const at = set === 'ports_at' ? ` at ${addressText(key.subarray(0, -8))}` : '';
  return `host port ${port}/${name}${at}`;
}

/** Is this mapping in force, for this owner? */
export function isMapped(
  socket: NetlinkSocket,
  network: string,
  owner: Owner,
  ip: Prefix,
  mapping: PortMapping,
): boolean {
  const key = keyOf(familyOf(ip.address), tableName(network), mapping);
  return !key || findElement(socket, key.set, key.key)?.comment === ownerText(owner);
}

/** Is this address masqueraded, for this owner? */
export const isMasqueraded = (socket: NetlinkSocket, network: string, owner: Owner, { address }: Prefix): boolean =>
  findElement(socket, { family: familyOf(address), table: tableName(network), set: 'pods' }, address)?.comment ===
  ownerText(owner);

/** Deletes all that was made for a network. A kernel without tables, or without nf_tables, is fine. */
export function removeTables(network: string): void {
  const socket = openIfSupported();
  if (!socket) return;
  for (const family of families) {
    if (hasTable(socket, family, tableName(network))) commit(socket, [deleteTable(family, tableName(network))]);
  }
  forget(network);
}

function openIfSupported(): NetlinkSocket | undefined {
  try {
    return nftablesSocket();
  } catch (error) {
    if (error instanceof SysError) return undefined;
    throw error;
  }
}

/** Where a mapping stands; undefined when its host address is of the other family. */
function keyOf(family: Family, table: string, mapping: PortMapping): { set: SetName; key: Buffer } | undefined {
  const { hostAddress, hostPort, protocol } = mapping;
  if (hostAddress && familyOf(hostAddress) !== family) return undefined;
  const port = [Buffer.from([PROTOCOL_NUMBER[protocol], 0, 0, 0]), word(hostPort)];
  if (!hostAddress || hostAddress.every((byte) => byte === 0)) {
    return { set: { family, table, set: 'ports' }, key: Buffer.concat(port) };
  }
  return { set: { family, table, set: 'ports_at' }, key: Buffer.concat([hostAddress, ...port]) };
}

/** A port as it lies in a register: network order, at the beginning of the word. */
const word = (port: number): Buffer => Buffer.from([port >> 8, port & 0xff, 0, 0]);

interface Placed {
  set: SetName;
  element: Element;
}

/** Puts elements in, in one batch. A key that leads elsewhere is taken over: the newest pod is the one that lives. */
function put(socket: NetlinkSocket, elements: Placed[]): void {
  for (let attempt = 1; ; attempt++) {
    const before =
      attempt === 1 ? [] : elements.filter(({ set, element }) => findElement(socket, set, element.key) !== undefined);
    try {
      commit(socket, [
        ...before.map(({ set, element }) => deleteElements(set, [element.key])),
        ...elements.map(({ set, element }) => addElements(set, [element])),
      ]);
      return;
    } catch (error) {
      const raced = error instanceof NetlinkError && ['EEXIST', 'ENOENT'].includes(error.code);
      if (!raced || attempt === ATTEMPTS || (attempt === 1 && error.code === 'ENOENT')) throw error;
    }
  }
}

function takeOut(socket: NetlinkSocket, find: () => { set: SetName; key: Buffer }[]): void {
  for (let attempt = 1; ; attempt++) {
    const found = find();
    if (found.length === 0) return;
    try {
      commit(
        socket,
        found.map(({ set, key }) => deleteElements(set, [key])),
      );
      return;
    } catch (error) {
      if (!(error instanceof NetlinkError) || error.code !== 'ENOENT' || attempt === ATTEMPTS) throw error;
    }
  }
}

/**
 * Does the work; when the table has vanished since this thread made it (`nft flush ruleset`), makes it again and
 * repeats.
 */
function persist(network: string, work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof NetlinkError) || error.code !== 'ENOENT') throw error;
    forget(network);
    work();
  }
}
