/**
 * Checks of configuration values. Each returns the rest of a sentence that begins with the key, such as "must be above
 * 0", or undefined when the value is valid.
 */
import { isAbsolute, normalize } from 'node:path';
import { parseQuantity } from '../network/quantity.ts';
import { parseListen, parseSubnet } from './address.ts';

type Check<T> = (value: T) => string | undefined;

/** sizeof(sockaddr_un.sun_path) minus the final NUL byte. */
const MAX_SOCKET_PATH = 107;

export const notEmpty: Check<string> = (value) => (value === '' ? 'must not be empty' : undefined);

export const absolute: Check<string> = (value) => {
  if (!isAbsolute(value)) return 'must be an absolute path';
  if (value.includes('\0')) return 'must not contain a NUL byte';
  if (normalize(value) !== value && `${normalize(value)}/` !== value)
    return `must be a plain path: ${normalize(value)}`;
  return undefined;
};

/** runc takes no path of a namespace with a comma, which separates them in what it hands to its child. */
export const namespaceFolder: Check<string> = (value) =>
  value.includes(',') ? 'must not contain a comma: runc takes no namespace there' : absolute(value);

export const socketPath: Check<string> = (value) => {
  const bytes = Buffer.byteLength(value);
  if (bytes > MAX_SOCKET_PATH)
    return `is ${bytes} bytes long; the path of a unix socket has at most ${MAX_SOCKET_PATH}`;
  return value.endsWith('/') ? 'must be a file, not a folder' : absolute(value);
};

export const program: Check<string> = (value) => {
  if (value === '') return 'must not be empty';
  if (!value.includes('/')) return undefined;
  return isAbsolute(value) ? undefined : 'must be a name to look up in PATH, or an absolute path';
};

export const pathList: Check<string> = (value) => {
  if (value === '') return undefined;
  const bad = value.split(':').find((path) => absolute(path) !== undefined);
  return bad === undefined ? undefined : `must be absolute paths separated by ":" (found ${JSON.stringify(bad)})`;
};

export const listen: Check<string> = (value) =>
  parseListen(value) ? undefined : 'must be host:port, with a port from 0 to 65535 and IPv6 hosts in brackets';

export const subnet: Check<string> = (value) =>
  parseSubnet(value)
    ? undefined
    : 'must be an IPv4 subnet like 10.203.0.0/16, with a prefix from 8 to 29 and no host bits';

export const quantity: Check<string> = (value) =>
  (parseQuantity(value) ?? 0) > 0 ? undefined : 'must be a quantity like 50Gi';

export const httpUrl: Check<string> = (value) => {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  return url && (url.protocol === 'http:' || url.protocol === 'https:') ? undefined : 'must be an http or https URL';
};

export const imageRef: Check<string> = (value) =>
  /^[\w.:/@-]+$/.test(value) ? undefined : 'must be an image reference like registry.k8s.io/pause:3.10';

export const pattern: Check<string> = (value) =>
  /^[^\s]+$/.test(value) ? undefined : 'must be patterns without blanks';

export const positive: Check<number> = (value) => (value > 0 ? undefined : 'must be above 0');

export const atLeast =
  (least: number): Check<number> =>
  (value) =>
    value >= least ? undefined : `must be at least ${least}`;

export const between =
  (least: number, most: number): Check<number> =>
  (value) =>
    value >= least && value <= most ? undefined : `must be from ${least} to ${most}`;

export const oneOf =
  (...allowed: string[]): Check<string> =>
  (value) =>
    allowed.includes(value) ? undefined : `must be ${allowed.map((text) => `"${text}"`).join(' or ')}`;

export const optional =
  (check: Check<string>): Check<string> =>
  (value) =>
    value === '' ? undefined : check(value);

/** Accepts `word`, or a value that passes `check`. */
export const either =
  (word: string, check: Check<string>): Check<string> =>
  (value) =>
    value === word ? undefined : check(value);

export const each =
  (check: Check<string>): Check<string[]> =>
  (values) => {
    for (const value of values) {
      const wrong = check(value);
      if (wrong) return `${wrong} (found ${JSON.stringify(value)})`;
    }
    return undefined;
  };

export const someOf =
  (check: Check<string>): Check<string[]> =>
  (values) =>
    values.length === 0 ? 'must not be empty' : each(check)(values);
