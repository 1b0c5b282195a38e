import type { Int64, Resources, Spec } from './types.ts';

/** JSON.rawJSON (ES2026, JSON.parse source text access), which TypeScript's library types do not declare yet. */
const rawJson = (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON;

/** CRI's int64 in the type of the spec: a number where it is a safe integer, else the bigint. */
export function int64(value: bigint): Int64 {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/**
 * Serialises config.json (or the resources of Task.Update) with exact integers. JSON.stringify throws for a bigint, and
 * as a number 2^63 - 4096 (cgroup v1's "no limit") would become 9223372036854772000, which Go refuses because it
 * overflows int64.
 */
export function encodeSpec(spec: Spec | Spec['process'] | Resources): string {
  return JSON.stringify(spec, (_key, value) => (typeof value === 'bigint' ? rawJson(value.toString()) : value));
}

/** Parses the output of {@link encodeSpec}, or a seccomp profile. Integers beyond the safe range become bigints. */
export function decodeExact(text: string): unknown {
  const reviver = (_key: string, value: unknown, context?: { source?: string }): unknown =>
    typeof value === 'number' && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? '')
      ? BigInt(context?.source ?? 0)
      : value;
  return JSON.parse(text, reviver);
}
