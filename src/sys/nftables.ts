/**
 * nf_tables over netlink: tables, chains, rules, sets and maps, changed in batches of which all or nothing counts
 * (numbers from <linux/netfilter/nf_tables.h>, nfnetlink.h and nf_nat.h).
 */
import {
  type Answer,
  attribute,
  attributeBe32,
  attributesOf,
  attributeText,
  listOf,
  NETLINK,
  NetlinkSocket,
  NLM_F,
  nested,
  type Outcome,
  type Request,
  textOf,
} from './netlink.ts';

const NFNL_SUBSYS_NFTABLES = 10;
const NFNL_MSG_BATCH_BEGIN = 0x10;
const NFNL_MSG_BATCH_END = 0x11;

const MSG = {
  NEWTABLE: 0,
  GETTABLE: 1,
  DELTABLE: 2,
  NEWCHAIN: 3,
  NEWRULE: 6,
  GETRULE: 7,
  DELRULE: 8,
  NEWSET: 9,
  NEWSETELEM: 12,
  GETSETELEM: 13,
  DELSETELEM: 14,
} as const;

export const FAMILY = { IPV4: 2, IPV6: 10 } as const;
export type Family = (typeof FAMILY)[keyof typeof FAMILY];

export const HOOK = { PREROUTING: 0, OUTPUT: 3, POSTROUTING: 4 } as const;
/** Where the hooks of NAT stand among others (enum nf_ip_hook_priorities). */
export const PRIORITY = { DNAT: -100, SNAT: 100 } as const;

/** Types as nft(8) shows keys and data; concatenations have six bits each, the first one in the highest. */
export const TYPE = { IPV4: 7, IPV6: 8, PROTOCOL: 12, SERVICE: 13 } as const;
export const concatenation = (...types: number[]): number => types.reduce((all, type) => (all << 6) | type, 0);
const TYPE_VERDICT = 0xffffff00;
const NFT_SET_MAP = 8;

const VERDICT = { JUMP: -3, GOTO: -4, RETURN: -5 } as const;
/** The first of the sixteen 32-bit registers (NFT_REG32_00). */
const REG0 = 8;

const LIST_ELEM = 1;
/**
 * Type of a comment in the user data of rules and elements (libnftnl: NFTNL_UDATA_RULE_COMMENT,
 * NFTNL_UDATA_SET_ELEM_COMMENT).
 */
const COMMENT = 0;
/** The length of a comment is one byte and counts its zero; nft shows at most 128 bytes. */
const COMMENT_SIZE = 127;

/**
 * A socket for the tables of the namespace that this thread is in now; `kept`: until the thread ends. Throws SysError
 * where the kernel has no netfilter.
 */
export const openNftables = (how?: { kept: boolean }): NetlinkSocket => new NetlinkSocket(NETLINK.NETFILTER, how);

/** Carries out all changes, or none of them and throws the first {@link NetlinkError}. */
export function commit(socket: NetlinkSocket, changes: Request[]): void {
  const frame = (type: number): Request => ({ type, body: generic(0, NFNL_SUBSYS_NFTABLES), silent: true });
  const outcomes: Outcome[] = socket.exchange([frame(NFNL_MSG_BATCH_BEGIN), ...changes, frame(NFNL_MSG_BATCH_END)]);
  for (const { error } of outcomes) if (error) throw error;
}

/** Makes the table unless it is there. */
export const addTable = (family: Family, table: string): Request =>
  message(MSG.NEWTABLE, family, NLM_F.CREATE, [attributeText(1, table)]);

/** Deletes a table and all that is in it; ENOENT where there is none. */
export const deleteTable = (family: Family, table: string): Request =>
  message(MSG.DELTABLE, family, 0, [attributeText(1, table)]);

/** Is there such a table? Throws NetlinkError for anything but yes and no. */
export function hasTable(socket: NetlinkSocket, family: Family, table: string): boolean {
  const [outcome] = socket.exchange([message(MSG.GETTABLE, family, 0, [attributeText(1, table)])]);
  if (outcome?.error && outcome.error.code !== 'ENOENT') throw outcome.error;
  return !outcome?.error;
}

/** The names of all tables of a family. */
export const listTables = (socket: NetlinkSocket, family: Family): string[] =>
  socket.dump(type(MSG.GETTABLE), generic(family, 0)).flatMap(({ body }) => textOf(attributesOf(body, 4).get(1)) ?? []);

export interface BaseChain {
  hook: number;
  priority: number;
}

/** Makes the chain unless it is there; with a hook it sees packets by itself, as one of NAT. */
export function addChain(family: Family, table: string, name: string, base?: BaseChain): Request {
  const attributes = [attributeText(1, table), attributeText(3, name)];
  if (base) {
    attributes.push(nested(4, [attributeBe32(1, base.hook), attributeBe32(2, base.priority)]), attributeText(7, 'nat'));
  }
  return message(MSG.NEWCHAIN, family, NLM_F.CREATE, attributes);
}

