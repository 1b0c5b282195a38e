/**
 * CRI messages as Go's encoding/json writes them, the form that users of `crictl inspect` and `inspectp` read in
 * info.config: the protobuf field names, nothing for zero values (every field has `omitempty`), enums as numbers, bytes
 * in base64.
 */

/**
 * Fields that are maps: their keys are the user's and keep their spelling. These are all maps of CRI v1 (a test reads
 * the proto) except `options` of the checkpoint requests: no answer shows those, and a message field has the same name.
 */
export const MAP_FIELDS: ReadonlySet<string> = new Set([
  'annotations',
  'info',
  'labelSelector',
  'labels',
  'sysctls',
  'unified',
]);

export type Json = string | number | boolean | null | Json[] | { [key: string]: Json };

/** The Go JSON shape of a message. A bigint becomes a number; CRI's 64-bit fields in configs stay far below 2^53. */
export function goJson(message: object): { [key: string]: Json } {
  const out: { [key: string]: Json } = {};
  for (const [field, value] of Object.entries(message)) {
    if (isZero(value)) continue;
    if (!MAP_FIELDS.has(field)) out[snakeCase(field)] = goValue(value);
    else if (Object.keys(value as object).length > 0) out[snakeCase(field)] = goMap(value as Record<string, unknown>);
  }
  return out;
}

function goValue(value: unknown): Json {
  if (typeof value === 'bigint') return Number(value);
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
  if (Array.isArray(value)) return value.map(goValue);
  if (typeof value === 'object' && value !== null) return goJson(value);
  return value as Json;
}

/** Go sorts maps by key and writes their zero values. */
function goMap(map: Record<string, unknown>): Json {
  return Object.fromEntries(
    Object.keys(map)
      .sort()
      .map((key) => [key, goValue(map[key])]),
  );
}

/** Does `omitempty` leave it out? An empty message stays: Go writes a pointer that is set as {}. */
function isZero(value: unknown): boolean {
  if (value === undefined || value === null || value === '' || value === 0 || value === 0n || value === false)
    return true;
  if (Array.isArray(value) || value instanceof Uint8Array) return value.length === 0;
  return false;
}

/** Fields whose name has capitals in the proto and therefore in the JSON. */
const AS_IS: ReadonlySet<string> = new Set([
  'uidMappings',
  'gidMappings',
  'Full',
  'Some',
  'Total',
  'Avg10',
  'Avg60',
  'Avg300',
]);

/** camelCase back to the proto's name: `cgroupParent` is `cgroup_parent`. */
export function snakeCase(field: string): string {
  if (field === 'CDIDevices') return 'CDI_devices';
  return AS_IS.has(field) ? field : field.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
