/** Keeps credentials out of the log: by the names of fields, by the names of variables, and by what texts look like. */

export const REDACTED = '[redacted]';

const MAX_DEPTH = 8;

/** Fields whose value is a secret whatever it holds: CRI's AuthConfig, HTTP headers, and what people call such things. */
const SECRET_FIELD =
  /^(auth|password|passwd|identity_?token|registry_?token|access_?token|refresh_?token|token|secret|credentials?|authorization|proxy-authorization|www-authenticate|cookie|set-cookie|private_?key|tls_?key)$/i;

/** Names of environment variables (and of annotations) that hold secrets. */
const SECRET_NAME = /pass(word|wd|phrase)?|secret|token|credential|api_?key|access_?key|private_?key|auth/i;

/**
 * The value with its secrets replaced. Copies only what it changes; errors and other class instances are left to pino's own
 * serializers, whose text {@link redactText} sees.
 */
export function redact(value: unknown, depth = 0): unknown {
  if (depth > MAX_DEPTH || value === null || typeof value !== 'object') {
    return typeof value === 'string' && depth > 0 ? redactAssignment(value) : value;
  }
  if (Array.isArray(value)) return redactArray(value, depth);
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return value;
  // { key: 'DB_PASSWORD', value: '…' }, as CRI's KeyValue and Kubernetes' EnvVar have it.
  const named = (value as Record<string, unknown>).key ?? (value as Record<string, unknown>).name;
  const secretPair = typeof named === 'string' && 'value' in value && SECRET_NAME.test(named);
  let copy: Record<string, unknown> | undefined;
  for (const [key, before] of Object.entries(value)) {
    const secret = before !== undefined && (SECRET_FIELD.test(key) || (secretPair && key === 'value'));
    const after = secret ? REDACTED : redact(before, depth + 1);
    if (after !== before) {
      copy ??= { ...value };
      copy[key] = after;
    }
  }
  return copy ?? value;
}

function redactArray(values: unknown[], depth: number): unknown[] {
  let copy: unknown[] | undefined;
  for (let i = 0; i < values.length; i++) {
    const after = redact(values[i], depth + 1);
    if (after !== values[i]) {
      copy ??= [...values];
      copy[i] = after;
    }
  }
  return copy ?? values;
}

/** `NAME=value`, as an OCI spec's env has it. */
function redactAssignment(text: string): string {
  const equals = text.indexOf('=');
  if (equals <= 0 || equals > 128) return text;
  const name = text.slice(0, equals);
  return /^\w+$/.test(name) && SECRET_NAME.test(name) ? `${name}=${REDACTED}` : text;
}

/** Cuts passwords out of URLs and tokens out of quoted headers, wherever in a text they stand. */
export function redactText(text: string): string {
  return text
    .replace(/(:\/\/)[^/\s"'@:]*:[^/\s"'@]*@/g, `$1${REDACTED}@`)
    .replace(/\b(Bearer|Basic) +[A-Za-z0-9._~+/-]{8,}=*/g, `$1 ${REDACTED}`);
}
