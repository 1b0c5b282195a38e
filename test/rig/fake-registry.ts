/**
 * Registries that a test scripts itself: each serves one image of one layer, which no other test has, and answers by a
 * rule of the test's where that is what is tried.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Server } from 'node:net';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { tarball } from './tarball.ts';

export const sha256 = (data: Buffer) => `sha256:${createHash('sha256').update(data).digest('hex')}`;
export const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';

export interface FakeImage {
  layer: Buffer;
  config: Buffer;
  manifest: Buffer;
}

/**
 * An image of one layer with a file of `size` random bytes (300 000); `config`, `manifest` and `layer` change its
 * texts.
 */
export function fakeImage(
  change: { config?: object; manifest?: object; layer?: object; size?: number } = {},
): FakeImage {
  const archive = tarball([{ path: 'data', content: randomBytes(change.size ?? 300_000) }]);
  const layer = gzipSync(archive, { level: 1 });
  const config = Buffer.from(
    JSON.stringify({ os: 'linux', rootfs: { type: 'layers', diff_ids: [sha256(archive)] }, ...change.config }),
  );
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MANIFEST,
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: sha256(config), size: config.length },
      layers: [
        {
          mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
          digest: sha256(layer),
          size: layer.length,
          ...change.layer,
        },
      ],
      ...change.manifest,
    }),
  );
  return { layer, config, manifest };
}

export type What = 'manifest' | 'config' | 'layer';

/** Answers a request itself, and says so with something true. */
export type Rule = (request: IncomingMessage, response: ServerResponse, what: What) => unknown;

/** The part of an image that a path asks for. */
export function whatIs(path: string, { config }: FakeImage): What {
  return path.includes('/manifests/') ? 'manifest' : path.includes(sha256(config)) ? 'config' : 'layer';
}

/** Serves an image as a plain registry, but for what `rule` answers. */
export function serving(image: FakeImage, rule: Rule = () => false) {
  return (request: IncomingMessage, response: ServerResponse) => {
    const path = request.url ?? '';
    const what = whatIs(path, image);
    if (rule(request, response, what)) return;
    if (what === 'layer' && !path.includes(sha256(image.layer))) return void response.writeHead(404).end();
    const body = image[what];
    const headers = { 'content-type': what === 'manifest' ? MANIFEST : 'application/octet-stream' };
    response.writeHead(200, { ...headers, 'content-length': body.length, 'docker-content-digest': sha256(body) });
    response.end(request.method === 'HEAD' ? undefined : body);
  };
}

/** The servers of a test, and the names under which a daemon finds them. */
export class FakeRegistries implements Disposable {
  /** Folder of hosts.toml files. */
  readonly certs: string;
  readonly #servers: Server[] = [];
  #names = 0;

  constructor(certs: string) {
    this.certs = certs;
  }

  /** Has a server listen on loopback; gives host:port. */
  async listen(server: Server): Promise<string> {
    this.#servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return `127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  /** A registry name that leads to this URL; `more` is what its hosts.toml has besides. */
  host(url: string, more = ''): string {
    const name = `fake${++this.#names}.test`;
    mkdirSync(join(this.certs, name), { recursive: true });
    writeFileSync(join(this.certs, name, 'hosts.toml'), `server = "${url}"\ndial_timeout = "1s"\n${more}`);
    return name;
  }

  /** The name of a registry that serves this image. */
  async serve(image: FakeImage, rule?: Rule): Promise<string> {
    return this.host(`http://${await this.listen(createServer(serving(image, rule)))}`);
  }

  [Symbol.dispose](): void {
    for (const server of this.#servers) {
      if ('closeAllConnections' in server) (server as ReturnType<typeof createServer>).closeAllConnections();
      server.close();
    }
  }
}