/** Deletes all rules of a chain; one without rules is fine. */
export const flushChain = (family: Family, table: string, chain: string): Request =>
  message(MSG.DELRULE, family, 0, [attributeText(1, table), attributeText(2, chain)]);

export interface NewRule {
  family: Family;
  table: string;
  chain: string;
  expressions: Buffer[];
  comment?: string;
}

/** Appends a rule. */
export function addRule({ family, table, chain, expressions, comment }: NewRule): Request {
  const attributes = [
    attributeText(1, table),
    attributeText(2, chain),
    nested(
      4,
      expressions.map((expression) => nested(LIST_ELEM, [expression])),
    ),
  ];
  if (comment !== undefined) attributes.push(attribute(7, commentData(comment)));
  return message(MSG.NEWRULE, family, NLM_F.CREATE | NLM_F.APPEND, attributes);
}

/** The comments of a chain's rules. */
export function ruleComments(socket: NetlinkSocket, family: Family, table: string, chain: string): string[] {
  const filter = Buffer.concat([generic(family, 0), attributeText(1, table), attributeText(2, chain)]);
  return socket.dump(type(MSG.GETRULE), filter).flatMap(({ body }) => commentOf(attributesOf(body, 4).get(7)) ?? []);
}

export interface NewSet {
  family: Family;
  table: string;
  name: string;
  /** {@link TYPE}, {@link concatenation}, and the length in bytes, each part padded to four. */
  key: { type: number; length: number };
  /** Makes it a map. */
  data?: { type: number; length: number } | 'verdict';
  /** A number of its own in the batch. */
  id: number;
}

/** Makes a set or map unless it is there. */
export function addSet({ family, table, name, key, data, id }: NewSet): Request {
  const attributes = [
    attributeText(1, table),
    attributeText(2, name),
    attributeBe32(3, data ? NFT_SET_MAP : 0),
    attributeBe32(4, key.type),
    attributeBe32(5, key.length),
    attributeBe32(10, id),
  ];
  if (data === 'verdict') attributes.push(attributeBe32(6, TYPE_VERDICT), attributeBe32(7, 16));
  else if (data) attributes.push(attributeBe32(6, data.type), attributeBe32(7, data.length));
  return message(MSG.NEWSET, family, NLM_F.CREATE, attributes);
}

export interface Element {
  key: Buffer;
  /** What a map leads to: bytes, or the chain where evaluation goes on. */
  data?: Buffer | { goto: string };
  comment?: string;
}

export interface SetName {
  family: Family;
  table: string;
  set: string;
}

/** Puts elements in; one that is there already is fine when it is the same, and EEXIST when the map leads elsewhere. */
export const addElements = (set: SetName, elements: Element[]): Request =>
  message(MSG.NEWSETELEM, set.family, NLM_F.CREATE, elementList(set, elements));

/** Takes elements out by their keys; ENOENT when one is not there. */
export const deleteElements = (set: SetName, keys: Buffer[]): Request =>
  message(
    MSG.DELSETELEM,
    set.family,
    0,
    elementList(
      set,
      keys.map((key) => ({ key })),
    ),
  );

/** What a set or map holds; empty where there is none. */
export function listElements(socket: NetlinkSocket, set: SetName): (Element & { data?: Buffer })[] {
  const filter = Buffer.concat([generic(set.family, 0), attributeText(1, set.table), attributeText(2, set.set)]);
  return elementsOf(absentIsEmpty(() => socket.dump(type(MSG.GETSETELEM), filter)));
}

/** The element with this key; undefined where there is none. */
export function findElement(
  socket: NetlinkSocket,
  set: SetName,
  key: Buffer,
): (Element & { data?: Buffer }) | undefined {
  const request = message(MSG.GETSETELEM, set.family, 0, elementList(set, [{ key }]));
  return elementsOf(absentIsEmpty(() => socket.request(request)))[0];
}

function absentIsEmpty(ask: () => Answer[]): Answer[] {
  try {
    return ask();
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return [];
    throw error;
  }
}

function elementList({ table, set }: SetName, elements: Element[]): Buffer[] {
  const each = elements.map(({ key, data, comment }) => {
    const parts = [nested(1, [attribute(1, key)])];
    if (Buffer.isBuffer(data)) parts.push(nested(2, [attribute(1, data)]));
    else if (data) parts.push(nested(2, [verdict(VERDICT.GOTO, data.goto)]));
    if (comment !== undefined) parts.push(attribute(6, commentData(comment)));
    return nested(LIST_ELEM, parts);
  });
  return [attributeText(1, table), attributeText(2, set), nested(3, each)];
}

function elementsOf(answers: Answer[]): (Element & { data?: Buffer })[] {
  return answers.flatMap(({ body }) => {
    const list = attributesOf(body, 4).get(3);
    if (!list) return [];
    return listOf(list).flatMap(([, element]) => {
      const parts = attributesOf(element);
      const value = (which: number) => {
        const part = parts.get(which);
        return part && attributesOf(part).get(1);
      };
      const key = value(1);
      return key ? [{ key, data: value(2), comment: commentOf(parts.get(6)) }] : [];
    });
  });
}

