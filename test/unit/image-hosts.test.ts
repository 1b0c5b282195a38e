import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { RegistryHost } from '../../src/node/images/hosts.ts';
import * as images from '../../src/node/images/hosts.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';

const registryHosts = (config: string, registry: string) => images.registryHosts(config, registry, hostFiles);

const folder = mkdtempSync(join(tmpdir(), 'sluice-hosts-'));
after(() => rmSync(folder, { recursive: true }));

let count = 0;
/** A folder of certs.d folders, each with these files. */
function certs(files: Record<string, string>): string {
  const dir = join(folder, String(count++));
  mkdirSync(dir);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(dir, path, '..'), { recursive: true });
    writeFileSync(join(dir, path), text);
  }
  return dir;
}

const bases = (hosts: RegistryHost[]) => hosts.map(({ base }) => base);
const one = async (config: string, registry: string): Promise<RegistryHost> => {
  const [host] = await registryHosts(config, registry);
  assert.ok(host);
  return host;
};

test('without a file: https at the registry itself, docker.io at its own host', async () => {
  const none = join(folder, 'none');
  assert.deepEqual(bases(await registryHosts(none, 'reg.io:5000')), ['https://reg.io:5000/v2']);
  const hub = await one(none, 'docker.io');
  assert.equal(hub.base, 'https://registry-1.docker.io/v2');
  assert.equal(hub.namespace, undefined);
  assert.equal(hub.plainFallback, false);
  assert.equal((await one(none, 'localhost:5000')).plainFallback, true);
  assert.equal((await one(none, '127.0.0.1:5000')).plainFallback, true);
});

test('mirrors in the order of the file, then the server', async () => {
  const config = certs({
    'docker.io/hosts.toml': `
server = "https://registry-1.docker.io"
[host."https://b.example"]
  capabilities = ["pull"]
  dial_timeout = "1m1.5s"
[host."http://a.example:5000/cache"]
  skip_verify = true
[host."https://c.example/own/path/"]
  override_path = true
  [host."https://c.example/own/path/".header]
    X-One = "1"
    x-two = ["2", "3"]
`,
  });
  const hosts = await registryHosts(config, 'docker.io');
  assert.deepEqual(bases(hosts), [
    'https://b.example/v2',
    'http://a.example:5000/cache/v2',
    'https://c.example/own/path',
    'https://registry-1.docker.io/v2',
  ]);
  assert.deepEqual(
    hosts.map(({ namespace }) => namespace),
    ['docker.io', 'docker.io', 'docker.io', undefined],
  );
  assert.deepEqual([...(hosts[0]?.capabilities ?? [])], ['pull']);
  assert.equal(hosts[0]?.dialTimeoutMs, 61_500);
  assert.equal(hosts[1]?.tls.rejectUnauthorized, false);
  assert.deepEqual(hosts[2]?.headers, { 'x-one': '1', 'x-two': '2, 3' });
});

test('the folders: host_port_, host:port, _default, in the first place that has one', async () => {
  const server = (name: string) => `server = "https://${name}"`;
  const first = certs({
    'reg.io_5000_/hosts.toml': server('underscore'),
    'reg.io:5000/hosts.toml': server('colon'),
    'other.io:1/hosts.toml': server('other'),
    '_default/hosts.toml': server('default'),
  });
  const second = certs({ 'second.io/hosts.toml': server('second') });
  const none = join(folder, 'none');
  assert.equal((await one(first, 'reg.io:5000')).host, 'underscore');
  assert.equal((await one(first, 'other.io:1')).host, 'other');
  assert.equal((await one(`${none}:${first}`, 'new.io')).host, 'default');
  assert.equal((await one(`${second}:${first}`, 'second.io')).host, 'second');
  assert.equal((await one(`${second}:${first}`, 'third.io')).host, 'default');
});

test('a server that is listed as a host is asked once, unless the list leaves something to it', async () => {
  const listed = (capabilities: string) => {
    const file = `server = "http://h:1"\n[host."http://h:1"]\ncapabilities = [${capabilities}]\n`;
    return registryHosts(certs({ '_default/hosts.toml': file }), 'reg.io');
  };
  assert.deepEqual(bases(await listed('"pull", "resolve"')), ['http://h:1/v2']);
  const twice = await listed('"pull"');
  assert.deepEqual(bases(twice), ['http://h:1/v2', 'http://h:1/v2']);
  assert.deepEqual(
    twice.map(({ capabilities }) => capabilities.has('resolve')),
    [false, true],
  );
});

const pem = (name: string) => `-----BEGIN CERTIFICATE-----${name}`;

test('certificates: from the file, relative to its folder, or docker’s layout', async () => {
  const config = certs({
    'a.io/hosts.toml': 'ca = "ca.pem"\nclient = [["one.pem", "one.key"]]\n',
    'a.io/ca.pem': pem('CA'),
    'a.io/one.pem': 'CERT',
    'a.io/one.key': 'KEY',
    'b.io/hosts.toml': `ca = ["${folder}/abs.pem"]\nclient = "both.pem"\n`,
    'b.io/both.pem': 'BOTH',
    'c.io/x.crt': 'XCA',
    'c.io/me.cert': 'ME',
    'c.io/me.key': 'MYKEY',
  });
  writeFileSync(join(folder, 'abs.pem'), pem('ABS'));
  assert.deepEqual((await one(config, 'a.io')).tls, { ca: [pem('CA')], cert: 'CERT', key: 'KEY' });
  assert.deepEqual((await one(config, 'b.io')).tls, { ca: [pem('ABS')], cert: 'BOTH', key: 'BOTH' });
  assert.deepEqual((await one(config, 'c.io')).tls, { ca: ['XCA'], cert: 'ME', key: 'MYKEY' });
});

test('a file is read anew each time', async () => {
  const config = certs({ 'a.io/hosts.toml': 'server = "https://one"' });
  assert.equal((await one(config, 'a.io')).host, 'one');
  writeFileSync(join(config, 'a.io/hosts.toml'), 'server = "https://two"');
  assert.equal((await one(config, 'a.io')).host, 'two');
});

test('mistakes are named with the file', async () => {
  for (const [text, words] of [
    ['server = ', /hosts\.toml/],
    ['server = 5', /server must be a string/],
    ['[host."https://a"]\ncapabilities = ["fly"]', /"fly" is not a capability/],
    ['[host."https://a"]\ndial_timeout = "soon"', /dial_timeout/],
    ['[host."ftp://a"]', /http/],
    ['host = 1', /host must be a table/],
    ['ca = "gone.pem"', /gone\.pem/],
    ['ca = "hosts.toml"', /hosts\.toml does not hold a certificate/],
    ['client = [["a", "b", "c"]]', /client/],
  ] as const) {
    const config = certs({ 'a.io/hosts.toml': text });
    await assert.rejects(registryHosts(config, 'a.io'), (error: Error & { code?: string }) => {
      assert.equal(error.code, 'CONFIG_INVALID');
      assert.match(error.message, words);
      return true;
    });
  }
});
