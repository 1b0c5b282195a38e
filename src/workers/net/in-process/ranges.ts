/**
 * The address ranges of host-local's configuration, and the walk through them: the reference plugin's rules and words.
 */
import {
  type Address,
  addressText,
  contains,
  isSix,
  lastOf,
  neighbour,
  networkOf,
  type Prefix,
  parseAddress,
  parsePrefix,
  prefixText,
} from '../../../sys/ip.ts';
import { Fields, NotOurs } from './fields.ts';
import { Refusal } from './refusal.ts';

export interface Range {
  subnet: Prefix;
  /** Both inclusive. */
  first: Address;
  last: Address;
  gateway: Address;
}

/** Ranges that are one pool: a pod gets one address from each set. */
export type RangeSet = Range[];

export const RANGE_KEYS = ['subnet', 'rangeStart', 'rangeEnd', 'gateway'];

/** Reads one set. Throws NotOurs for texts that are not addresses, Refusal for addresses that make no range. */
export function readRangeSet(json: unknown): RangeSet {
  if (!Array.isArray(json)) throw new NotOurs('a range set that is not a list');
  if (json.length === 0) throw new Refusal('empty range set');
  const set = json.map((each) => readRange(new Fields(each, RANGE_KEYS)));
  const [first] = set;
  if (set.some(({ first: start }) => first && isSix(start) !== isSix(first.first))) {
    throw new Refusal('mixed address families');
  }
  for (const [index, one] of set.entries()) {
    const other = set.slice(index + 1).find((candidate) => overlap(one, candidate));
    if (other) throw new Refusal(`subnets ${rangeText(one)} and ${rangeText(other)} overlap`);
  }
  return set;
}

function readRange(fields: Fields): Range {
  const subnet = parsePrefix(fields.text('subnet'));
  if (!subnet) throw new NotOurs('a subnet that is none');
  const bits = subnet.address.length * 8;
  if (subnet.length > bits - 2) throw new Refusal(`Network ${prefixText(subnet)} too small to allocate from`);
  const network = networkOf(subnet);
  if (!network.equals(subnet.address)) {
    throw new Refusal(
      `Network has host bits set. For a subnet mask of length ${subnet.length} the network address is ${addressText(network)}`,
    );
  }
  const given = (key: string): Address | undefined => {
    if (fields.text(key) === '') return undefined;
    const address = parseAddress(fields.text(key));
    if (!address) throw new NotOurs(`${key} that is not an address`);
    return address;
  };
  const inside = (key: string, name: string): Address | undefined => {
    const address = given(key);
    if (address && !contains(subnet, address)) {
      throw new Refusal(`${name} ${addressText(address)} not in network ${prefixText(subnet)}`);
    }
    return address;
  };
  const gateway = given('gateway') ?? neighbour(network);
  const first = inside('rangeStart', 'RangeStart') ?? neighbour(network);
  const end = inside('rangeEnd', 'RangeEnd');
  // The last address of an IPv4 network is its broadcast.
  const last = end ?? (bits === 32 ? neighbour(lastOf(subnet), -1) : lastOf(subnet));
  if (end && Buffer.compare(end, first) < 0)
    throw new Refusal(`RangeEnd ${addressText(end)} not in network ${prefixText(subnet)}`);
  return { subnet, first, last, gateway };
}

/** Throws Refusal when two of the sets share addresses. */
export function refuseOverlaps(sets: RangeSet[]): void {
  for (const [index, one] of sets.entries()) {
    const other = sets.findIndex(
      (candidate, at) => at > index && one.some((a) => candidate.some((b) => overlap(a, b))),
    );
    if (other > 0) throw new Refusal(`range set ${index} overlaps with ${other}`);
  }
}

const overlap = (a: Range, b: Range): boolean =>
  inRange(a, b.first) || inRange(a, b.last) || inRange(b, a.first) || inRange(b, a.last);

export function inRange({ subnet, first, last }: Range, address: Address): boolean {
  return contains(subnet, address) && Buffer.compare(address, first) >= 0 && Buffer.compare(address, last) <= 0;
}

export const rangeOf = (set: RangeSet, address: Address): Range | undefined =>
  set.find((range) => inRange(range, address));

const rangeText = ({ first, last }: Range): string => `${addressText(first)}-${addressText(last)}`;

export const setText = (set: RangeSet): string => set.map(rangeText).join(',');

/**
 * The candidates of a set in the order in which they are tried: from the one after `after` on (the last one handed out)
 * round to it again, or from the set's beginning; gateways are left out.
 */
export function* candidates(set: RangeSet, after: Address | undefined): Generator<{ address: Address; range: Range }> {
  const found = after ? set.findIndex((range) => inRange(range, after)) : -1;
  let index = Math.max(0, found);
  let address: Address | undefined = found >= 0 ? after : undefined;
  let start: Address | undefined;
  for (;;) {
    let range = set[index] as Range;
    if (address === undefined) {
      address = range.first;
    } else if (address.equals(range.last)) {
      index = (index + 1) % set.length;
      range = set[index] as Range;
      address = range.first;
    } else {
      address = neighbour(address);
    }
    if (start === undefined) start = address;
    else if (address.equals(start)) return;
    if (!address.equals(range.gateway)) yield { address, range };
  }
}
