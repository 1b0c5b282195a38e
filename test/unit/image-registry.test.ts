import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { AuthConfig } from '../../proto/gen/cri.ts';
import { SluiceError } from '../../src/errors.ts';
import { credentialsFor } from '../../src/node/images/credentials.ts';
import { parseReference } from '../../src/node/images/reference.ts';
import { Registry } from '../../src/node/images/registry.ts';
import { resolveImage } from '../../src/node/images/resolve.ts';
import type { ImageRow } from '../../src/node/images/rows.ts';
import { parseChallenges } from '../../src/node/images/tokens.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';
import { ask } from '../../src/workers/http/ask.ts';
import { buildImage, digestOf, MANIFEST } from '../rig/push.ts';

const auth = (fields: Partial<AuthConfig>): AuthConfig => ({ ...AuthConfig.decode(new Uint8Array()), ...fields });
const basic = (user: string, password: string) => Buffer.from(`${user}:${password}`).toString('base64');
const IMAGE = buildImage({ layers: [Buffer.from('a layer')], config: { User: '7' } });
const MANIFEST_DIGEST = digestOf(IMAGE.body);

type Answer = (request: IncomingMessage, response: ServerResponse, url: URL, body: string) => boolean | undefined;

/** An HTTP server on loopback that answers as `first` says, else as a registry which has one image under every name. */
async function fake(t: TestContext, first?: Answer) {
  const seen: { method: string; path: string; query: string; headers: IncomingMessage['headers'] }[] = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const url = new URL(request.url ?? '', 'http://fake');
    seen.push({ method: request.method ?? '', path: url.pathname, query: url.search, headers: request.headers });
    if (first?.(request, response, url, body)) return;
    const blob = IMAGE.blobs.get(url.pathname.split('/').at(-1) ?? '');
    const found = url.pathname.includes('/manifests/') ? IMAGE.body : blob;
    if (!found) return void response.writeHead(404).end();
    response.writeHead(200, {
      'content-type': blob ? 'application/octet-stream' : MANIFEST,
      'docker-content-digest': digestOf(found),
      'content-length': found.length,
    });
    response.end(request.method === 'HEAD' ? undefined : found);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  return { address, seen, count: (method: string) => seen.filter((one) => one.method === method).length };
}

/** A registry client that asks these hosts for everything. */
function client(t: TestContext, ...addresses: string[]) {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-registry-'));
  mkdirSync(join(folder, '_default'));
  const tables = addresses.slice(0, -1).map((address) => `[host."http://${address}"]\n`);
  writeFileSync(join(folder, '_default/hosts.toml'), `server = "http://${addresses.at(-1)}"\n${tables.join('')}`);
  let retries = 0;
  const registry = new Registry({ config: folder, files: hostFiles, ask, onRetry: () => retries++, backOffMs: 1 });
  t.after(() => rmSync(folder, { recursive: true }));
  const resolve = async (reference: string, login?: AuthConfig) =>
    resolveImage(await registry.open(parseReference(reference), login), () => undefined);
  return { registry, resolve, retries: () => retries };
}

const fails = (code: string, words: RegExp) => (error: unknown) => {
  assert.ok(error instanceof SluiceError, String(error));
  const all = [error.message, (error.cause as Error | undefined)?.message].join(': ');
  assert.equal(error.code, code, all);
  assert.match(all, words);
  return true;
};

test('an image is resolved: HEAD, manifest by its digest, config', async (t) => {
  const registry = await fake(t);
  const { image, digest } = await client(t, registry.address).resolve('reg.io/app:1');
  assert.equal(digest, MANIFEST_DIGEST);
  assert.equal(image?.id, IMAGE.id);
  assert.equal(image?.config.User, '7');
  assert.equal(image?.diffIds[0], digestOf(Buffer.from('a layer')));
  assert.equal(
    image?.size,
    [...IMAGE.blobs.values()].reduce((sum, blob) => sum + blob.length, IMAGE.body.length),
  );
  assert.deepEqual(
    registry.seen.map(({ method, path, query }) => `${method} ${path}${query}`),
    [
      'HEAD /v2/app/manifests/1?ns=reg.io',
      `GET /v2/app/manifests/${MANIFEST_DIGEST}?ns=reg.io`,
      `GET /v2/app/blobs/${IMAGE.id}?ns=reg.io`,
    ],
  );
  assert.match(registry.seen[0]?.headers['user-agent'] ?? '', /^sluice\/\d/);
  assert.match(
    registry.seen[0]?.headers.accept ?? '',
    /oci\.image\.index.*docker.distribution.manifest.list|docker.*oci/,
  );
});

