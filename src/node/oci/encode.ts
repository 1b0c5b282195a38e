import type { Int64, Resources, Spec } from './types.ts';

/** V8 has it (JSON.parse source text access, ES2026); TypeScript's libraries do not know it yet. */
const rawJson = (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON;

/** CRI's int64 as the specification's: a number where a number is exact, the bigint itself where it is not. */
export function int64(value: bigint): Int64 {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/**
 * config.json (or the resources of Task.Update) as text. JSON.stringify would refuse a bigint, and a number that stands in for
 * 2^63 - 4096 (cgroup v1's "no limit") would come out as 9223372036854772000, which Go refuses to read.
 */
export function encodeSpec(spec: Spec | Spec['process'] | Resources): string {
  return JSON.stringify(spec, (_key, value) => (typeof value === 'bigint' ? rawJson(value.toString()) : value));
}

/** Reads what {@link encodeSpec} wrote, or a seccomp profile: integers that a number would bend stay exact. */
export function decodeExact(text: string): unknown {
  const reviver = (_key: string, value: unknown, context?: { source?: string }): unknown =>
    typeof value === 'number' && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? '')
      ? BigInt(context?.source ?? 0)
      : value;
  return JSON.parse(text, reviver);
}
