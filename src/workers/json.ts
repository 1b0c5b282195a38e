/** A JSON object whose fields were not checked yet. */
export type Json = Record<string, unknown>;

/**
 * Is a parsed value an object, and neither an array nor null? (A parser of TOML also returns a Date, which counts as
 * one.)
 */
export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
