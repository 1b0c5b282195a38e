/** No thread of the daemon has to compile: what they run is in the compile cache before the first of them starts. */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { type SluiceDaemon, startSluice } from '../rig/daemon.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { privateFolder } from '../rig/paths.ts';
import { waitFor } from '../rig/proc.ts';

const skip = skipUnlessRoot();
let cache: string;

before(() => {
  cache = privateFolder('sluice-cc');
});
after(() => rmSync(cache, { recursive: true, force: true }));

/**
 * Files whose types somebody had to strip, as Node tells it; what a process loads first of all, main's own, is among
 * them.
 */
const stripped = (log: string) =>
  [...log.matchAll(/reading cache from \S+ for StrippedTypeScript (\S+)\.\.\. no such file/g)].map(
    ([, file]) => file ?? '',
  );
/** Some files that threads load and main does not. */
const ofThreads = (files: string[]) =>
  files.filter((file) =>
    /workers\/(net|shim|image|registry|stdio|net\/add|stdio\/io-table|image\/fetch-layer)\.ts$/.test(file),
  );

/** The daemon writes its log a quarter of a second late. */
const said = (daemon: SluiceDaemon, words: RegExp) =>
  waitFor(`the log to say ${words}`, 5000, () => words.test(daemon.log()) || undefined);

test('the first start fills the compile cache for all threads, later ones find all they load', { skip }, async () => {
  const env = { ...process.env, NODE_COMPILE_CACHE: cache, NODE_DEBUG_NATIVE: 'COMPILE_CACHE' };
  await using daemon = await startSluice({ index: 15, env });
  await said(daemon, /sluice is ready/);
  const first = daemon.log();
  assert.ok(stripped(first).length > 50, 'main strips what is its own');
  assert.deepEqual(ofThreads(stripped(first)), []);
  assert.doesNotMatch(first, /compile for themselves/);
  await daemon.stop();
  const before = daemon.log().length;
  await daemon.start();
  await waitFor('the second start to say so', 5000, () => daemon.log().slice(before).includes('is ready') || undefined);
  assert.deepEqual(stripped(daemon.log().slice(before)), []);
});

test('without a compile cache the daemon says what that costs, and starts', { skip }, async () => {
  const file = join(cache, 'a-file');
  writeFileSync(file, '');
  await using daemon = await startSluice({ index: 15, env: { ...process.env, NODE_COMPILE_CACHE: file } });
  await said(daemon, /compile for themselves/);
});

test('a stamp that cannot be written is told, and keeps nothing from starting', { skip }, async () => {
  const folder = join(cache, readdirSync(cache).find((name) => name.startsWith('v')) ?? '');
  const stamp = join(folder, 'sluice-workers');
  rmSync(stamp, { recursive: true });
  mkdirSync(stamp);
  utimesSync(stamp, 0, 0);
  await using daemon = await startSluice({ index: 15, env: { ...process.env, NODE_COMPILE_CACHE: cache } });
  await said(daemon, /EISDIR.*compile for themselves/);
});
