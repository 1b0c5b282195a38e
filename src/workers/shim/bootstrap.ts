/**
 * What a shim is told when it is started, and what it answers, over its generations:
 *
 *   up to 1.6    stdin: empty                      answer: the address as text            task service v2
 *   1.7 to 2.2   stdin: empty                      answer: JSON {version, address, ...}   v2 or v3
 *   from 2.3     stdin: BootstrapParams (or empty) answer: BootstrapResult in protobuf    v3
 *
 * The older ones expect an Any(runc Options) on stdin, or nothing. That Any must never be sent: a 2.3 shim reads it as
 * BootstrapParams without complaint and takes the type's URL for the pod's id.
 */
import { BootstrapParams, BootstrapResult } from '../../../proto/gen/bootstrap.ts';

export interface Bootstrap {
  /** Socket path, without a scheme. */
  address: string;
  version: 2 | 3;
  /** The shim reads BootstrapParams. */
  modern: boolean;
}

/** The shim refuses a longer folder: its name plus 64 hex digits must fit into sun_path. */
export const MAX_SOCKET_DIR = 42;

const DEBUG = -4;
const INFO = 0;

export interface BootstrapInput {
  id: string;
  namespace: string;
  addresses: DaemonAddresses;
  /** Folder for the socket; one that is too long is left to the shim's default. */
  socketDir?: string;
  debug?: boolean;
}

/** How shims find the daemon. */
export interface DaemonAddresses {
  /** Socket of the CRI server. Also a part of the shim's socket name: two daemons must not share it. */
  grpc: string;
  /** Socket of the events service; the shim takes it from the environment alone. */
  ttrpc: string;
  /** Absolute path of the daemon's program; only shims older than ttrpc ever run it. */
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

/** Throws an Error that quotes the answer when it is none of the three kinds, or of a version or protocol we do not speak. */
export function parseBootstrap(answer: Buffer): Bootstrap {
  if (answer.length === 0) throw new Error('the shim printed no address');
  const text = answer.toString('utf8').trim();
  // Neither "{", nor "unix:", nor "/" can begin a BootstrapResult: as protobuf tags they name fields it does not have.
  if (text.startsWith('{')) return { ...checked(parseJson(text), answer), modern: false };
  if (/^(unix:|\/)/.test(text)) {
    return { ...checked({ version: 2, address: text, protocol: 'ttrpc' }, answer), modern: false };
  }
  let result: BootstrapResult;
  try {
    result = BootstrapResult.decode(answer);
  } catch (cause) {
    throw new Error(`the shim printed something that is no address: ${quote(answer)}`, { cause });
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
    throw new Error(`the shim printed something that is no unix address: ${quote(answer)}`);
  }
  if (version !== 2 && version !== 3) throw new Error(`the shim wants version ${version} of the shim protocol`);
  // Shims before the field existed spoke ttrpc.
  if (protocol !== 'ttrpc' && protocol !== '' && protocol !== undefined) {
    throw new Error(`the shim speaks ${protocol}; Sluice speaks ttrpc`);
  }
  return { address: path, version };
}

function quote(answer: Buffer): string {
  return JSON.stringify(answer.subarray(0, 200).toString('latin1'));
}