test('an image on the node is given to nobody whom its registry refuses, by its digest neither', async (t) => {
  const registry = await fake(t, (request, response) => {
    if (request.headers.authorization !== undefined) return false;
    response.writeHead(401, { 'www-authenticate': 'Basic realm="r"' }).end();
    return true;
  });
  const { registry: own } = client(t, registry.address);
  const row = { id: IMAGE.id } as ImageRow;
  const open = async (login?: AuthConfig) =>
    resolveImage(await own.open(parseReference(`reg.io/app@${MANIFEST_DIGEST}`), login), () => row);
  await assert.rejects(open(), fails('REGISTRY_DENIED', /401/));
  registry.seen.splice(0);
  assert.equal((await open(auth({ username: 'me', password: 'pw' }))).present, row);
  assert.equal(registry.count('GET'), 0, 'Docker Hub counts each GET of a manifest as a pull');
});

test('a registry on this machine needs no hosts.toml: plain http when it speaks no TLS', async (t) => {
  const registry = await fake(t);
  const own = new Registry({ config: '/nonexistent', files: hostFiles, ask, backOffMs: 1 });
  const repository = await own.open(parseReference(`${registry.address}/app`), undefined);
  assert.equal((await repository.resolve()).digest, MANIFEST_DIGEST);
  const source = await repository.layer({ digest: 'sha256:x' }, async ({ url }) => url);
  assert.equal(source, `http://${registry.address}/v2/app/blobs/sha256:x`);
});

test('a token is asked for once, kept, and renewed when the registry refuses it', async (t) => {
  let valid = 'one';
  let given = 0;
  const registry = await fake(t, (request, response, url, body) => {
    if (url.pathname === '/token') {
      given++;
      const form = new URLSearchParams(body);
      assert.equal(request.method, 'POST');
      assert.equal(form.get('grant_type'), 'password');
      assert.equal(form.get('username'), 'me');
      assert.equal(form.get('scope'), 'repository:app:pull');
      response.end(JSON.stringify({ access_token: valid, expires_in: 300 }));
      return true;
    }
    if (request.headers.authorization === `Bearer ${valid}`) return false;
    const challenge = `Bearer realm="http://${registry.address}/token",service="s",scope="repository:app:pull"`;
    response.writeHead(401, { 'www-authenticate': challenge }).end();
    return true;
  });
  const { resolve, registry: own } = client(t, registry.address);
  const login = auth({ username: 'me', password: 'pw' });
  await resolve('reg.io/app', login);
  assert.equal(given, 1);
  valid = 'two';
  await resolve('reg.io/app', login);
  assert.equal(given, 2, 'the refused token was not renewed');

  // The same for a layer, whose worker asks for a new token.
  const repository = await own.open(parseReference('reg.io/app'), login);
  valid = 'three';
  const tokens: unknown[] = [];
  const origin = `http://${registry.address}`;
  await repository.layer({ digest: 'sha256:x' }, async ({ authorizations }, renew) => {
    tokens.push(authorizations[origin]);
    const challenge = `Bearer realm="${origin}/token",service="s",scope="repository:app:pull"`;
    const renewed = await renew({ status: 401, challenge, url: `${origin}/v2/app/blobs/sha256:x` });
    tokens.push(renewed?.[origin]);
  });
  assert.deepEqual(tokens, ['Bearer two', 'Bearer three']);
  assert.equal(given, 3);
});

test('a token server that is busy, in trouble or hangs up is asked again', async (t) => {
  for (const trouble of [429, 503, 'hang up']) {
    let asked = 0;
    const registry = await fake(t, (request, response, url) => {
      if (url.pathname === '/token') {
        if (++asked === 2) response.end('{"token":"t"}');
        else if (typeof trouble === 'number') response.writeHead(trouble, { 'retry-after': '0' }).end();
        else request.socket.destroy();
        return true;
      }
      if (request.headers.authorization === 'Bearer t') return false;
      response.writeHead(401, { 'www-authenticate': `Bearer realm="http://${registry.address}/token"` }).end();
      return true;
    });
    await client(t, registry.address).resolve('reg.io/app');
    assert.equal(asked, 2, String(trouble));
  }
});

