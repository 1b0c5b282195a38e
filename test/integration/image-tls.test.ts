/**
 * Pulls over TLS from a registry with an authority of its own that wants client certificates, by hosts.toml and
 * docker's layout. As root.
 */
import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import { syncBuiltinESMExports } from 'node:module';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, mock, test } from 'node:test';
import tls, { type TLSSocket } from 'node:tls';
import { codeOf, explain } from '../../src/errors.ts';
import { Images } from '../../src/node/images/images.ts';
import type { ImageRow, LayerRow } from '../../src/node/images/rows.ts';
import { snapshotWorker } from '../../src/node/images/snapshotters/worker.ts';
import { createLog } from '../../src/node/observe/log.ts';
import { Table } from '../../src/node/store/table.ts';
import { type Pools, startPools } from '../../src/node/threads/pools.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import { buildImage, digestOf, MANIFEST } from '../rig/push.ts';
import { tarball } from '../rig/tarball.ts';

const skip = skipUnlessRoot();
const IMAGE = buildImage({ layers: [tarball([{ path: 'hello', content: 'over TLS' }])] });
let folder: string;
let server: Server;
let pools: Pools;
let images: Images;
const at = (name: string) => join(folder, name);

before(async () => {
  if (skip) return;
  folder = privateFolder('image-tls');
  await certificates();
  const [key, cert, ca] = ['server.key', 'server.crt', 'ca.crt'].map((name) => readFileSync(at(name)));
  server = createServer({ key, cert, ca, requestCert: true, rejectUnauthorized: false }, (request, response) => {
    const { pathname } = new URL(request.url ?? '', 'https://registry');
    const known = (request.socket as TLSSocket).authorized;
    if (pathname.startsWith('/v2/private/') && !known) return response.writeHead(403).end('who are you?');
    const blob = IMAGE.blobs.get(pathname.split('/').at(-1) ?? '');
    const found = pathname.includes('/manifests/') ? IMAGE.body : blob;
    if (!found) return response.writeHead(404).end();
    const headers = { 'content-type': MANIFEST, 'docker-content-digest': digestOf(found) };
    response.writeHead(200, { ...headers, 'content-length': found.length });
    return response.end(request.method === 'HEAD' ? undefined : found);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  hosts(`https://127.0.0.1:${(server.address() as AddressInfo).port}`);
  pools = startPools();
  images = new Images({
    files: hostFiles,
    config: {
      root: at('root'),
      images: {
        sandbox_image: '',
        registry_config: at('certs.d'),
        max_downloads: 4,
        progress_timeout_seconds: 10,
        credentials: '',
        volatile: false,
        snapshotter: 'overlayfs',
        snapshotter_socket: '',
        snapshotter_name: '',
        keep_blobs: false,
        import_folder: '',
        quota: '',
        gc_high_percent: 0,
        gc_low_percent: 80,
        signature_policy: '',
      },
    },
    pool: pools.image,
    ask: (question) => pools.registry.call('ask', question),
    images: new Table<ImageRow>(),
    layers: new Table<LayerRow>(),
    log: createLog({ level: 'error' }),
    usedImages: async () => new Set(),
    diskUsage: async () => undefined,
    lookUpUser: (input) => pools.image.call('lookUpUser', input),
    removeLayer: (dir) => pools.image.call('removeLayer', { dir }),
    snapshots: snapshotWorker(pools),
    warmRegistry: () => pools.registry.call('warm', undefined),
    installPause: (dir) => pools.image.call('installPause', { dir }),
    onLayer: () => {},
    onFetched: () => {},
    onSynced: () => {},
    onCollected: () => {},
    onRetry: () => {},
  });
  await images.recover();
});
after(async () => {
  await pools?.[Symbol.asyncDispose]();
  server?.closeAllConnections();
  server?.close();
  if (folder) rmSync(folder, { recursive: true });
});

/** An authority, and a server's and a client's certificate that it has signed. */
async function certificates(): Promise<void> {
  const openssl = (...args: string[]) => run('openssl', args, { cwd: folder });
  const key = (name: string) =>
    ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', `${name}.key`] as const;
  await openssl('req', '-x509', ...key('ca'), '-out', 'ca.crt', '-days', '2', '-subj', '/CN=authority');
  writeFileSync(at('names'), 'subjectAltName=IP:127.0.0.1');
  for (const name of ['server', 'client']) {
    await openssl('req', ...key(name), '-out', `${name}.csr`, '-subj', `/CN=${name}`);
    const signed = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2', '-extfile', 'names'];
    await openssl('x509', '-req', '-in', `${name}.csr`, '-out', `${name}.crt`, ...signed);
  }
  const both = ['client.crt', 'client.key'].map((name) => readFileSync(at(name), 'utf8'));
  writeFileSync(at('both.pem'), both.join(''));
}

/** What each registry name stands for. */
function hosts(url: string): void {
  const file = (name: string, text: string) => {
    mkdirSync(at(`certs.d/${name}`), { recursive: true });
    writeFileSync(at(`certs.d/${name}/hosts.toml`), text);
  };
  file('none.io', `server = "${url}"\n`);
  file('ca.io', `server = "${url}"\nca = "${at('ca.crt')}"\n`);
  // What people append to a bundle: text, other line ends, and a certificate that is broken.
  const broken = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n';
  const ca = readFileSync(at('ca.crt'), 'utf8').replaceAll('\n', '\r\n');
  writeFileSync(at('bundle.pem'), `subject=broken\n${broken}subject=authority\n${ca}end\n`);
  file('bundle.io', `server = "${url}"\nca = "../../bundle.pem"\n`);
  file('client.io', `server = "${url}"\nca = "../../ca.crt"\nclient = [["../../client.crt", "../../client.key"]]\n`);
  file('both.io', `server = "${url}"\nca = ["../../ca.crt"]\nclient = "../../both.pem"\n`);
  file('skip.io', `server = "${url}"\nskip_verify = true\n`);
  file(
    'mirror.io',
    `server = "https://127.0.0.1:1"\n[host."${url}"]\ncapabilities = ["pull", "resolve"]\nca = "../../ca.crt"\n`,
  );
  file('broken.io', `server = "${url}"\nca = "../../names"\n`);
  const { host } = new URL(url);
  mkdirSync(at(`certs.d/${host}`));
  for (const [from, to] of [
    ['ca.crt', 'ca.crt'],
    ['client.crt', 'me.cert'],
    ['client.key', 'me.key'],
  ] as const)
    copyFileSync(at(from), at(`certs.d/${host}/${to}`));
}

async function pull(reference: string): Promise<void> {
  const held: string[] = [];
  try {
    const resolved = await images.resolve(reference, undefined);
    const row = await images.commit(resolved, await images.fetchLayers(resolved, { onHold: (id) => held.push(id) }));
    assert.equal(row.id, IMAGE.id);
    const lower = (await images.viewMounts(row))[0]?.source ?? '';
    assert.equal(readFileSync(join(lower, 'hello'), 'utf8'), 'over TLS');
    await images.remove(row);
  } finally {
    images.release(held);
    await images.sweep();
  }
}

/** Pulls fail so. */
async function refused(reference: string, code: string, words: RegExp): Promise<void> {
  await assert.rejects(pull(reference), (error) => {
    assert.equal(codeOf(error), code, explain(error));
    assert.match(explain(error), words);
    return true;
  });
}

test('an authority of its own, a client certificate, and skip_verify', { skip }, async () => {
  for (const reference of [
    'ca.io/app',
    'bundle.io/app',
    'mirror.io/app',
    'skip.io/app',
    'client.io/private/app',
    'both.io/private/app',
  ])
    await pull(reference);
  await pull(`127.0.0.1:${(server.address() as AddressInfo).port}/private/app`);
});

test('without them: an unknown authority, no client certificate, files that are none', { skip }, async () => {
  await refused('none.io/app', 'REGISTRY_UNAVAILABLE', /127\.0\.0\.1:\d+ does not answer: .*certificate/);
  await refused('ca.io/private/app', 'REGISTRY_DENIED', /403.*who are you/);
  await refused('skip.io/private/app', 'REGISTRY_DENIED', /403/);
  await refused('broken.io/app', 'CONFIG_INVALID', /broken.io.hosts.toml: .*names does not hold a certificate/);
});

test('no authorities are read on the main thread, which would stand still for a tenth of a second', {
  skip,
}, async () => {
  const calls = (['createSecureContext', 'getCACertificates'] as const).map((name) => mock.method(tls, name));
  syncBuiltinESMExports();
  try {
    await pull('ca.io/app');
    await pull('skip.io/app');
    assert.deepEqual(
      calls.map((call) => call.mock.callCount()),
      [0, 0],
    );
  } finally {
    mock.restoreAll();
    syncBuiltinESMExports();
  }
});
