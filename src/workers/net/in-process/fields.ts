import { isObject, type Json } from '../../json.ts';

/**
 * A configuration has something that only the plugin's program can judge: a key nobody here knows, or a value of
 * another type.
 */
export class NotOurs extends Error {
  override readonly name = 'NotOurs';
}

/**
 * Reads a plugin's configuration key by key. Go's reader takes keys in any case and refuses values of a wrong type in
 * its own words, so whatever is not exactly as documented is left to the program: every method throws {@link NotOurs}
 * then.
 */
export class Fields {
  readonly #json: Json;

  /** `known` are all keys that may be there. */
  constructor(json: unknown, known: readonly string[]) {
    if (!isObject(json)) throw new NotOurs('no object');
    const stranger = Object.keys(json).find((key) => !known.includes(key));
    if (stranger !== undefined) throw new NotOurs(`the key ${JSON.stringify(stranger)}`);
    this.#json = json;
  }

  has(key: string): boolean {
    return this.#json[key] !== undefined && this.#json[key] !== null;
  }

  text(key: string): string {
    return this.#get(key, '', (value) => typeof value === 'string');
  }

  flag(key: string, absent = false): boolean {
    return this.#get(key, absent, (value) => typeof value === 'boolean');
  }

  whole(key: string, absent = 0): number {
    return this.#get(key, absent, (value) => Number.isInteger(value));
  }

  list(key: string): unknown[] {
    return this.#get<unknown[]>(key, [], Array.isArray);
  }

  object(key: string): Json {
    return this.#get<Json>(key, {}, isObject);
  }

  /** An object whose values are all texts. */
  texts(key: string): Record<string, string> {
    return this.#get<Record<string, string>>(
      key,
      {},
      (value) => isObject(value) && Object.values(value).every((each) => typeof each === 'string'),
    );
  }

  #get<T>(key: string, absent: T, fits: (value: unknown) => boolean): T {
    const value = this.#json[key];
    if (value === undefined || value === null) return absent;
    if (!fits(value)) throw new NotOurs(`the value of ${JSON.stringify(key)}`);
    return value as T;
  }
}

/** Keys that any plugin's configuration may have (types.NetConf of libcni), and those that the runtime adds. */
export const COMMON = [
  'cniVersion',
  'name',
  'type',
  'capabilities',
  'ipam',
  'dns',
  'prevResult',
  'runtimeConfig',
  'args',
] as const;

/**
 * What the operator of a cluster puts into the configuration for one network: args.cni, of which `known` may be there.
 */
export function cniArgs(fields: Fields, known: readonly string[]): Fields {
  // Other domains than "cni" are other plugins' business.
  const args = fields.object('args');
  return new Fields(args.cni ?? {}, known);
}