test('a token server without OAuth is asked with GET and Basic, an anonymous one without', async (t) => {
  const asked: string[] = [];
  const registry = await fake(t, (request, response, url) => {
    if (url.pathname === '/token') {
      asked.push(`${request.method} ${request.headers.authorization ?? 'nobody'}`);
      if (request.method === 'POST') response.writeHead(405).end();
      else response.end(JSON.stringify({ token: 't' }));
      return true;
    }
    if (request.headers.authorization === 'Bearer t') return false;
    response.writeHead(401, { 'www-authenticate': `Bearer realm="http://${registry.address}/token"` }).end();
    return true;
  });
  const { resolve } = client(t, registry.address);
  await resolve('reg.io/app', auth({ username: 'me', password: 'pw' }));
  await resolve('reg.io/app');
  assert.deepEqual(asked, ['POST nobody', `GET Basic ${basic('me', 'pw')}`, 'GET nobody']);
});

test('Basic: with the right login, a wrong one, none', async (t) => {
  const registry = await fake(t, (request, response) => {
    if (request.headers.authorization === `Basic ${basic('me', 'p:w')}`) return false;
    response
      .writeHead(401, { 'www-authenticate': 'Basic realm="r"' })
      .end('{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}');
    return true;
  });
  const { resolve } = client(t, registry.address);
  await resolve('reg.io/app', auth({ auth: basic('me', 'p:w') }));
  await assert.rejects(resolve('reg.io/app', auth({ username: 'me', password: 'x' })), fails('REGISTRY_DENIED', /401/));
  await assert.rejects(resolve('reg.io/app'), fails('REGISTRY_DENIED', /401/));
  assert.ok(registry.seen.length < 12, `${registry.seen.length} requests`);
});

test('429 is tried again after Retry-After, 500 a few times', async (t) => {
  let busy = 2;
  const began = performance.now();
  const registry = await fake(t, (_, response) => {
    if (busy-- <= 0) return false;
    response.writeHead(busy === 1 ? 429 : 503, { 'retry-after': busy === 1 ? '1' : '0' }).end();
    return true;
  });
  const { resolve, retries } = client(t, registry.address);
  await resolve('reg.io/app');
  assert.equal(retries(), 2);
  assert.ok(performance.now() - began > 950, 'Retry-After was not kept to');

  const broken = await fake(t, (_, response) => {
    response.writeHead(500).end('on fire');
    return true;
  });
  await assert.rejects(client(t, broken.address).resolve('reg.io/app'), fails('REGISTRY_UNAVAILABLE', /500/));
  assert.equal(broken.seen.length, 3);
});

test('content that is not what its digest says', async (t) => {
  const lies = (part: string) => (request: IncomingMessage, response: ServerResponse, url: URL) => {
    if (request.method !== 'GET' || !url.pathname.includes(part)) return false;
    response.end('{"something":"else"}');
    return true;
  };
  for (const part of ['/manifests/', '/blobs/']) {
    const liar = await fake(t, lies(part));
    await assert.rejects(client(t, liar.address).resolve('reg.io/app'), fails('IMAGE_INVALID', /instead of sha256:/));
    // A mirror that lies is passed by.
    const good = await fake(t);
    assert.equal((await client(t, liar.address, good.address).resolve('reg.io/app')).image?.id, IMAGE.id);
  }
});

test('a dead mirror is passed by, and remembered', async (t) => {
  const good = await fake(t);
  const mirror = await fake(t, (request) => {
    request.socket.destroy();
    return true;
  });
  const { resolve } = client(t, mirror.address, good.address);
  await resolve('reg.io/app');
  const asked = mirror.seen.length;
  assert.ok(asked > 0);
  await resolve('reg.io/app');
  assert.equal(mirror.seen.length, asked, 'the dead mirror was asked again at once');
});

test('mirrors without the image lead to the registry; what it says counts', async (t) => {
  const lacks = await fake(t, (_, response) => {
    response.writeHead(404).end();
    return true;
  });
  const has = await fake(t);
  assert.equal((await client(t, lacks.address, has.address).resolve('reg.io/app')).digest, MANIFEST_DIGEST);
  await assert.rejects(client(t, lacks.address, lacks.address).resolve('reg.io/app'), fails('IMAGE_NOT_FOUND', /404/));
  await assert.rejects(client(t, '127.0.0.1:1').resolve('reg.io/app'), fails('REGISTRY_UNAVAILABLE', /127\.0\.0\.1:1/));
});

