/** A release is one folder that needs nothing else: no npm packages, no Node on PATH, nothing to compile or to keep. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { buildRelease, type Release } from '../../scripts/release/build.ts';
import { WORKERS } from '../../src/node/threads/worker-entry.ts';
import { privateFolder } from '../rig/paths.ts';
import { run } from '../rig/proc.ts';
import { openContainerLab, pidOf, SKIP, SLEEP, sh } from './container-lab.ts';

let folder: string;
let release: Release;
/** Where Debian has runc and the shim, and no Node. */
const PATH = '/usr/sbin:/usr/bin:/sbin:/bin';

before(async () => {
  folder = privateFolder('sluice-rel');
  release = await buildRelease(join(folder, 'sluice'));
});
after(() => rmSync(folder, { recursive: true, force: true }));

describe('the folder', () => {
  test('imports Node’s own modules and what is beside it, and nothing else', () => {
    const lib = join(release.folder, 'lib');
    const files = readdirSync(lib).filter((name) => name.endsWith('.js'));
    for (const name of ['sluiced', 'sluice', 'worker', ...WORKERS.map((worker) => `worker-${worker}`)]) {
      assert.ok(files.includes(`${name}.js`), `${name}.js is there`);
      assert.ok(existsSync(join(lib, `${name}.js.map`)), `${name}.js has its source map`);
    }
    const foreign = release.externals.filter((name) => !isBuiltin(name));
    assert.ok(release.externals.length - foreign.length > 20, 'Node’s own modules are among them');
    // piscina's for its niceIncrement, which is not used; ws takes its two where they are and does without otherwise.
    assert.deepEqual(foreign, ['./koffi.node', '@napi-rs/nice', 'bufferutil', 'utf-8-validate']);
    assert.ok(existsSync(join(lib, 'koffi.node')));
  });

  test('a thread loads the HTTP client only where registries are asked', () => {
    const lib = join(release.folder, 'lib');
    const client = (entry: string) => loadedBy(lib, entry).filter((text) => text.includes('UndiciError')).length;
    for (const entry of ['sluiced', 'worker-net', 'worker-shim', 'worker-store', 'worker-stdio', 'sluice'])
      assert.equal(client(`${entry}.js`), 0, entry);
    for (const entry of ['worker-image', 'worker-registry']) assert.ok(client(`${entry}.js`) > 0, entry);
    for (const name of readdirSync(lib).filter((file) => file.endsWith('.js')))
      assert.doesNotMatch(readFileSync(join(lib, name), 'utf8'), /(?:from|import) ?"node:http"/, name);
  });

  test('every licence that it names has its text', () => {
    const licences = readdirSync(join(release.folder, 'licenses'));
    for (const { name, version, license } of release.packages) {
      assert.ok(licences.includes(name.replaceAll('/', '+')), `${name} ${version} (${license})`);
    }
    for (const name of ['node', 'koffi', 'piscina', '@grpc/grpc-js']) {
      assert.ok(
        release.packages.some((one) => one.name === name),
        `${name} is in the release`,
      );
    }
  });

  test('the command line tool works without anything around it', async () => {
    const sluice = join(release.folder, 'bin/sluice');
    const { stdout } = await run(sluice, ['version'], { cwd: '/', env: { PATH } });
    assert.equal(stdout, `sluice ${release.version}\n`);
    const config = await run(sluice, ['config', 'default'], { cwd: '/', env: { PATH } });
    assert.match(config.stdout, /^socket = "\/run\/sluice\/sluice\.sock"$/m);
  });
});

/** The texts of all files that a file of the bundle loads at once: what it imports later, on demand, is left out. */
function loadedBy(lib: string, entry: string): string[] {
  const files = new Map<string, string>();
  const load = (name: string) => {
    if (files.has(name)) return;
    const text = readFileSync(join(lib, name), 'utf8');
    files.set(name, text);
    for (const [, path = ''] of text.matchAll(/(?:from|import) ?"\.\/([\w-]+\.js)"/g)) load(path);
  };
  load(entry);
  return [...files.values()];
}

test('its daemon launches pods and containers, restarts, and leaves nothing', { skip: SKIP }, async () => {
  const program = join(release.folder, 'bin/sluiced');
  const env = { PATH, HOME: '/nonexistent', NODE_COMPILE_CACHE: '' };
  await using lab = await openContainerLab({ index: 47, program, env });
  const { cri, daemon } = lab;
  const version = await cri.version({});
  assert.equal(version.runtimeVersion, release.version);

  const pod = await lab.pod('released');
  const id = await pod.run('main', ['sh', '-c', 'echo hello; exec sleep 3600']);
  assert.equal(await sh(cri, id, 'echo from inside'), 'from inside');
  const pid = await pidOf(cri, id);

  const mapped = readFileSync(`/proc/${daemon.pid()}/maps`, 'utf8').matchAll(/ (\/\S+)$/gm);
  const files = new Set([...mapped].map(([, path]) => path ?? ''));
  assert.ok(files.has(join(release.folder, 'node')));
  assert.ok(files.has(join(release.folder, 'lib/koffi.node')));
  assert.deepEqual(
    [...files].filter((file) => file.includes('node_modules') || file.startsWith(dirname(process.execPath))),
    [],
  );

  assert.equal(await daemon.stop(), 0);
  await daemon.start();
  assert.equal(await pidOf(cri, id), pid);
  assert.equal(await sh(cri, id, 'echo still here'), 'still here');
  assert.match(pod.log('main'), / stdout F hello\n/);
  const second = await pod.run('second', SLEEP);
  assert.ok((await pidOf(cri, second)) > 0);
  await pod[Symbol.asyncDispose]();
  await daemon.assertNothingLeft();
  assert.doesNotMatch(daemon.log(), /"level":"error"/);
});
