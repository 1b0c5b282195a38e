/**
 * What registries do wrong: each gets an error of its own with the registry's words, leaves nothing, and the next pull
 * works. As root.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createServer as createNetServer, type Server } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, type ErrorCode, explain } from '../../src/errors.ts';
import type { Images } from '../../src/node/images/images.ts';
import { type Pools, startPools } from '../../src/node/threads/pools.ts';
import { mount, unmount } from '../../src/sys/mount.ts';
import { type FakeImage, FakeRegistries, fakeImage as image, type Rule, serving } from '../rig/fake-registry.ts';
import { makeImages, pullImage } from '../rig/images-service.ts';
import { privateFolder } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root: layers have owners and devices';
const folder = privateFolder('bad-input');
const certs = join(folder, 'certs.d');
const registries = new FakeRegistries(certs);
let pools: Pools;
let images: Images;

before(async () => {
  pools = startPools();
  const root = join(folder, 'root');
  images = await makeImages(pools, { root, registryConfig: certs, progressTimeoutSeconds: 1 });
});
after(async () => {
  await pools?.[Symbol.asyncDispose]();
  registries[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

const host = (url: string) => registries.host(url);
const listen = (server: Server) => registries.listen(server);
const serve = (own: FakeImage, rule?: Rule) => registries.serve(own, rule);

async function fails(name: string, code: ErrorCode, words: RegExp): Promise<void> {
  const error = await pullImage(images, `${name}/app:1`).then(
    () => assert.fail('it was pulled'),
    (reason: unknown) => reason,
  );
  assert.equal(codeOf(error), code, explain(error));
  assert.match(explain(error), words);
  assert.deepEqual(readdirSync(images.layers.folder).sort(), ['1', '_'], 'something is left beside the pause image');
  const good = await serve(image({ size: 1000 }));
  await images.remove(await pullImage(images, `${good}/app:1`));
}

const OCI_ERROR = (code: string, message: string) => JSON.stringify({ errors: [{ code, message }] });
/** Answers every request for one part of the image so. */
const always =
  (part: 'manifest' | 'config' | 'layer', status: number, body: string, headers = {}): Rule =>
  (_, response, what) => {
    if (what !== part) return false;
    response.writeHead(status, headers).end(body);
    return true;
  };

test('unknown host, refused, reset, mute', { skip }, async () => {
  await fails(
    host('http://no-such-host.invalid'),
    'REGISTRY_UNAVAILABLE',
    /no-such-host\.invalid.*(?:ENOTFOUND|EAI_AGAIN)/,
  );
  await fails(host('http://127.0.0.1:1'), 'REGISTRY_UNAVAILABLE', /ECONNREFUSED 127\.0\.0\.1:1/);
  const reset = createNetServer((socket) => socket.resetAndDestroy());
  await fails(host(`http://${await listen(reset)}`), 'REGISTRY_UNAVAILABLE', /ECONNRESET|other side closed/);
});

test('TLS: an unknown authority, and plain http where TLS is wanted', { skip }, async () => {
  const at = (name: string) => join(folder, name);
  await run('openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'],
    ...['-subj', '/CN=x', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', at('key'), '-out', at('cert')],
  ]);
  const tls = createTlsServer({ key: readFileSync(at('key')), cert: readFileSync(at('cert')) }, serving(image()));
  await fails(host(`https://${await listen(tls)}`), 'REGISTRY_UNAVAILABLE', /self-signed certificate/);
  const plain = await listen(createServer(serving(image())));
  await fails(host(`https://${plain}`), 'REGISTRY_UNAVAILABLE', /wrong version number|packet length too long|SSL/i);
});

