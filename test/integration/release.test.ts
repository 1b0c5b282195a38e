/** A release is one folder that needs nothing else: no npm packages, no Node on PATH, nothing to compile or to keep. */
import assert from 'node:assert/strict';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
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
      assert.ok(existsSync(join(lib, `${name}.bundle.js.map`)), `${name} has its source map`);
    }
    const foreign = release.externals.filter((name) => !isBuiltin(name));
    assert.ok(release.externals.length - foreign.length > 20, 'Node’s own modules are among them');
    // piscina's for its niceIncrement, which is not used; ws takes its two where they are and does without otherwise.
    assert.deepEqual(foreign, ['./koffi.node', '@napi-rs/nice', 'bufferutil', 'utf-8-validate']);
    assert.ok(existsSync(join(lib, 'koffi.node')));
  });

  test('a thread has the HTTP client only where registries are asked', () => {
    const lib = join(release.folder, 'lib');
    const client = (entry: string) => readFileSync(join(lib, `${entry}.bundle.js`), 'utf8').includes('UndiciError');
    for (const entry of ['sluiced', 'worker-net', 'worker-shim', 'worker-store', 'worker-stdio', 'sluice'])
      assert.equal(client(entry), false, entry);
    for (const entry of ['worker-image', 'worker-registry']) assert.ok(client(entry), entry);
  });

  test('no bundle makes a getter for each byte of undici’s parser', async () => {
    const node = join(release.folder, 'node');
    const count = `const { defineProperty } = Object;
    let made = 0;
    Object.defineProperty = (...all) => (made++, defineProperty(...all));
    require('./' + process.argv[1] + '.js');
    console.log(made);`;
    for (const entry of ['worker-image', 'worker-registry']) {
      const { stdout } = await run(node, ['-e', count, '--', entry], { cwd: join(release.folder, 'lib') });
      const made = Number(stdout);
      assert.ok(made > 50 && made < 10_000, `${entry}: ${made} properties`);
    }
  });

  test('V8 takes the compiled code of each program with the options that the daemon is started with', async () => {
    const lib = join(release.folder, 'lib');
    const names = readdirSync(lib).flatMap((file) => /^(.+)\.bundle\.js$/.exec(file)?.[1] ?? []);
    assert.ok(names.length > 7);
    const refused = `for (const name of process.argv.slice(2)) {
      const text = fs.readFileSync(name + '.bundle.js', 'latin1');
      const cache = fs.readFileSync(name + '.cache');
      if (cache.toString('latin1', 0, 64) !== text.slice(-64)) console.log(name, 'of another text');
      const { cachedDataRejected } = new vm.Script(text, { filename: name, cachedData: cache.subarray(64) });
      if (cachedDataRejected !== false) console.log(name);
    }`;
    // The options with which sluiced starts Node are those that V8 compares.
    const options = /"\$root\/node" (.*) "\$root\/lib/.exec(readFileSync(join(release.folder, 'bin/sluiced'), 'utf8'));
    assert.ok(options?.[1]);
    const node = join(release.folder, 'node');
    const ask = (...extra: string[]) =>
      run(node, [...(options[1] ?? '').split(' '), ...extra, '-e', refused, '--', 'x', ...names], { cwd: lib });
    assert.equal((await ask()).stdout, '');
    // As the test would see it, were they refused.
    assert.equal((await ask('--no-wasm-tier-up')).stdout.trim().split('\n').length, names.length);
  });

  test('a program runs without its compiled code, with that of another text, and under other options of V8', async () => {
    const copy = join(folder, 'copy');
    cpSync(release.folder, copy, { recursive: true });
    const cache = join(copy, 'lib/sluice.cache');
    const version = async (env: NodeJS.ProcessEnv = {}) =>
      (await run(join(copy, 'bin/sluice'), ['version'], { env: { PATH, ...env } })).stdout;
    const expected = `sluice ${release.version}\n`;
    assert.equal(await version({ NODE_OPTIONS: '--stack-trace-limit=20' }), expected);
    const whole = readFileSync(cache);
    for (const damaged of [whole.subarray(0, 100_000), whole.subarray(0, 10), Buffer.alloc(0), Buffer.alloc(5000)]) {
      writeFileSync(cache, damaged);
      assert.equal(await version(), expected);
      assert.deepEqual(readFileSync(cache), damaged, 'nothing is written into a release');
    }
    const text = join(copy, 'lib/sluice.bundle.js');
    writeFileSync(cache, whole);
    // As long as the one before, which is all that V8 compares.
    writeFileSync(
      text,
      readFileSync(text, 'latin1')
        .replace(/[0-9a-f]{64}$/, '0'.repeat(64))
        .replace(release.version, '9.9.9'),
    );
    assert.equal(await version(), 'sluice 9.9.9\n');
    rmSync(cache);
    assert.equal(await version(), 'sluice 9.9.9\n');
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
