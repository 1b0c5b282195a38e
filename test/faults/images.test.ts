import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, statSync } from 'node:fs';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { GRPC } from '../../src/errors.ts';
import { imageSpec } from '../rig/messages.ts';
import { writeHosts } from '../rig/registry.ts';
import { Rootfs } from '../rig/rootfs.ts';
import { type Lab, openLab, SKIP } from './lab.ts';

const skip = SKIP;
const sha256 = (data: Uint8Array) => `sha256:${createHash('sha256').update(data).digest('hex')}`;

/** How an image differs from a good one, or the registry from one that works. */
interface Fault {
  layer?: Buffer;
  /** What the manifest says of the layer, instead of the truth. */
  layerDigest?: string;
  diffId?: string;
  manifest?: string;
  /** Answers instead of the registry; true means that it did. */
  answer?: (path: string, response: ServerResponse) => boolean;
}

let lab: Lab;
let server: Server;
const served = new Map<string, { type: string; body: Buffer; fault: Fault }>();

before(async () => {
  if (skip) return;
  server = createServer((request, response) => {
    const path = new URL(request.url ?? '/', 'http://rig').pathname; // mirrors are asked with ?ns=
    if (path === '/v2/') return response.end('{}');
    const found = served.get(path);
    if (!found) return response.writeHead(404).end('{"errors":[{"code":"MANIFEST_UNKNOWN"}]}');
    if (found.fault.answer?.(path, response)) return;
    response.writeHead(200, {
      'content-type': found.type,
      'content-length': found.body.length,
      'docker-content-digest': path.slice(path.lastIndexOf('/') + 1).startsWith('sha256:') ? sha256(found.body) : '',
    });
    response.end(request.method === 'HEAD' ? undefined : found.body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  lab = await openLab({
    index: 16,
    prepare: async (folder) => {
      const certs = join(folder, 'certs.d');
      writeHosts(certs, '_default', `127.0.0.1:${port}`);
      writeHosts(certs, 'down.example.com', '127.0.0.1:1');
      return { images: { registry_config: certs } };
    },
  });
});
after(async () => {
  await lab?.[Symbol.asyncDispose]();
  server?.close();
  server?.closeAllConnections();
});

/** Publishes an image of one layer under library/NAME:latest and gives its reference. */
function publish(name: string, fault: Fault = {}): string {
  const tar = fault.layer ?? new Rootfs().file('etc/hello', `hello from ${name}`).done();
  const layer = gzipSync(tar);
  const config = Buffer.from(
    JSON.stringify({
      architecture: process.arch === 'x64' ? 'amd64' : process.arch,
      os: 'linux',
      config: { Cmd: ['true'] },
      rootfs: { type: 'layers', diff_ids: [fault.diffId ?? sha256(tar)] },
    }),
  );
  const type = 'application/vnd.oci.image.manifest.v1+json';
  const body = Buffer.from(
    fault.manifest ??
      JSON.stringify({
        schemaVersion: 2,
        mediaType: type,
        config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: sha256(config), size: config.length },
        layers: [
          {
            mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
            digest: fault.layerDigest ?? sha256(layer),
            size: layer.length,
          },
        ],
      }),
  );
  const base = `/v2/library/${name}`;
  served.set(`${base}/manifests/latest`, { type, body, fault });
  served.set(`${base}/manifests/${sha256(body)}`, { type, body, fault });
  for (const blob of [config, layer]) {
    const digest = blob === layer ? (fault.layerDigest ?? sha256(layer)) : sha256(blob);
    served.set(`${base}/blobs/${digest}`, { type: 'application/octet-stream', body: blob, fault });
  }
  return `example.com/library/${name}:latest`;
}

const pull = (image: string, timeoutMs = 60_000) =>
  lab.daemon.cri.pullImage({ image: imageSpec(image) }, { timeoutMs });

/** The pull fails so, nothing of the image is there, and a good image can be pulled and removed. */
async function pullFails(image: string, expected: { code?: number; words: RegExp }): Promise<void> {
  await assert.rejects(pull(image), (error: Error & { code?: number; details?: string }) => {
    assert.match(error.details ?? '', expected.words);
    if (expected.code !== undefined) assert.equal(error.code, expected.code);
    return true;
  });
  const spec = imageSpec(image);
  assert.equal((await lab.daemon.cri.imageStatus({ image: spec })).image, undefined);
  const good = publish('good');
  await pull(good);
  await lab.daemon.cri.removeImage({ image: { ...spec, image: good } });
  await lab.assertSound();
}

test('a registry that is down', { skip }, async () => {
  await pullFails('down.example.com/library/x:latest', {
    code: GRPC.UNAVAILABLE,
    words: /^RegistryUnavailable.*127\.0\.0\.1:1/s,
  });
});

test('an image that is not there', { skip }, async () => {
  await pullFails('example.com/library/nonesuch:latest', { code: GRPC.NOT_FOUND, words: /nonesuch/ });
});

test('a reference that is none', { skip }, async () => {
  await pullFails('Not A Reference!', { code: GRPC.INVALID_ARGUMENT, words: /Not A Reference/ });
});

test('a layer whose bytes are not what its digest says', { skip }, async () => {
  const digest = sha256(Buffer.from('something else'));
  await pullFails(publish('wrong-digest', { layerDigest: digest }), { words: /digest/ });
});

test('a layer whose content is not what its diffID says', { skip }, async () => {
  const diffId = sha256(Buffer.from('something else'));
  await pullFails(publish('wrong-diffid', { diffId }), { words: /diff ?id/i });
});

test('a layer that ends early', { skip }, async () => {
  const answer = (path: string, response: ServerResponse) => {
    if (!path.includes('/blobs/')) return false;
    const body = served.get(path)?.body ?? Buffer.alloc(0);
    if (body.subarray(0, 2).toString('hex') !== '1f8b') return false;
    response.writeHead(200, { 'content-length': body.length });
    response.write(body.subarray(0, body.length / 2), () => response.destroy());
    return true;
  };
  await pullFails(publish('truncated', { answer }), { words: /./ });
});

test('a manifest that is no JSON', { skip }, async () => {
  await pullFails(publish('garbage', { manifest: '<html>' }), { words: /manifest/ });
});

test('a registry that fails', { skip }, async () => {
  const answer = (_path: string, response: ServerResponse) => {
    response.writeHead(500).end('the rig is on fire');
    return true;
  };
  await pullFails(publish('on-fire', { answer }), { code: GRPC.UNAVAILABLE, words: /500/ });
});

const ESCAPES: [what: string, layer: () => Buffer][] = [
  ['a path with ..', () => new Rootfs().raw('../../../../../../tmp/sluice-escaped', '0', 'x').done()],
  [
    'a link that leads out',
    () => new Rootfs().raw('out', '2', '', '/../../../../../../../tmp').raw('out/sluice-escaped', '0', 'x').done(),
  ],
  [
    'a hard link to a file outside',
    () => new Rootfs().raw('passwd', '1', '', '../../../../../../../etc/passwd').done(),
  ],
];
for (const [what, layer] of ESCAPES) {
  test(`a layer with ${what} writes nothing outside`, { skip }, async () => {
    const links = statSync('/etc/passwd').nlink;
    const image = publish('escape', { layer: layer() });
    const id = await pull(image).then(
      ({ imageRef }) => imageRef,
      () => undefined,
    );
    assert.equal(existsSync('/tmp/sluice-escaped'), false, 'a file of the layer is in /tmp');
    assert.equal(statSync('/etc/passwd').nlink, links, 'the layer links to the host’s passwd');
    if (id) await lab.daemon.cri.removeImage({ image: imageSpec(image) });
    await lab.assertSound();
  });
}

test('a pod whose sandbox image cannot be pulled', { skip }, async () => {
  const image = 'down.example.com/library/pause:1';
  assert.equal(await lab.daemon.stop(), 0);
  // A pod without a pause process needs no sandbox image.
  lab.daemon.configure({ images: { sandbox_image: image }, runtimes: { runc: { sandbox_mode: 'pause' } } });
  await lab.daemon.start();
  await lab.launchFails('doomed', { code: GRPC.UNAVAILABLE, words: /RegistryUnavailable/ });
  await lab.daemon.assertNothingLeft();
  assert.equal(await lab.daemon.stop(), 0);
  lab.daemon.configure({});
  await lab.daemon.start();
  await lab.assertSound();
});