test('unauthorised, forbidden, not found, rate-limited for ever: with the registry’s words', { skip }, async () => {
  const basic = { 'www-authenticate': 'Basic realm="r"' };
  const refuse = (status: number, code: string, message: string, headers = {}) =>
    serve(image(), always('manifest', status, OCI_ERROR(code, message), headers));
  await fails(
    await refuse(401, 'UNAUTHORIZED', 'log in first', basic),
    'REGISTRY_DENIED',
    /401: UNAUTHORIZED: log in first/,
  );
  await fails(await refuse(403, 'DENIED', 'not for you'), 'REGISTRY_DENIED', /403: DENIED: not for you/);
  await fails(
    await refuse(404, 'MANIFEST_UNKNOWN', 'manifest unknown'),
    'IMAGE_NOT_FOUND',
    /404: MANIFEST_UNKNOWN.*not found/,
  );
  const limited = await refuse(429, 'TOOMANYREQUESTS', 'slow down', { 'retry-after': '0' });
  await fails(limited, 'REGISTRY_UNAVAILABLE', /429/);
  await fails(
    await serve(image(), always('layer', 404, OCI_ERROR('BLOB_UNKNOWN', 'gone'))),
    'IMAGE_NOT_FOUND',
    /404: BLOB_UNKNOWN: gone/,
  );
  await fails(
    await serve(image(), always('layer', 403, 'blocked by scanner')),
    'REGISTRY_DENIED',
    /403: blocked by scanner/,
  );
});

