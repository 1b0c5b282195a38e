import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, suite, test } from 'node:test';
import { SluiceError } from '../../src/errors.ts';
import { Shims } from '../../src/node/shims/shims.ts';
import { Pool } from '../../src/node/threads/pool.ts';
import type { handlers } from '../../src/workers/shim.ts';
import { Lab, NAMESPACE, SKIP, shims as shimBinaries, until } from './shim-lab.ts';

let lab: Lab;
let shims: Shims;

/** A shim program in shell. */
function fake(name: string, lines: string): string {
  const path = join(lab.dir, name);
  writeFileSync(path, `#!/bin/sh\n${lines}\n`, { mode: 0o755 });
  return path;
}

function fails(code: string, ...words: RegExp[]) {
  return (error: unknown) => {
    assert.ok(error instanceof SluiceError);
    assert.equal(error.code, code);
    const text = `${error.message} ${error.cause instanceof Error ? error.cause.message : ''}`;
    for (const word of words) assert.match(text, word);
    return true;
  };
}

suite('starting shims', { skip: SKIP }, () => {
  beforeEach(() => {
    lab = new Lab();
    shims = new Shims({ onLost: () => {} });
  });
  afterEach(async () => {
    shims[Symbol.dispose]();
    await lab.end();
  });

  test('a shim program that does not exist is named, with the searched folders', async () => {
    await assert.rejects(
      lab.start(lab.pod(), '/no/shim'),
      fails('SHIM_FAILED', /\/no\/shim: there is no such program/),
    );
    await assert.rejects(lab.start(lab.pod(), 'no-shim'), fails('SHIM_FAILED', /no-shim.*in PATH \(.*\/bin/));
    const file = join(lab.dir, 'text');
    writeFileSync(file, 'x', { mode: 0o755 });
    await assert.rejects(
      lab.start(lab.pod(), file),
      fails('SHIM_FAILED', /cannot be started/, /posix_spawn|Exec format/),
    );
  });

  test('the error of a failed shim quotes it, with the end of its log', async () => {
    const pod = lab.pod();
    const binary = fake(
      'failing',
      'cat >/dev/null; echo "level=error msg=deep" >>log; echo "no such cgroup" >&2; exit 4',
    );
    const began = fails(
      'SHIM_FAILED',
      /failing start exited with status 4: no such cgroup/,
      /its log ends: .*msg=deep/,
    );
    await assert.rejects(lab.start(pod, binary), began);
    assert.ok(existsSync(pod.bundle), 'the bundle is for the undo');
    await lab.remove(pod);
    assert.ok(!existsSync(pod.bundle));
  });

  test('a shim that is killed by a signal, or prints without end, has its own error', async () => {
    await assert.rejects(
      lab.start(lab.pod(), fake('dying', 'kill -SEGV $$')),
      fails('SHIM_FAILED', /ended by signal 11/),
    );
    await assert.rejects(
      lab.start(lab.pod(), fake('wordy', 'exec cat /dev/zero')),
      fails('SHIM_FAILED', /more than an address/),
    );
  });

  test('an answer that is not an address is quoted', async () => {
    const start = (lines: string) => lab.start(lab.pod(), fake(`answer-${Math.random()}`, lines));
    await assert.rejects(start('echo hello'), fails('SHIM_FAILED', /other than an? (unix )?address: "hello/));
    await assert.rejects(start('exit 0'), fails('SHIM_FAILED', /printed no address/));
    await assert.rejects(start('echo {"version":9'), fails('SHIM_FAILED', /broken JSON/));
  });

  test('a shim that never answers is killed at its time limit, with its children', async () => {
    const pod = lab.pod();
    // The long-lived process has its own process group, as with a real shim.
    const binary = fake(
      'hanging',
      `setsid sh -c 'sleep 1000; :' "$0" -namespace n "$@" & echo waiting >&2; sleep 1000`,
    );
    const began = performance.now();
    await assert.rejects(
      lab.start(pod, binary, ['true'], { timeoutMs: 300 }),
      fails('TIMED_OUT', /did not answer within 300 ms and was killed: waiting/),
    );
    assert.ok(performance.now() - began < 3000);
    await until('its processes are gone', async () => (await lab.processes(pod)).length === 0);
  });

  test('an id is not used twice', async () => {
    const pod = lab.pod();
    const binary = fake('plain', 'echo /run/x');
    await lab.start(pod, binary);
    await assert.rejects(lab.start(pod, binary), fails('SHIM_FAILED', /bundle .* cannot be made/, /EEXIST/));
    await lab.remove(pod);
  });

  test('a bundle’s folder modes let a user namespace reach its rootfs', async () => {
    const pod = lab.pod();
    await lab.start(pod, fake('plain', 'echo /run/x'), ['true'], { group: 100_000 });
    const { mode, gid } = statSync(pod.bundle);
    assert.deepEqual([mode & 0o777, gid], [0o710, 100_000]);
    assert.equal(statSync(join(pod.bundle, 'rootfs')).mode & 0o777, 0o711);
    await lab.remove(pod);
  });

  test('a shim gets the daemon’s addresses, the pod’s id and only the environment variables that it uses', async () => {
    const pod = lab.pod();
    process.env.SLUICE_TEST_SECRET = 'x';
    const binary = fake('curious', 'env >env; echo "$@" >args; pwd >pwd; echo /run/x');
    try {
      await lab.start(pod, binary, ['true'], { debug: true, env: { SCHED_CORE: '1' } });
    } finally {
      delete process.env.SLUICE_TEST_SECRET;
    }
    const read = (name: string) => readFileSync(join(pod.bundle, name), 'utf8').trim();
    const env = read('env').split('\n');
    for (const line of [
      `TTRPC_ADDRESS=${lab.events}`,
      `GRPC_ADDRESS=${lab.addresses.grpc}`,
      'SCHED_CORE=1',
      'GOMAXPROCS=2',
    ]) {
      assert.ok(env.includes(line), line);
    }
    assert.ok(!env.some((line) => line.startsWith('SLUICE_TEST_SECRET') || line.startsWith('NODE_')));
    assert.equal(
      read('args'),
      `-namespace ${NAMESPACE} -address ${lab.addresses.grpc} -publish-binary /bin/true -id ${pod.id} -debug start`,
    );
    assert.equal(read('pwd'), pod.bundle);
    await lab.remove(pod);
  });

  test('once the generation of a shim is determined, a refusal is not retried in another way', async () => {
    const count = join(lab.dir, 'count');
    // The program refuses parameters, as shims before 2.3 do.
    const binary = fake('old', `echo x >>${count}; if [ -n "$(cat)" ]; then exit 1; fi; echo /run/x`);
    const tries = () => readFileSync(count, 'utf8').length / 2;
    for (const expected of [2, 3, 4]) {
      const pod = lab.pod();
      assert.deepEqual((await lab.start(pod, binary)).version, 2);
      assert.equal(tries(), expected, 'only the first pod pays for finding out');
      await lab.remove(pod);
    }
    // The program is replaced under the same name, so its generation is determined again.
    const { renameSync } = await import('node:fs');
    renameSync(
      fake('new', `echo x >>${count}; printf '\\010\\003\\022\\015unix:///run/x\\032\\005ttrpc'; cat >stdin`),
      binary,
    );
    const pod = lab.pod();
    const started = await lab.start(pod, binary);
    assert.deepEqual([started.address, started.version, tries()], ['/run/x', 3, 5]);
    assert.ok(readFileSync(join(pod.bundle, 'stdin')).length > 0);
    await lab.remove(pod);
  });

  for (const real of shimBinaries) {
    test(`shims of 1.7 to 2.2 answer in JSON (${real})`, async () => {
      const lines = [
        'if [ -n "$(cat)" ]; then echo "type with url: not found" >&2; exit 1; fi',
        `address=$(${real} "$@" </dev/null | grep -ao 'unix:[a-z0-9/]*')`,
        'printf \'{"version":3,"address":"%s","protocol":"ttrpc"}\' "$address"',
      ];
      const pod = lab.pod();
      const row = await lab.start(pod, fake('json', lines.join('\n')));
      assert.equal(row.version, 3);
      const shim = await shims.connect(pod.id, row);
      // The older shim reports version 3 here and serves only version 2, which the first call detects.
      assert.equal(await shim.task.state(pod.id), undefined);
      assert.ok((await shim.task.connect(pod.id)).shimPid > 0);
      await shims.shutdown(shim);
      await lab.remove(pod);
    });

    test(`a worker thread starts many of ${real} at a time`, async () => {
      await using pool = new Pool<typeof handlers>({
        name: 'shim',
        file: new URL('../../src/workers/shim.ts', import.meta.url),
        minThreads: 1,
        maxThreads: 2,
        callsPerThread: 8,
        maxQueue: 100,
      });
      const pods = Array.from({ length: 6 }, () => lab.pod());
      const rows = await Promise.all(
        pods.map((pod) =>
          pool.call('startShim', {
            ...pod,
            namespace: NAMESPACE,
            binary: real,
            spec: lab.spec(pod, ['true']),
            addresses: lab.addresses,
            socketDir: lab.socketDir,
            timeoutMs: 20_000,
          }),
        ),
      );
      await assert.rejects(
        pool.call('startShim', {
          ...lab.pod(),
          namespace: NAMESPACE,
          binary: '/no/shim',
          spec: '{}',
          addresses: lab.addresses,
          timeoutMs: 1000,
        }),
        fails('SHIM_FAILED', /no such program/),
      );
      for (const [i, pod] of pods.entries()) {
        const row = rows[i];
        assert.ok(row);
        await shims.shutdown(await shims.connect(pod.id, row));
        await pool.call('removeBundle', pod);
        assert.ok(!existsSync(pod.bundle));
      }
    });
  }
});
