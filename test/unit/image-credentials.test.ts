import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import * as credentials from '../../src/node/images/credentials.ts';
import { credentialsFor } from '../../src/node/images/credentials.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';

const storedAuth = (path: string, repository: string) => credentials.storedAuth(path, repository, hostFiles);

const basic = (user: string, password: string) => Buffer.from(`${user}:${password}`).toString('base64');

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-credentials-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

function configOf(t: TestContext, json: unknown): string {
  const path = join(folderOf(t), 'config.json');
  writeFileSync(path, typeof json === 'string' ? json : JSON.stringify(json));
  return path;
}

/** The user of the login that a file has for a repository. */
async function userOf(path: string, repository: string): Promise<string | undefined> {
  const login = credentialsFor(await storedAuth(path, repository), repository.split('/')[0] ?? '');
  if (login === undefined) return undefined;
  return login.kind === 'password' ? `${login.username}:${login.password}` : `${login.kind}:${login.token}`;
}

test('docker’s config.json: hosts, URLs, paths, Docker Hub, tokens', async (t) => {
  const path = configOf(t, {
    auths: {
      'reg.io': { auth: basic('a', 'b:c') },
      'https://old.io/v1/': { auth: basic('old', 'pw') },
      'http://port.io:5000': { username: 'u', password: 'p' },
      'path.io': { auth: basic('all', '1') },
      'path.io/team': { auth: basic('team', '2') },
      'path.io/team/app': { auth: basic('app', '3') },
      'https://index.docker.io/v1/': { auth: basic('hub', 'pw') },
      'identity.io': { auth: basic('x', ''), identitytoken: 'refresh' },
      'token.io': { registrytoken: 'bearer' },
      'empty.io': {},
      'odd.io': 'text',
    },
  });
  for (const [repository, user] of [
    ['reg.io/app', 'a:b:c'],
    ['other.io/app', undefined],
    ['old.io/app', 'old:pw'],
    ['port.io:5000/app', 'u:p'],
    ['port.io/app', undefined],
    ['path.io/x', 'all:1'],
    ['path.io/team/x', 'team:2'],
    ['path.io/team/app', 'app:3'],
    ['path.io/team/app/sub', 'app:3'],
    ['path.io/teams/x', 'all:1'],
    ['docker.io/library/busybox', 'hub:pw'],
    ['identity.io/app', 'identity:refresh'],
    ['token.io/app', 'registry:bearer'],
    ['empty.io/app', undefined],
    ['odd.io/app', undefined],
  ] as const)
    assert.equal(await userOf(path, repository), user, repository);
});

test('credential helpers: the registry’s own, then the store; what they answer, and how they fail', async (t) => {
  const folder = folderOf(t);
  const helper = (name: string, script: string) => {
    writeFileSync(join(folder, `docker-credential-${name}`), `#!/bin/sh\n${script}\n`);
    chmodSync(join(folder, `docker-credential-${name}`), 0o755);
  };
  // The protocol: "get", the server on stdin, JSON on stdout.
  helper(
    'own',
    '[ "$1" = get ] && read server && echo "{\\"ServerURL\\":\\"$server\\",\\"Username\\":\\"u\\",\\"Secret\\":\\"$server\\"}"',
  );
  helper('token', 'echo \'{"Username":"<token>","Secret":"refresh"}\'');
  helper(
    'store',
    'read server; [ "$server" = https://index.docker.io/v1/ ] || { echo "credentials not found in native keychain"; exit 1; }; echo \'{"Username":"hub","Secret":"s"}\'',
  );
  helper('broken', 'echo "the vault is sealed" >&2; exit 2');
  helper('html', 'echo "<html>secret</html>"');
  const before = process.env.PATH;
  process.env.PATH = `${folder}:${before}`;
  t.after(() => {
    process.env.PATH = before;
  });
  const path = configOf(t, {
    credsStore: 'store',
    credHelpers: {
      'own.io': 'own',
      'token.io': 'token',
      'broken.io': 'broken',
      'html.io': 'html',
      'none.io': 'absent',
      'bad.io': '../x',
    },
    auths: { 'reg.io': { auth: basic('a', 'b') } },
  });
  assert.equal(await userOf(path, 'own.io/app'), 'u:own.io');
  assert.equal(await userOf(path, 'token.io/app'), 'identity:refresh');
  assert.equal(await userOf(path, 'reg.io/app'), 'a:b');
  assert.equal(await userOf(path, 'docker.io/library/busybox'), 'hub:s');
  assert.equal(await userOf(path, 'unknown.io/app'), undefined);
  const fails = (name: string, words: RegExp) =>
    assert.rejects(storedAuth(path, `${name}/app`), (error: Error & { code?: string }) => {
      assert.equal(error.code, 'CONFIG_INVALID');
      assert.match(error.message, words);
      assert.doesNotMatch(error.message, /secret/);
      return true;
    });
  await fails('broken.io', /docker-credential-broken for broken\.io: it failed: the vault is sealed/);
  await fails('html.io', /answer is not JSON/);
  await fails('none.io', /not in PATH/);
  await fails('bad.io', /not the name of a credential helper/);
});

test('files that cannot be read are named', async (t) => {
  await assert.rejects(storedAuth('/nonexistent/config.json', 'reg.io/app'), {
    code: 'CONFIG_INVALID',
    message: /images\.credentials: \/nonexistent\/config\.json: .*ENOENT/,
  });
  await assert.rejects(storedAuth(configOf(t, '{'), 'reg.io/app'), { code: 'CONFIG_INVALID' });
  await assert.rejects(storedAuth(configOf(t, '[]'), 'reg.io/app'), {
    code: 'CONFIG_INVALID',
    message: /not a JSON object/,
  });
});
