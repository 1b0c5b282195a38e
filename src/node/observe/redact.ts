/** Removes credentials from the log, by names of fields, names of environment variables, and patterns in texts. */

const REDACTED = '[redacted]';

const MAX_DEPTH = 8;

/** Names of fields whose values are always secret: those of CRI's AuthConfig, HTTP headers, and common names. */
const SECRET_FIELD =
  /^(auth|password|passwd|identity_?token|registry_?token|access_?token|refresh_?token|token|secret|credentials?|authorization|proxy-authorization|www-authenticate|cookie|set-cookie|private_?key|tls_?key)$/i;

/** Names of environment variables and annotations with secret values. */
const SECRET_NAME = /pass(word|wd|phrase)?|secret|token|credential|api_?key|access_?key|private_?key|auth/i;

/**
 * Returns the value with secrets replaced. Copies only objects that change. Leaves errors and other class instances as
 * they are: pino serialises them, and {@link redactText} processes the resulting text.
 */
export function redact(value: unknown, depth = 0): unknown {
  if (depth > MAX_DEPTH || value === null || typeof value !== 'object') {
    return typeof value === 'string' && depth > 0 ? redactAssignment(value) : value;
  }
  if (Array.isArray(value)) return redactArray(value, depth);
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return value;
  // { key: 'DB_PASSWORD', value: '…' }: CRI's KeyValue, Kubernetes' EnvVar.
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

/** Redacts `NAME=value`, the form of `env` in an OCI spec. */
function redactAssignment(text: string): string {
  const equals = text.indexOf('=');
  if (equals <= 0 || equals > 128) return text;
  const name = text.slice(0, equals);
  return /^\w+$/.test(name) && SECRET_NAME.test(name) ? `${name}=${REDACTED}` : text;
}

/** Replaces passwords in URLs and tokens in Authorization headers, anywhere in a text. */
export function redactText(text: string): string {
  return text
    .replace(/(:\/\/)[^/\s"'@:]*:[^/\s"'@]*@/g, `$1${REDACTED}@`)
    .replace(/\b(Bearer|Basic) +[A-Za-z0-9._~+/-]{8,}=*/g, `$1 ${REDACTED}`);
}
