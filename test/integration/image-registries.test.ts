/**
 * What real registries do, played by scripts: how Harbor, ECR, GHCR, Quay and Artifactory log in, redirect and answer;
 * and forms of HTTP that Go's client takes, which registries and proxies have been tried with. As root.
 */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { AuthConfig } from '../../proto/gen/cri.ts';
import { explain } from '../../src/errors.ts';
import type { Images } from '../../src/node/images/images.ts';
import { type Pools, startPools } from '../../src/node/threads/pools.ts';
import { FakeRegistries, fakeImage, MANIFEST, type Rule, serving, sha256, whatIs } from '../rig/fake-registry.ts';
import { makeImages, pullImage } from '../rig/images-service.ts';
import { privateFolder } from '../rig/paths.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root: layers have owners and devices';
const folder = privateFolder('registries');
const registries = new FakeRegistries(join(folder, 'certs.d'));
let pools: Pools;
let images: Images;

before(async () => {
  pools = startPools();
  images = await makeImages(pools, { root: join(folder, 'root'), registryConfig: registries.certs });
});
after(async () => {
  await pools?.[Symbol.asyncDispose]();
  registries[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** Pulls NAME/REPOSITORY:TAG and removes it again. */
async function pulls(reference: string, auth?: AuthConfig): Promise<void> {
  try {
    await images.remove(await pullImage(images, reference, { auth }));
  } catch (error) {
    assert.fail(explain(error));
  }
}

const login = (username: string, password: string): AuthConfig => ({
  ...AuthConfig.decode(new Uint8Array()),
  username,
  password,
});
const basic = (user: string, password: string) => `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;
const json = (response: ServerResponse, status: number, body: object, headers = {}) => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
  return true;
};
const errors = (code: string, message: string) => ({ errors: [{ code, message, detail: {} }] });
const originOf = (request: IncomingMessage) => `http://${request.headers.host}`;
const pathOf = (request: IncomingMessage) => new URL(request.url ?? '', 'http://fake');

/**
 * An object store: it takes signed addresses alone, and refuses a request that brings another authorization as S3 does.
 */
async function store(image: ReturnType<typeof fakeImage>, seen: string[] = []): Promise<string> {
  const server = createServer((request, response) => {
    seen.push(`${request.method} ${request.url}`);
    if (request.headers.authorization !== undefined) {
      const words = '<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>';
      return void response.writeHead(400, { 'content-type': 'application/xml' }).end(words);
    }
    // The address is signed for GET.
    if (request.method !== 'GET' || !pathOf(request).searchParams.has('X-Amz-Signature'))
      return void response.writeHead(403).end('<Error><Code>SignatureDoesNotMatch</Code></Error>');
    response.removeHeader('date');
    serving(image)(request, response);
  });
  return registries.listen(server);
}

/** Sends requests for blobs to the store, with this status. */
const toStore = (address: string, request: IncomingMessage, response: ServerResponse, status: number): true => {
  const location = `http://${address}${pathOf(request).pathname}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0a%2Fb`;
  response.writeHead(status, { location, 'content-type': 'text/html' }).end(`<a href="${location}">moved</a>`);
  return true;
};

test('Harbor: a token for a robot account, a cache whose HEAD knows nothing yet, blobs behind a redirect', {
  skip,
}, async () => {
  const image = fakeImage();
  const address = await store(image);
  let cached = false;
  const rule: Rule = (request, response, what) => {
    const url = pathOf(request);
    if (url.pathname === '/service/token') {
      if (request.method === 'POST') return json(response, 404, errors('NOT_FOUND', 'page not found'));
      if (request.headers.authorization !== basic('robot$library+node', 'secret'))
        return json(response, 401, errors('UNAUTHORIZED', 'unauthorized'));
      assert.equal(url.searchParams.get('service'), 'harbor-registry');
      assert.equal(url.searchParams.get('scope'), 'repository:proxy/library/app:pull');
      return json(response, 200, {
        token: 'harbor',
        access_token: '',
        expires_in: 1800,
        issued_at: '2026-01-01T00:00:00Z',
      });
    }
    if (request.headers.authorization !== 'Bearer harbor') {
      const realm = `${originOf(request)}/service/token`;
      const challenge = `Bearer realm="${realm}",service="harbor-registry",scope="repository:proxy/library/app:pull"`;
      const body = errors('UNAUTHORIZED', 'unauthorized to access repository: proxy/library/app');
      return json(response, 401, body, { 'www-authenticate': challenge, 'set-cookie': 'sid=1; Path=/; HttpOnly' });
    }
    if (what !== 'manifest') return toStore(address, request, response, 307);
    if (request.method === 'HEAD' && !cached) return json(response, 404, errors('NOT_FOUND', 'not cached yet'));
    cached = true;
    return false;
  };
  const name = await registries.serve(image, rule);
  await pulls(`${name}/proxy/library/app:1`, login('robot$library+node', 'secret'));
});

test('ECR: basic with a long token, blobs at an address that is signed for GET and for nobody’s token', {
  skip,
}, async () => {
  const image = fakeImage();
  const seen: string[] = [];
  const address = await store(image, seen);
  const password = 'eyJ'.padEnd(4000, 'A');
  const rule: Rule = (request, response, what) => {
    if (request.headers.authorization !== basic('AWS', password)) {
      const challenge = `Basic realm="${originOf(request)}/",service="ecr.amazonaws.com"`;
      response.writeHead(401, { 'www-authenticate': challenge, 'docker-distribution-api-version': 'registry/2.0' });
      response.end('Not Authorized\n');
      return true;
    }
    return what === 'manifest' ? false : toStore(address, request, response, 307);
  };
  const name = await registries.serve(image, rule);
  await pulls(`${name}/app:1`, login('AWS', password));
  assert.deepEqual([...new Set(seen.map((line) => line.split(' ')[0]))], ['GET']);
});

test('GHCR: a token for everybody from a server without POST, a scope that is a placeholder, 403 for what is hidden', {
  skip,
}, async () => {
  const image = fakeImage();
  const rule: Rule = (request, response) => {
    const url = pathOf(request);
    if (url.pathname === '/token') {
      if (request.method !== 'GET') return json(response, 405, errors('UNSUPPORTED', 'method not allowed'));
      const scope = url.searchParams.get('scope');
      if (scope !== 'repository:owner/app:pull') return json(response, 403, errors('DENIED', `no scope ${scope}`));
      return json(response, 200, { token: 'djE6b3duZXIvYXBwOjE=' });
    }
    if (request.headers.authorization === 'Bearer djE6b3duZXIvYXBwOjE=') return false;
    const challenge = `Bearer realm="${originOf(request)}/token",service="ghcr.io",scope="repository:owner/app:pull"`;
    return json(response, 401, errors('UNAUTHORIZED', 'authentication required'), { 'www-authenticate': challenge });
  };
  const name = await registries.serve(image, rule);
  await pulls(`${name}/owner/app:1`);
  await assert.rejects(pullImage(images, `${name}/owner/hidden:1`), { code: 'REGISTRY_DENIED' });
});

test('Quay: v2/auth without OAuth, an organisation’s robot, blobs by 302 from a CDN', { skip }, async () => {
  const image = fakeImage();
  const address = await store(image);
  const token = `eyJhbGciOiJSUzI1NiIs.${'x'.repeat(3000)}.sig`;
  const rule: Rule = (request, response, what) => {
    const url = pathOf(request);
    if (url.pathname === '/v2/auth') {
      if (request.method === 'POST') {
        response.writeHead(405, { 'content-type': 'text/html', allow: 'GET, HEAD, OPTIONS' });
        response.end('<!doctype html><title>405 Method Not Allowed</title>');
        return true;
      }
      assert.equal(request.headers.authorization, basic('org+robot', 'pass:with:colons'));
      assert.equal(url.searchParams.get('account'), 'org+robot');
      return json(response, 200, { token });
    }
    if (request.headers.authorization !== `Bearer ${token}`) {
      const challenge = `Bearer realm="${originOf(request)}/v2/auth",service="quay.io",scope="repository:org/app:pull"`;
      const body = errors('UNAUTHORIZED', 'access to the requested resource is not authorized');
      return json(response, 401, body, { 'www-authenticate': challenge });
    }
    return what === 'manifest' ? false : toStore(address, request, response, 302);
  };
  const name = await registries.serve(image, rule);
  await pulls(`${name}/org/app:1`, login('org+robot', 'pass:with:colons'));
});

test('Artifactory: below a path, two challenges at once, its own login page, chunked manifests, no ranges', {
  skip,
}, async () => {
  const image = fakeImage();
  const plain = serving(image);
  const server = createServer((request, response) => {
    const url = pathOf(request);
    if (!url.pathname.startsWith('/artifactory/api/docker/remote/v2/'))
      return void response.writeHead(401, { 'content-type': 'text/html' }).end('<html><title>Sign in</title></html>');
    if (url.pathname.endsWith('/v2/token')) {
      if (request.headers.authorization !== basic('ci', 'key'))
        return void json(response, 401, errors('UNAUTHORIZED', 'bad'));
      return void json(response, 200, { token: 'art', expires_in: 3600 });
    }
    if (request.headers.authorization !== 'Bearer art') {
      const realm = `${originOf(request)}/artifactory/api/docker/remote/v2/token`;
      response.setHeader('www-authenticate', [
        'Basic realm="Artifactory Realm"',
        `Bearer realm="${realm}",service="${request.headers.host}",scope="repository:app:pull"`,
      ]);
      return void json(response, 401, errors('UNAUTHORIZED', 'authentication is required'));
    }
    response.setHeader('x-artifactory-node-id', 'a1');
    response.setHeader('content-disposition', 'attachment; filename="manifest.json"; filename*=UTF-8\'\'manifest.json');
    if (whatIs(url.pathname, image) !== 'manifest') return void plain(request, response);
    response.setHeader('docker-content-digest', sha256(image.manifest));
    response.writeHead(200, { 'content-type': `${MANIFEST};charset=utf-8`, 'transfer-encoding': 'chunked' });
    response.end(request.method === 'HEAD' ? undefined : image.manifest);
  });
  const address = await registries.listen(server);
  const name = registries.host(`http://${address}/artifactory/api/docker/remote/v2`, 'override_path = true\n');
  await pulls(`${name}/app:1`, login('ci', 'key'));
});

/** The parts of an answer that is written byte by byte. */
interface Raw {
  /** The lines of the head, each with its end; `length` is that of the body. */
  head: (length: number) => string;
  body?: (body: Buffer) => Buffer;
}

const lines = (...all: string[]) => all.map((line) => `${line}\r\n`).join('');
const chunks = (body: Buffer, extension = '', trailer = '') =>
  Buffer.concat([
    ...Array.from({ length: Math.ceil(body.length / 50_000) }, (_, at) => {
      const piece = body.subarray(at * 50_000, (at + 1) * 50_000);
      return Buffer.concat([Buffer.from(`${piece.length.toString(16)}${extension}\r\n`), piece, Buffer.from('\r\n')]);
    }),
    Buffer.from(`0${extension}\r\n${trailer}\r\n`),
  ]);

const RAW: Record<string, Raw> = {
  'no reason behind the status': { head: (n) => lines('HTTP/1.1 200', `Content-Length: ${n}`, '') },
  'an empty reason': { head: (n) => lines('HTTP/1.1 200 ', `Content-Length: ${n}`, '') },
  'line feeds alone': { head: (n) => `HTTP/1.1 200 OK\nContent-Length: ${n}\nX-A: b\n\n` },
  'a folded header': { head: (n) => lines('HTTP/1.1 200 OK', 'X-Long: one', '  two', `Content-Length: ${n}`, '') },
  'the same length twice': {
    head: (n) => lines('HTTP/1.1 200 OK', `Content-Length: ${n}`, `Content-Length: ${n}`, ''),
  },
  'early hints before it': {
    head: (n) =>
      lines('HTTP/1.1 103 Early Hints', 'Link: </x>; rel=preload', '', 'HTTP/1.1 200 OK', `Content-Length: ${n}`, ''),
  },
  '100 before it': { head: (n) => lines('HTTP/1.1 100 Continue', '', 'HTTP/1.1 200 OK', `Content-Length: ${n}`, '') },
  'the end of the connection ends it': { head: () => lines('HTTP/1.1 200 OK', 'Connection: close', '') },
  'HTTP/1.0 that keeps the connection': {
    head: (n) => lines('HTTP/1.0 200 OK', 'Connection: keep-alive', `Content-Length: ${n}`, ''),
  },
  'extensions and a trailer': {
    head: () => lines('HTTP/1.1 200 OK', 'Transfer-Encoding: chunked', 'Trailer: X-Sum', ''),
    body: (body) => chunks(body, ';name="a;b"', 'X-Sum: 1\r\n'),
  },
  'sizes in capitals with zeroes before them': {
    head: () => lines('HTTP/1.1 200 OK', 'Transfer-Encoding: Chunked', ''),
    body: (body) =>
      Buffer.concat([
        Buffer.from(`000${body.length.toString(16).toUpperCase()}\r\n`),
        body,
        Buffer.from('\r\n0\r\n\r\n'),
      ]),
  },
  'a length and chunks': {
    head: () => lines('HTTP/1.1 200 OK', 'Content-Length: 7', 'Transfer-Encoding: chunked', ''),
    body: (body) => chunks(body),
  },
  'a name with a space in it': { head: (n) => lines('HTTP/1.1 200 OK', 'X Odd: 1', `Content-Length: ${n}`, '') },
  'empty values and bytes beyond ASCII': {
    head: (n) => lines('HTTP/1.1 200 Schön', 'X-Empty:', 'X-Owner: J\u00fcrgen', `Content-Length:   ${n}  `, ''),
  },
  '201 for what had to be fetched first': { head: (n) => lines('HTTP/1.1 201 Created', `Content-Length: ${n}`, '') },
  '203 for what a proxy has changed': {
    head: (n) => lines('HTTP/1.1 203 Non-Authoritative Information', `Content-Length: ${n}`, ''),
  },
  '206 unasked, without a place': { head: (n) => lines('HTTP/1.1 206 Partial Content', `Content-Length: ${n}`, '') },
  'compressed unasked': {
    head: () => lines('HTTP/1.1 200 OK', 'Content-Encoding: gzip', 'Connection: close', ''),
    body: (body) => gzipSync(body),
  },
};

for (const [name, { head, body: encode = (body: Buffer) => body }] of Object.entries(RAW)) {
  test(`an answer as Go's client takes it: ${name}`, { skip }, async () => {
    const image = fakeImage({ size: 120_000 });
    const server = createServer((request, response) => {
      const socket = request.socket;
      const body = encode(image[whatIs(request.url ?? '', image)]);
      response.detachSocket(socket);
      socket.write(Buffer.from(head(body.length), 'latin1'));
      socket.end(request.method === 'HEAD' ? '' : body);
    });
    await pulls(`${registries.host(`http://${await registries.listen(server)}`)}/app:1`);
  });
}

test('redirects as Go follows them: relative, without a scheme, with spaces and bytes beyond ASCII', {
  skip,
}, async () => {
  const image = fakeImage();
  const places = ['/elsewhere', './', '//HOST/elsewhere', '/a b/ü', '?once=more', '#part'];
  for (const place of places) {
    const rule: Rule = (request, response, what) => {
      const url = pathOf(request);
      if (what !== 'layer' || url.pathname.includes('elsewhere') || url.search !== '' || /%20|\/l\//.test(url.pathname))
        return false;
      const at = place.startsWith('?') || place.startsWith('#') ? place : `${place}${place === './' ? 'l' : ''}`;
      const target = at.startsWith('#')
        ? `${url.pathname}?x${at}`
        : at.startsWith('?')
          ? at
          : `${at}/${sha256(image.layer)}`;
      const location = Buffer.from(target.replace('HOST', request.headers.host ?? '')).toString('latin1');
      response.writeHead(307, { location }).end();
      return true;
    };
    await pulls(`${await registries.serve(image, rule)}/app:1`);
  }
});
