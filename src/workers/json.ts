/** A JSON object whose fields were not checked yet. */
export type Json = Record<string, unknown>;

/**
 * Is a parsed value an object, and neither an array nor null? (A parser of TOML also returns a Date, which counts as
 * one.)
 */
export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The fields under their proper names: Go, for which all builders test, finds them in any case of letters. */
export function withNames(json: Json, names: readonly string[]): Json {
  const found: Json = { ...json };
  for (const key of Object.keys(json)) {
    const name = names.find((one) => one !== key && one.toLowerCase() === key.toLowerCase());
    if (name === undefined || json[name] !== undefined) continue;
    found[name] = json[key];
    delete found[key];
  }
  return found;
}
