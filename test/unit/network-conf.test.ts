import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { SluiceError } from '../../src/errors.ts';
import * as conf from '../../src/node/network/conf.ts';
import { hostFiles } from '../../src/workers/host-paths/read-file.ts';

const loadFolder = (folder: string) => conf.loadFolder(folder, hostFiles);

function folder(t: TestContext, files: Record<string, unknown>): string {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-conf-'));
  t.after(() => rmSync(dir, { recursive: true }));
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(dir, name)), { recursive: true });
    writeFileSync(join(dir, name), typeof content === 'string' ? content : JSON.stringify(content));
  }
  return dir;
}

const list = (name: string, more: object = {}) => ({
  cniVersion: '1.0.0',
  name,
  plugins: [
    { type: 'bridge', unknownKey: { kept: true } },
    { type: 'portmap', capabilities: { portMappings: true } },
  ],
  ...more,
});

/** The problem of a folder with this one file. */
async function problemOf(t: TestContext, name: string, content: unknown): Promise<string> {
  const loaded = await loadFolder(folder(t, { [name]: content }));
  assert.equal(loaded.network, undefined);
  assert.equal(loaded.problems.length, 1);
  return loaded.problems[0] ?? '';
}

test('the first file by name is used, whatever its extension, and plugins keep all their keys', async (t) => {
  const dir = folder(t, { '20-b.conflist': list('second'), '10-a.conflist': list('first'), 'README.md': 'no conf' });
  const { network, files, problems } = await loadFolder(dir);
  assert.deepEqual({ files, problems }, { files: 2, problems: [] });
  assert.deepEqual(network, { ...list('first'), disableCheck: false, source: join(dir, '10-a.conflist') });
});

test('names sort by bytes, upper case before lower case', async (t) => {
  const dir = folder(t, { 'a.conflist': list('lower'), 'Z.conflist': list('upper') });
  assert.equal((await loadFolder(dir)).network?.name, 'upper');
});

test('.conf and .json hold a single plugin, which becomes a list of one', async (t) => {
  for (const name of ['1.conf', '1.json']) {
    const plugin = { cniVersion: '0.4.0', name: 'single', type: 'ptp', ipam: { type: 'host-local' } };
    const { network } = await loadFolder(folder(t, { [name]: plugin }));
    assert.equal(network?.name, 'single');
    assert.equal(network?.cniVersion, '0.4.0');
    assert.deepEqual(network?.plugins, [plugin]);
  }
});

test('an invalid file is skipped and reported', async (t) => {
  const dir = folder(t, { '1.conflist': '{ "name": "torn', '2.conf': { name: 'x' }, '3.conflist': list('good') });
  const { network, problems } = await loadFolder(dir);
  assert.equal(network?.name, 'good');
  assert.equal(problems.length, 2);
  assert.match(problems[0] ?? '', /1\.conflist: it is not JSON/);
  assert.match(problems[1] ?? '', /2\.conf: .*has no type/);
});

test('a folder that is absent, or has no such files, counts as empty', async (t) => {
  assert.deepEqual(await loadFolder('/nonexistent/net.d'), { files: 0, problems: [] });
  assert.deepEqual(await loadFolder(folder(t, { 'sub.conflist/x': '', notes: '' })), { files: 0, problems: [] });
});

test('a file in place of the folder is reported as a problem', async (t) => {
  const { files, problems } = await loadFolder(join(folder(t, { 'net.d': '' }), 'net.d'));
  assert.equal(files, 1);
  assert.match(problems[0] ?? '', /cannot be read/);
});

test('each mistake has its own reason', async (t) => {
  const { name: _, ...nameless } = list('x');
  assert.match(await problemOf(t, 'a.conflist', nameless), /no name/);
  assert.match(await problemOf(t, 'a.conflist', list('../up')), /not a valid network name/);
  assert.match(await problemOf(t, 'a.conflist', list('x', { plugins: [] })), /no plugins/);
  assert.match(await problemOf(t, 'a.conflist', list('x', { plugins: undefined })), /no plugins/);
  assert.match(await problemOf(t, 'a.conflist', list('x', { plugins: {} })), /not a list/);
  assert.match(await problemOf(t, 'a.conflist', list('x', { plugins: [{ type: 'a' }, {}] })), /plugin 2 has no type/);
  assert.match(await problemOf(t, 'a.conflist', list('x', { plugins: [{ type: '../sh' }] })), /is a path/);
  assert.match(await problemOf(t, 'a.conflist', list('x', { cniVersion: '9.0.0' })), /9\.0\.0 is not supported/);
  assert.match(await problemOf(t, 'a.conflist', list('x', { disableCheck: 'perhaps' })), /neither true nor false/);
  assert.match(await problemOf(t, 'a.conflist', { name: 'x', type: 'bridge' }), /rename the file to \.conf/);
  assert.match(await problemOf(t, 'a.conf', list('x')), /rename the file to \.conflist/);
  assert.match(await problemOf(t, 'a.conflist', '[]'), /it is not a JSON object/);
});

test('versions: none means 0.2.0, and of several the newest supported one is taken', async (t) => {
  const version = async (more: object) =>
    (await loadFolder(folder(t, { 'a.conflist': list('x', more) }))).network?.cniVersion;
  assert.equal(await version({ cniVersion: undefined }), '0.2.0');
  assert.equal(await version({ cniVersion: '0.3.1' }), '0.3.1');
  assert.equal(await version({ cniVersion: '0.4.0', cniVersions: ['1.0.0', '1.1.0', '7.0.0'] }), '1.1.0');
});

test('disableCheck may be a string, as in libcni', async (t) => {
  const { network } = await loadFolder(folder(t, { 'a.conflist': list('x', { disableCheck: 'True' }) }));
  assert.equal(network?.disableCheck, true);
});

test('plugins from files beside the list follow its own, unless loadOnlyInlinedPlugins is set', async (t) => {
  const files = { 'mesh/2.conf': { type: 'two' }, 'mesh/1.conf': { type: 'one' }, 'mesh/ignored.json': { type: 'x' } };
  const types = async (more: object) => {
    const { network } = await loadFolder(folder(t, { ...files, 'a.conflist': list('mesh', more) }));
    return network?.plugins.map(({ type }) => type);
  };
  assert.deepEqual(await types({}), ['bridge', 'portmap', 'one', 'two']);
  assert.deepEqual(await types({ plugins: undefined }), ['one', 'two']);
  assert.deepEqual(await types({ loadOnlyInlinedPlugins: true }), ['bridge', 'portmap']);
});

test('a folder on a mount that hangs is neither empty nor broken: the caller keeps what it has', async (t) => {
  const dir = folder(t, { 'a.conflist': list('x') });
  const hangs = () => Promise.reject(new SluiceError('TIMED_OUT', 'the nfs mount /x did not answer'));
  await assert.rejects(conf.loadFolder(dir, { ...hostFiles, names: hangs }), { code: 'TIMED_OUT' });
  await assert.rejects(conf.loadFolder(dir, { ...hostFiles, read: hangs }), { code: 'TIMED_OUT' });
});
