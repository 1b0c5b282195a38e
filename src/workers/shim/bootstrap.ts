/**
 * What a shim's `start` command reads on stdin and prints on stdout, by generation:
 *
 *   up to 1.6    stdin: empty                      stdout: the address as text            task service v2
 *   1.7 to 2.2   stdin: empty                      stdout: JSON {version, address, ...}   v2 or v3
 *   from 2.3     stdin: BootstrapParams (or empty) stdout: BootstrapResult in protobuf    v3
 *
 * The older ones accept an Any(runc Options) on stdin, or nothing. Sluice must never send that Any: a 2.3 shim decodes
 * it as BootstrapParams without an error and uses the type URL as the pod's id.
 */
import { BootstrapParams, BootstrapResult } from '../../../proto/gen/bootstrap.ts';

export interface Bootstrap {
  /** Socket path, without a scheme. */
  address: string;
  version: 2 | 3;
  /** The shim reads BootstrapParams (2.3 and later). */
  modern: boolean;
}

/**
 * The longest folder for the socket that a shim accepts, in bytes: with "/" and 64 hex digits it must fit into
 * sun_path.
 */
export const MAX_SOCKET_DIR = 42;

const DEBUG = -4;
const INFO = 0;

export interface BootstrapInput {
  id: string;
  namespace: string;
  addresses: DaemonAddresses;
  /** Folder for the socket; with one longer than {@link MAX_SOCKET_DIR} the shim uses its default. */
  socketDir?: string;
  debug?: boolean;
}

/** The daemon's addresses, which shims get. */
export interface DaemonAddresses {
  /** Socket of the CRI server. Shims derive their socket's name from it, so two daemons must not share it. */
  grpc: string;
  /** Socket of the events service; shims read it from the environment only. */
  ttrpc: string;
  /** Absolute path of the daemon's program; only shims older than ttrpc events execute it. */
  publishBinary: string;
}

export function encodeParams({ id, namespace, addresses, socketDir = '', debug = false }: BootstrapInput): Uint8Array {
  const usable = socketDir !== '' && Buffer.byteLength(socketDir) <= MAX_SOCKET_DIR;
  return BootstrapParams.encode({
    instanceId: id,
    namespace,
    logLevel: debug ? DEBUG : INFO,
    containerdVersion: '2.3.0',
    containerdTtrpcAddress: addresses.ttrpc,
    containerdGrpcAddress: addresses.grpc,
    containerdBinary: addresses.publishBinary,
    extensions: [],
    socketDir: usable ? socketDir : undefined,
  }).finish();
}

/**
 * Parses the output of `start`. Throws an Error that quotes it when it is none of the three kinds, or names a version
 * or protocol that Sluice does not speak.
 */
export function parseBootstrap(answer: Buffer): Bootstrap {
  if (answer.length === 0) throw new Error('the shim printed no address');
  const text = answer.toString('utf8').trim();
  // As protobuf tags "{", "u" and "/" name fields that BootstrapResult does not have, so the three kinds cannot be
  // confused.
  if (text.startsWith('{')) return { ...checked(parseJson(text), answer), modern: false };
  if (/^(unix:|\/)/.test(text)) {
    return { ...checked({ version: 2, address: text, protocol: 'ttrpc' }, answer), modern: false };
  }
  let result: BootstrapResult;
  try {
    result = BootstrapResult.decode(answer);
  } catch (cause) {
    throw new Error(`the shim printed something other than an address: ${quote(answer)}`, { cause });
  }
  return { ...checked(result, answer), modern: true };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Error(`the shim printed broken JSON: ${quote(Buffer.from(text))}`, { cause });
  }
}

function checked(value: unknown, answer: Buffer): { address: string; version: 2 | 3 } {
  const { version, address, protocol } = value as { version?: unknown; address?: unknown; protocol?: unknown };
  const path = typeof address === 'string' ? address.replace(/^unix:(\/\/)?/, '') : '';
  if (!path.startsWith('/') || /[\0\s]/.test(path)) {
    throw new Error(`the shim printed something other than a unix address: ${quote(answer)}`);
  }
  if (version !== 2 && version !== 3) throw new Error(`the shim wants version ${version} of the shim protocol`);
  // Shims older than this field speak ttrpc.
  if (protocol !== 'ttrpc' && protocol !== '' && protocol !== undefined) {
    throw new Error(`the shim speaks ${protocol}; Sluice speaks ttrpc`);
  }
  return { address: path, version };
}

function quote(answer: Buffer): string {
  return JSON.stringify(answer.subarray(0, 200).toString('latin1'));
}