/**
 * Expressions, of which a rule is a list. Each reads registers and sets others, or ends the rule when it does not
 * match. Registers are counted here in words of 32 bits, from 0.
 */
export const expression = {
  /** The packet's transport protocol (one byte) into a register. */
  protocol: (register: number): Buffer =>
    named('meta', [attributeBe32(1, REG0 + register), attributeBe32(2, 16 /* NFT_META_L4PROTO */)]),
  loadMark: (register: number): Buffer =>
    named('meta', [attributeBe32(1, REG0 + register), attributeBe32(2, 3 /* NFT_META_MARK */)]),
  storeMark: (register: number): Buffer => named('meta', [attributeBe32(2, 3), attributeBe32(3, REG0 + register)]),
  /** Bytes of the network header (base 1) or the transport header (base 2) into a register. */
  payload: (register: number, base: 1 | 2, offset: number, length: number): Buffer =>
    named('payload', [
      attributeBe32(1, REG0 + register),
      attributeBe32(2, base),
      attributeBe32(3, offset),
      attributeBe32(4, length),
    ]),
  /** Goes on when the register holds these bytes, or with `not` any others. */
  compare: (register: number, data: Buffer, { not = false } = {}): Buffer =>
    named('cmp', [attributeBe32(1, REG0 + register), attributeBe32(2, not ? 1 : 0), nested(3, [attribute(1, data)])]),
  /** register = (register & mask) ^ xor */
  bitwise: (register: number, mask: Buffer, xor: Buffer): Buffer =>
    named('bitwise', [
      attributeBe32(1, REG0 + register),
      attributeBe32(2, REG0 + register),
      attributeBe32(3, mask.length),
      nested(4, [attribute(1, mask)]),
      nested(5, [attribute(1, xor)]),
    ]),
  /** Goes on when the set has the key in the register; a map's data go into `into`. */
  lookup: (set: string, register: number, into?: number): Buffer =>
    named('lookup', [
      attributeText(1, set),
      attributeBe32(2, REG0 + register),
      ...(into === undefined ? [] : [attributeBe32(3, REG0 + into)]),
    ]),
  /** The verdict that the map has for the key in the register. */
  verdictMap: (map: string, register: number): Buffer =>
    named('lookup', [
      attributeText(1, map),
      attributeBe32(2, REG0 + register),
      attributeBe32(3, 0 /* NFT_REG_VERDICT */),
    ]),
  jump: (chain: string): Buffer => named('immediate', [attributeBe32(1, 0), nested(2, [verdict(VERDICT.JUMP, chain)])]),
  leave: (): Buffer => named('immediate', [attributeBe32(1, 0), nested(2, [verdict(VERDICT.RETURN)])]),
  /** The kind of the destination address (RTN_LOCAL is 2) into a register. */
  destinationKind: (register: number): Buffer =>
    named('fib', [
      attributeBe32(1, REG0 + register),
      attributeBe32(2, 3 /* ADDRTYPE */),
      attributeBe32(3, 2 /* DADDR */),
    ]),
  /** Leads the connection to the address and port in the registers. Ends the rule and the chain. */
  destinationNat: (family: Family, address: number, port: number): Buffer =>
    named('nat', [
      attributeBe32(1, 1 /* NFT_NAT_DNAT */),
      attributeBe32(2, family),
      attributeBe32(3, REG0 + address),
      attributeBe32(5, REG0 + port),
    ]),
  /** Gives the connection the address of the interface that it leaves by. */
  masquerade: (): Buffer => named('masq', []),
};

const named = (name: string, attributes: Buffer[]): Buffer =>
  Buffer.concat([attributeText(1, name), nested(2, attributes)]);

function verdict(code: number, chain?: string): Buffer {
  const attributes = [attributeBe32(1, code)];
  if (chain !== undefined) attributes.push(attributeText(2, chain));
  return nested(2, attributes);
}

function commentData(text: string): Buffer {
  const bytes = Buffer.from(`${Buffer.from(text).subarray(0, COMMENT_SIZE).toString('utf8')}\0`);
  return Buffer.concat([Buffer.from([COMMENT, bytes.length]), bytes]);
}

/** The comment among the user data: type, length and value, one after the other. */
function commentOf(data: Buffer | undefined): string | undefined {
  for (let at = 0; data && at + 2 <= data.length; at += 2 + (data[at + 1] ?? 0)) {
    if (data[at] === COMMENT) return textOf(data.subarray(at + 2, at + 2 + (data[at + 1] ?? 0)));
  }
  return undefined;
}

const type = (kind: number): number => (NFNL_SUBSYS_NFTABLES << 8) | kind;

const message = (kind: number, family: number, flags: number, attributes: Buffer[]): Request => ({
  type: type(kind),
  flags,
  body: Buffer.concat([generic(family, 0), ...attributes]),
});

/** struct nfgenmsg: family, version, resource. */
function generic(family: number, resource: number): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt8(family, 0);
  header.writeUInt16BE(resource, 2);
  return header;
}