test('a redirect is followed, and the login stays behind', async (t) => {
  const cdn = await fake(t);
  const registry = await fake(t, (request, response, url) => {
    if (request.headers.authorization === undefined) {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="r"' }).end();
      return true;
    }
    if (!url.pathname.includes('/blobs/')) return false;
    response.writeHead(307, { location: `http://${cdn.address}${url.pathname}` }).end();
    return true;
  });
  await client(t, registry.address).resolve('reg.io/app', auth({ username: 'me', password: 'pw' }));
  assert.equal(cdn.seen.length, 1);
  assert.equal(cdn.seen[0]?.headers.authorization, undefined);

  const circle = await fake(t, (_, response, url) => {
    response.writeHead(302, { location: url.pathname }).end();
    return true;
  });
  await assert.rejects(
    client(t, circle.address).resolve('reg.io/app'),
    fails('REGISTRY_UNAVAILABLE', /redirects more than 10/),
  );
});

test('a registry without HEAD and without a digest header', async (t) => {
  const registry = await fake(t, (request, response, url) => {
    if (request.method === 'HEAD') {
      response.writeHead(405).end();
      return true;
    }
    if (!url.pathname.includes('/manifests/')) return false;
    response.writeHead(200, { 'content-type': MANIFEST }).end(IMAGE.body);
    return true;
  });
  assert.equal((await client(t, registry.address).resolve('reg.io/app')).digest, MANIFEST_DIGEST);
  assert.equal(registry.count('GET'), 2);
});

test('a manifest without end is not read to it', async (t) => {
  const registry = await fake(t, (request, response, url) => {
    if (request.method !== 'GET' || !url.pathname.includes('/manifests/')) return false;
    response.end(Buffer.alloc(5 << 20));
    return true;
  });
  await assert.rejects(client(t, registry.address).resolve('reg.io/app'), fails('IMAGE_INVALID', /longer than/));
});

test('credentials of a request', () => {
  assert.equal(credentialsFor(undefined, 'reg.io'), undefined);
  assert.equal(credentialsFor(auth({}), 'reg.io'), undefined);
  const login = { kind: 'password', username: 'u', password: 'p' };
  assert.deepEqual(credentialsFor(auth({ username: 'u', password: 'p' }), 'reg.io'), login);
  assert.deepEqual(credentialsFor(auth({ auth: basic('u', 'p\0\0') }), 'reg.io'), login);
  assert.deepEqual(credentialsFor(auth({ username: 'u', password: 'p', serverAddress: 'reg.io' }), 'reg.io'), login);
  assert.deepEqual(
    credentialsFor(auth({ username: 'u', password: 'p', serverAddress: 'https://reg.io/v2/' }), 'reg.io'),
    login,
  );
  assert.equal(credentialsFor(auth({ username: 'u', serverAddress: 'https://other.io' }), 'reg.io'), undefined);
  const hub = auth({ username: 'u', password: 'p', serverAddress: 'https://index.docker.io/v1/' });
  assert.deepEqual(credentialsFor(hub, 'registry-1.docker.io'), login);
  assert.deepEqual(credentialsFor(auth({ identityToken: 'i' }), 'reg.io'), { kind: 'identity', token: 'i' });
  assert.deepEqual(credentialsFor(auth({ registryToken: 'r' }), 'reg.io'), { kind: 'registry', token: 'r' });
  assert.throws(() => credentialsFor(auth({ auth: 'bm9jb2xvbg==' }), 'reg.io'), { code: 'INVALID_REQUEST' });
});

test('challenges', () => {
  const header = 'Basic realm="a, b", Bearer realm="https://t/x?a=b",service=s , scope="x \\"y\\"", Negotiate';
  assert.deepEqual(parseChallenges(header), [
    { scheme: 'basic', parameters: { realm: 'a, b' } },
    { scheme: 'bearer', parameters: { realm: 'https://t/x?a=b', service: 's', scope: 'x "y"' } },
    { scheme: 'negotiate', parameters: {} },
  ]);
  assert.deepEqual(parseChallenges(undefined), []);
});
