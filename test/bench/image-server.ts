/**
 * A registry for benchmarks, in a process of its own: it makes images of random bytes in memory and serves them, if
 * asked at a limited rate per connection. Every image is new, so that each pull of it is cold.
 *
 * Started by images.ts with an IPC channel; answers {@link Make} with {@link Made}.
 */
import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { constants, gzipSync } from 'node:zlib';
import { buildImage, digestOf, MANIFEST } from '../rig/push.ts';
import { type TarballEntry, tarball } from '../rig/tarball.ts';

export interface LayerRecipe {
  /** Small files (200 to 4000 random bytes each), a hundred a folder. */
  small?: number;
  /** One file of so many bytes. */
  big?: number;
  /** Its bytes are zeroes. */
  zeroes?: boolean;
}

export interface Make {
  kind: 'make';
  layers: LayerRecipe[];
  /** Bytes a second that each connection gets of this image's layers; absent: as fast as it goes. */
  rate?: number;
}

/** `drop` frees the memory of all images; `count` asks for the layers that were served. */
export type ToServer = Make | { kind: 'drop' } | { kind: 'count'; name: string };

export type FromServer =
  | { kind: 'ready'; address: string }
  /** `name` is repository:tag; `bytes` are those of the layers as they are sent. */
  | { kind: 'made'; name: string; bytes: number }
  | { kind: 'dropped' }
  /** Requests for the image's layers from their first byte on, since the last time it was asked. */
  | { kind: 'counted'; layers: number };

interface Blob {
  body: Buffer;
  rate?: number;
  /** Name of the image whose layer it is. */
  layerOf?: string;
}

const PIECE = 256 << 10;
const blobs = new Map<string, Blob>();
const manifests = new Map<string, Buffer>();
const served = new Map<string, number>();
let made = 0;

function layer({ small = 0, big = 0, zeroes = false }: LayerRecipe, seed: string): { tar: Buffer; blob: Buffer } {
  const entries: TarballEntry[] = [];
  for (let at = 0; at < small; at++) {
    const folder = `${seed}-d${Math.floor(at / 100)}`;
    if (at % 100 === 0) entries.push({ path: `${folder}/`, kind: 'directory', mode: 0o755 });
    entries.push({ path: `${folder}/f${at}`, content: randomBytes(200 + Math.floor(Math.random() * 3800)) });
  }
  if (big > 0) entries.push({ path: `${seed}-big`, content: zeroes ? Buffer.alloc(big) : randomOf(big) });
  const tar = tarball(entries);
  // Deflate stores what it cannot compress; to say so at once makes the same stream, sooner.
  const level = zeroes ? constants.Z_BEST_SPEED : big > 0 ? constants.Z_NO_COMPRESSION : constants.Z_BEST_SPEED;
  return { tar, blob: gzipSync(tar, { level }) };
}

/** randomBytes() takes less than 2 GiB, and blocks for each; this is fast enough for either. */
function randomOf(bytes: number): Buffer {
  const all = Buffer.allocUnsafe(bytes);
  for (let at = 0; at < bytes; at += 64 << 20) randomBytes(Math.min(64 << 20, bytes - at)).copy(all, at);
  return all;
}

function make({ layers, rate }: Make): FromServer {
  const name = `bench/cold:v${process.pid}-${++made}`;
  const parts = layers.map((recipe, at) => layer(recipe, `i${made}-${at}`));
  const image = buildImage({ layers: parts, config: { Cmd: ['/x'] }, file: { author: name } });
  for (const [digest, body] of image.blobs) {
    const isLayer = digest !== image.id;
    blobs.set(digest, { body, ...(isLayer && { rate, layerOf: name }) });
  }
  manifests.set(name.slice(name.indexOf(':') + 1), image.body);
  manifests.set(digestOf(image.body), image.body);
  return { kind: 'made', name, bytes: parts.reduce((sum, { blob }) => sum + blob.length, 0) };
}

function answer(request: IncomingMessage, response: ServerResponse): void {
  const [, kind, name = ''] = /\/(manifests|blobs)\/([^/?]+)/.exec(request.url ?? '') ?? [];
  if (kind === undefined) {
    response.end('{}');
    return;
  }
  const manifest = kind === 'manifests' ? manifests.get(name) : undefined;
  const blob = kind === 'blobs' ? blobs.get(name) : undefined;
  const body = manifest ?? blob?.body;
  if (!body) {
    response.writeHead(404).end('{"errors":[{"code":"MANIFEST_UNKNOWN"}]}');
    return;
  }
  response.setHeader('content-type', manifest ? MANIFEST : 'application/octet-stream');
  if (manifest) response.setHeader('docker-content-digest', digestOf(manifest));
  const [, from = '0', to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
  const end = to ? Math.min(Number(to) + 1, body.length) : body.length;
  const part = body.subarray(Number(from), end);
  if (request.headers.range !== undefined) {
    response.statusCode = 206;
    response.setHeader('content-range', `bytes ${from}-${end - 1}/${body.length}`);
  }
  response.setHeader('accept-ranges', 'bytes');
  response.setHeader('content-length', part.length);
  if (request.method === 'HEAD') {
    response.end();
    return;
  }
  if (blob?.layerOf && from === '0') served.set(blob.layerOf, (served.get(blob.layerOf) ?? 0) + 1);
  if (blob?.rate) limited(response, part, blob.rate);
  else response.end(part);
}

/** Sends a piece whenever the rate allows the next one. */
function limited(response: ServerResponse, body: Buffer, rate: number): void {
  const began = performance.now();
  let at = 0;
  const next = () => {
    if (response.destroyed) return;
    response.write(body.subarray(at, at + PIECE));
    at += PIECE;
    if (at >= body.length) response.end();
    else setTimeout(next, Math.max(0, began + (at / rate) * 1000 - performance.now()));
  };
  next();
}

function receive(message: ToServer): FromServer {
  if (message.kind === 'make') return make(message);
  if (message.kind === 'count') {
    const layers = served.get(message.name) ?? 0;
    served.delete(message.name);
    return { kind: 'counted', layers };
  }
  blobs.clear();
  manifests.clear();
  return { kind: 'dropped' };
}

const tell = (message: FromServer) => process.send?.(message);
const server = createServer(answer);
server.listen(0, '127.0.0.1', () => {
  tell({ kind: 'ready', address: `127.0.0.1:${(server.address() as AddressInfo).port}` });
});
process.on('message', (message: ToServer) => tell(receive(message)));
process.on('disconnect', () => process.exit());