test('HTML for JSON, wrong media types, wrong digests and sizes', { skip }, async () => {
  const login = '<html><head><title>Sign in</title></head></html>';
  const page = await serve(image(), (request, response, what) => {
    if (what !== 'manifest') return false;
    response.writeHead(200, { 'content-type': 'text/html' }).end(request.method === 'HEAD' ? undefined : login);
    return true;
  });
  await fails(page, 'IMAGE_INVALID', /the manifest is not JSON \(it begins with "<html>/);
  await fails(await serve(image({ layer: { mediaType: 'text/plain' } })), 'IMAGE_INVALID', /unknown type text\/plain/);
  const encrypted = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip+encrypted' };
  await fails(await serve(image({ layer: encrypted })), 'IMAGE_INVALID', /is encrypted/);
  await fails(await serve(image({ manifest: { schemaVersion: 1 } })), 'IMAGE_INVALID', /schema 1/);
  await fails(await serve(image({ config: { os: 'windows' } })), 'IMAGE_INVALID', /for windows, not for linux/);
  await fails(
    await serve(image(), always('config', 200, '{}')),
    'IMAGE_INVALID',
    /has the digest sha256:.* instead of/,
  );
  const other = randomBytes(1000).toString('hex');
  await fails(
    await serve(image(), always('layer', 200, other)),
    'IMAGE_INVALID',
    /has 2000 bytes, its descriptor says/,
  );
  const own = image();
  const swapped = Buffer.from(own.layer);
  swapped[swapped.length - 9] = (swapped[swapped.length - 9] ?? 0) ^ 1;
  const wrong = await serve(own, (_, response, what) => what === 'layer' && response.end(swapped));
  await fails(wrong, 'IMAGE_INVALID', /digest should be sha256:.* and is sha256:/);
  const diff = image({ config: { rootfs: { type: 'layers', diff_ids: [`sha256:${'0'.repeat(64)}`] } } });
  await fails(await serve(diff), 'IMAGE_INVALID', /diffID should be sha256:0000.* and is sha256:/);
});

test('truncated, stalled, dripping', { skip }, async () => {
  const own = image();
  const cut: Rule = (_, response, what) => {
    if (what !== 'layer') return false;
    response.writeHead(200, { 'content-length': own.layer.length });
    response.write(own.layer.subarray(0, 1000), () => response.destroy());
    return true;
  };
  await fails(await serve(own, cut), 'REGISTRY_UNAVAILABLE', /after 6 tries/);
  const stall: Rule = (_, response, what) => {
    if (what !== 'layer') return false;
    response.writeHead(200, { 'content-length': own.layer.length });
    response.write(own.layer.subarray(0, 1000));
    return true;
  };
  await fails(await serve(own, stall), 'TIMED_OUT', /has sent nothing for 1 s/);
  const drip: Rule = (_, response, what) => {
    if (what !== 'layer') return false;
    response.writeHead(200, { 'content-length': own.layer.length });
    void (async () => {
      for (let at = 0; at < own.layer.length && !response.destroyed; at++) {
        response.write(own.layer.subarray(at, at + 1));
        await sleep(50);
      }
    })();
    return true;
  };
  await fails(await serve(own, drip), 'TIMED_OUT', /has sent only \d+ bytes in 1 s/);
});

test('a registry that lies about ranges: the layer comes once more, over one connection', { skip }, async () => {
  const own = image({ size: 2_000_000 });
  const seen: (string | undefined)[] = [];
  const liar = await serve(own, (request, response, what) => {
    if (what !== 'layer') return false;
    seen.push(request.headers.range);
    const from = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    if (seen.length === 1) {
      response.writeHead(200, { 'content-length': own.layer.length });
      response.write(own.layer.subarray(0, 500_000), () => response.destroy());
      return true;
    }
    if (from === 0) return false;
    const size = own.layer.length;
    response.writeHead(206, { 'content-range': `bytes ${from}-${size - 1}/${size}`, 'content-length': size - from });
    response.end(own.layer.subarray(0, size - from)); // the beginning once more
    return true;
  });
  await images.remove(await pullImage(images, `${liar}/app:1`));
  assert.equal(seen.at(-1), undefined);
});

test('a disk that is full half-way', { skip }, async () => {
  const root = join(folder, 'small');
  mkdirSync(root);
  mount({ source: 'tmpfs', target: root, type: 'tmpfs', data: 'size=4m' });
  try {
    const small = await makeImages(pools, { root, registryConfig: certs });
    const large = await serve(image({ size: 6_000_000 }));
    const error = await pullImage(small, `${large}/app:1`).then(
      () => assert.fail('it was pulled'),
      (reason: unknown) => reason,
    );
    assert.equal(codeOf(error), 'DISK_FULL', explain(error));
    assert.deepEqual(readdirSync(small.layers.folder).sort(), ['1', '_']);
    await pullImage(small, `${await serve(image({ size: 1000 }))}/app:1`);
  } finally {
    unmount(root);
  }
});

test('a pull is cancelled at once; a layer that another pull wants goes on', { skip }, async () => {
  const shared = image({ size: 3_000_000 });
  let open = 0;
  const slow: Rule = (_, response, what) => {
    if (what !== 'layer') return false;
    open++;
    response.on('close', () => open--);
    response.writeHead(200, { 'content-length': shared.layer.length });
    void (async () => {
      for (let at = 0; at < shared.layer.length && !response.destroyed; at += 100_000) {
        response.write(shared.layer.subarray(at, at + 100_000));
        await sleep(50);
      }
      response.end();
    })();
    return true;
  };
  const name = await serve(shared, slow);
  const abort = new AbortController();
  const alone = pullImage(images, `${name}/app:1`, { signal: abort.signal });
  await sleep(400);
  abort.abort();
  const began = performance.now();
  await assert.rejects(alone, { code: 'CALLER_GONE' });
  assert.ok(performance.now() - began < 1000);
  for (let i = 0; i < 100 && open > 0; i++) await sleep(20);
  assert.equal(open, 0, 'the download goes on');

  const second = new AbortController();
  const [first, joined] = [
    pullImage(images, `${name}/app:1`, { signal: second.signal }),
    pullImage(images, `${name}/other:1`),
  ];
  await sleep(400);
  second.abort();
  await assert.rejects(first, { code: 'CALLER_GONE' });
  const row = await joined;
  assert.equal(row.layers.length, 1);
  await images.remove(row);
  assert.deepEqual(readdirSync(images.layers.folder).sort(), ['1', '_']);
});
