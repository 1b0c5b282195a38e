import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { constants, existsSync, openSync, readFileSync, statSync } from 'node:fs';
import { Socket } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { afterEach, beforeEach, suite, type TestContext, test } from 'node:test';
import { SluiceError } from '../../src/errors.ts';
import { type ShimEvent, serveEvents } from '../../src/node/shims/events.ts';
import { Shims } from '../../src/node/shims/shims.ts';
import type { TtrpcServer } from '../../src/node/shims/ttrpc-server.ts';
import { mountsBelow } from '../../src/sys/mountinfo.ts';
import { isShimOf, listProcesses } from '../../src/workers/shim/processes.ts';
import { handlers } from '../../src/workers/shim.ts';
import { skipUnlessRoot } from '../rig/needs.ts';
import { stopThreads } from '../rig/proc.ts';
import { Lab, type Pod, SKIP, shims as shimBinaries, until } from './shim-lab.ts';

const SIGKILL = 9;
const SIGTERM = 15;

let lab: Lab;
let shims: Shims;
let lost: string[];
let events: ShimEvent[];
let server: TtrpcServer;

beforeEach(async () => {
  if (SKIP) return;
  lab = new Lab();
  lost = [];
  events = [];
  shims = new Shims({ onLost: (pod) => lost.push(pod) });
  const onError = (error: Error) => assert.ifError(error);
  server = await serveEvents({ path: lab.events, onEvent: (event) => events.push(event), onError });
});

afterEach(async () => {
  if (SKIP) return;
  shims[Symbol.dispose]();
  await server[Symbol.asyncDispose]();
  await lab.end();
});

/** Stops a pod, shuts its shim down and removes its files. */
async function end(pod: Pod): Promise<void> {
  const shim = shims.get(pod.id);
  assert.ok(shim);
  await shim.task.kill(pod.id, SIGKILL);
  await shim.task.wait(pod.id);
  await shim.task.delete(pod.id);
  await shims.shutdown(shim);
  await lab.remove(pod);
}

/** Opens a FIFO for reading and collects its bytes. */
function fifo(path: string): { path: string; text: () => string; close: () => void } {
  execFileSync('mkfifo', [path]);
  const socket = new Socket({ fd: openSync(path, constants.O_RDWR | constants.O_NONBLOCK), writable: false });
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk;
  });
  return { path, text: () => text, close: () => socket.destroy() };
}

for (const binary of shimBinaries) {
  for (const runtime of ['runc', 'crun']) {
    const skip = SKIP || skipUnlessRoot(runtime);
    suite(`${binary} with ${runtime}`, { skip }, () => {
      test('a pod from start to end', async (t: TestContext) => {
        const pod = lab.pod();
        const began = performance.now();
        const started = await lab.start(pod, binary);
        assert.equal(started.binary, binary);
        assert.ok(started.spawnSeconds > 0 && started.seconds > started.spawnSeconds);
        assert.equal(statSync(pod.bundle).mode & 0o777, 0o700);
        assert.equal(statSync(join(pod.bundle, 'rootfs')).mode & 0o777, 0o711);
        assert.equal(statSync(join(pod.bundle, 'work')).mode & 0o777, 0o700);
        assert.equal(readFileSync(join(pod.bundle, 'shim-binary-path'), 'utf8'), binary);
        const bootstrap = JSON.parse(readFileSync(join(pod.bundle, 'bootstrap.json'), 'utf8'));
        assert.deepEqual(bootstrap, {
          version: started.version,
          address: `unix://${started.address}`,
          protocol: 'ttrpc',
        });
        // From 2.3 on the socket is in the folder that the daemon passes.
        if (started.version === 3) assert.equal(dirname(started.address), lab.socketDir);

        const shim = await shims.connect(pod.id, started);
        assert.equal(await shims.connect(pod.id, started), shim);
        const connected = performance.now();
        const pid = await shim.task.create(lab.create(pod, lab.runtime(runtime)));
        const created = performance.now();
        assert.equal(shim.task.version, started.version);
        assert.equal((await shim.task.state(pod.id))?.status, 'created');
        const wait = shim.task.wait(pod.id);
        const before = performance.now();
        assert.equal(await shim.task.start(pod.id), pid);
        const ms = (from: number, to: number) => `${(to - from).toFixed(1)} ms`;
        t.diagnostic(
          `startShim ${ms(began, connected)} (spawn ${(started.spawnSeconds * 1000).toFixed(2)} ms), ` +
            `create ${ms(connected, created)}, start ${ms(before, performance.now())}`,
        );

        assert.deepEqual(await shim.task.connect(pod.id).then(({ taskPid }) => taskPid), pid);
        const state = await shim.task.state(pod.id);
        assert.deepEqual([state?.status, state?.pid], ['running', pid]);
        assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim(), '500');

        assert.equal(await shim.task.kill(pod.id, SIGKILL), true);
        const exit = await wait;
        assert.equal(exit.exitStatus, 128 + SIGKILL);
        assert.ok(Math.abs(Number(exit.at / 1_000_000n) - Date.now()) < 60_000);
        assert.deepEqual(await shim.task.wait(pod.id), exit);
        assert.equal(await shim.task.kill(pod.id, SIGTERM), false, 'nothing is left to signal');
        assert.equal((await shim.task.delete(pod.id))?.exitStatus, 137);
        assert.equal(await shim.task.delete(pod.id), undefined, 'a second delete finds nothing');
        assert.equal(await shim.task.kill(pod.id, SIGTERM), false);
        assert.equal(await shim.task.state(pod.id), undefined);

        await shims.shutdown(shim);
        assert.deepEqual(shims.counts, { alive: 0, lost: 0, unknown: 0 });
        assert.deepEqual(lost, []);
        assert.ok(!existsSync(started.address));
        await lab.remove(pod);
        assert.ok(!existsSync(pod.bundle) && !existsSync(pod.snapshot));
        await until('the shim is gone', async () => (await lab.processes(pod)).length === 0);
        const kinds = new Set(events.map(({ kind }) => kind));
        for (const kind of ['TaskCreate', 'TaskStart', 'TaskExit', 'TaskDelete'] as const)
          assert.ok(kinds.has(kind), kind);
      });

      test('an exec has its own output and exit', async () => {
        const pod = lab.pod();
        const shim = await shims.connect(pod.id, await lab.start(pod, binary));
        await shim.task.create(lab.create(pod, lab.runtime(runtime)));
        await shim.task.start(pod.id);
        const out = fifo(join(lab.dir, 'out'));
        const err = fifo(join(lab.dir, 'err'));
        const none: string[] = [];
        const process = {
          terminal: false,
          noNewPrivileges: false,
          capabilities: { bounding: none, effective: none, permitted: none, inheritable: none, ambient: none },
          args: ['sh', '-c', 'echo to-out; echo to-err >&2; exit 3'],
          cwd: '/',
          env: ['PATH=/bin'],
          user: { uid: 0, gid: 0, additionalGids: [0] },
        };
        const exec = { id: pod.id, execId: 'e1', process, stdout: out.path, stderr: err.path };
        await shim.task.exec(exec);
        const exists = (error: unknown) => error instanceof SluiceError && /already exists/.test(error.message);
        await assert.rejects(shim.task.exec(exec), exists);
        const wait = shim.task.wait(pod.id, 'e1');
        const execPid = await shim.task.start(pod.id, 'e1');
        assert.ok(execPid > 0);
        assert.equal((await wait).exitStatus, 3);
        assert.equal((await shim.task.delete(pod.id, 'e1'))?.exitStatus, 3);
        assert.equal(await shim.task.delete(pod.id, 'e1'), undefined);
        await until('the output', () => out.text() === 'to-out\n' && err.text() === 'to-err\n');
        out.close();
        err.close();
        await shim.task.exec({
          ...exec,
          execId: 'e2',
          stdout: '',
          stderr: '',
          process: { ...process, args: ['/none'] },
        });
        // The message is the runtime's.
        await assert.rejects(
          shim.task.start(pod.id, 'e2'),
          (error) => error instanceof SluiceError && error.code === 'RUNTIME_FAILED' && /none/.test(error.message),
        );
        await end(pod);
      });
    });
  }

  suite(`${binary}`, { skip: SKIP }, () => {
    test('a second container joins the shim, and the shim stays until both are gone', async () => {
      const pod = lab.pod();
      const row = await lab.start(pod, binary);
      const shim = await shims.connect(pod.id, row);
      await shim.task.create(lab.create(pod));
      await shim.task.start(pod.id);
      const container = lab.pod();
      const spec = lab.spec(container, ['sh', '-c', 'exit 5'], { sandbox: pod.id });
      handlers.writeBundle({ ...container, spec, sandbox: pod.id, shim: row });
      assert.equal(readFileSync(join(container.bundle, 'sandbox'), 'utf8'), pod.id);
      await shim.task.create(lab.create(container));
      assert.ok((await shim.task.start(container.id)) > 0);
      assert.equal((await shim.task.wait(container.id)).exitStatus, 5);
      assert.equal((await shim.task.delete(container.id))?.exitStatus, 5);
      await lab.remove(container);
      const late = (error: unknown) => error instanceof SluiceError && error.code === 'TIMED_OUT';
      await assert.rejects(shims.shutdown(shim, 300), late);
      assert.equal(shims.get(pod.id), shim, 'a shim that holds a container stays, connected');
      assert.equal((await listProcesses()).filter((process) => isShimOf(pod.id, process)).length, 1);
      await end(pod);
      assert.deepEqual(lost, []);
    });

    test('a container that outgrows its memory is reported', async () => {
      const pod = lab.pod();
      const spec = lab.spec(pod, ['sh', '-c', 'tail /dev/zero; sleep 1000'], { memory: 16 << 20 });
      const shim = await shims.connect(pod.id, await lab.start(pod, binary, [], { spec }));
      await shim.task.create(lab.create(pod));
      await shim.task.start(pod.id);
      await until('the OOM event', () =>
        events.some(({ kind, event }) => kind === 'TaskOOM' && event.containerId === pod.id),
      );
      await end(pod);
    });

    test('a failure of the runtime carries the runtime’s message', async () => {
      for (const { args, runtime, words } of [
        { args: ['/not/there'], runtime: 'runc', words: '"/not/there"' },
        { args: ['true'], runtime: '/no/such/runtime', words: '/no/such/runtime' },
      ]) {
        const pod = lab.pod();
        const shim = await shims.connect(pod.id, await lab.start(pod, binary, args));
        await assert.rejects(
          shim.task.create(lab.create(pod, runtime)),
          (error) => error instanceof SluiceError && error.code === 'RUNTIME_FAILED' && error.message.includes(words),
        );
        assert.equal(await shim.task.delete(pod.id), undefined, 'a failed create leaves nothing to delete');
        assert.deepEqual(mountsBelow(pod.bundle), []);
        await shims.shutdown(shim);
        await lab.remove(pod);
      }
    });

    test('a restarted daemon reattaches to its pods and gets their exits', async () => {
      const pod = lab.pod();
      const row = await lab.start(pod, binary);
      const first = await shims.connect(pod.id, row);
      await first.task.create(lab.create(pod));
      const pid = await first.task.start(pod.id);
      shims[Symbol.dispose]();
      assert.deepEqual(lost, [], 'closing is no loss');
      await server[Symbol.asyncDispose]();
      assert.deepEqual(await waitingFor(first.connection.closed), 'TtrpcClosed');

      shims = new Shims({ onLost: (id) => lost.push(id) });
      const stored = JSON.parse(JSON.stringify(row));
      const [found, again] = await Promise.all([shims.reattach(pod.id, stored), shims.reattach(pod.id, stored)]);
      assert.equal(found.state, 'alive');
      assert.equal(found, again, 'two who look at once share one connection');
      assert.deepEqual(shims.counts, { alive: 1, lost: 0, unknown: 0 });
      const shim = shims.get(pod.id);
      assert.ok(shim);
      assert.deepEqual(await shim.task.state(pod.id).then((state) => [state?.status, state?.pid]), ['running', pid]);
      const wait = shim.task.wait(pod.id);
      await shim.task.kill(pod.id, SIGKILL);
      assert.equal((await wait).exitStatus, 137);
      server = await serveEvents({ path: lab.events, onEvent: (e) => events.push(e), onError: assert.ifError });
      await until('the shim finds the events socket again', () => events.some(({ kind }) => kind === 'TaskExit'));
      await end(pod);
    });

    test('a shim that hangs is unknown and is not killed', async () => {
      const pod = lab.pod();
      const row = await lab.start(pod, binary);
      const [found] = (await listProcesses()).filter((process) => isShimOf(pod.id, process));
      assert.ok(found);
      await stopThreads(found.pid);
      try {
        const began = performance.now();
        const result = await shims.reattach(pod.id, row, 300);
        assert.equal(result.state, 'unknown');
        assert.ok(performance.now() - began < 2000);
        assert.deepEqual(shims.counts, { alive: 0, lost: 0, unknown: 1 });
      } finally {
        process.kill(found.pid, 'SIGCONT');
      }
      assert.equal((await shims.reattach(pod.id, row)).state, 'alive');
      assert.deepEqual(shims.counts, { alive: 1, lost: 0, unknown: 0 });
      const shim = shims.get(pod.id);
      assert.ok(shim);
      await shims.shutdown(shim);
      await lab.remove(pod);
    });

    test('a shim whose socket file was deleted is unknown, not dead', async () => {
      const pod = lab.pod();
      const row = await lab.start(pod, binary);
      const shim = await shims.connect(pod.id, row);
      const { renameSync } = await import('node:fs');
      renameSync(row.address, join(lab.dir, 'moved'));
      const other = new Shims({ onLost: () => assert.fail('never connected') });
      const result = await other.reattach(pod.id, row);
      assert.equal(result.state, 'unknown');
      assert.match(result.state === 'unknown' ? result.reason : '', /process \d+ is alive/);
      await shims.shutdown(shim);
      await lab.remove(pod);
    });

    test('a killed shim is noticed, found dead, and cleaned up with its containers, twice', async (t: TestContext) => {
      const pod = lab.pod();
      const row = await lab.start(pod, binary);
      const shim = await shims.connect(pod.id, row);
      const container = lab.pod();
      handlers.writeBundle({
        ...container,
        spec: lab.spec(container, ['sleep', '1000'], { sandbox: pod.id }),
        sandbox: pod.id,
        shim: row,
      });
      const pids: number[] = [];
      for (const task of [pod, container]) {
        await shim.task.create(lab.create(task));
        pids.push(await shim.task.start(task.id));
      }
      const waits = Promise.allSettled([pod, container].map((task) => shim.task.wait(task.id)));
      const { shimPid } = await shim.task.connect(pod.id);
      process.kill(shimPid, 'SIGKILL');
      for (const wait of await waits) {
        assert.ok(
          wait.status === 'rejected' && wait.reason instanceof SluiceError && wait.reason.code === 'SHIM_FAILED',
        );
      }
      assert.deepEqual(lost, [pod.id]);
      assert.deepEqual(shims.counts, { alive: 0, lost: 1, unknown: 0 });
      await until('the kernel has reaped it', async () => (await shims.reattach(pod.id, row)).state === 'dead');
      for (const pid of pids) assert.ok(existsSync(`/proc/${pid}`), 'containers outlive their shim');

      const began = performance.now();
      const joined = await lab.cleanup(container, row.binary);
      const cleaned = await lab.cleanup(pod, row.binary, row.address);
      t.diagnostic(`two clean-ups in ${(performance.now() - began).toFixed(0)} ms`);
      for (const result of [joined, cleaned]) {
        assert.deepEqual({ ...result, exitStatus: undefined }, { killed: [], warnings: [], exitStatus: undefined });
        assert.equal(result.exitStatus, 137);
      }
      for (const pid of pids) await until('containers are gone', () => !existsSync(`/proc/${pid}`));
      assert.ok(!existsSync(row.address));
      for (const task of [pod, container]) {
        await lab.remove(task);
        assert.deepEqual((await lab.cleanup(task, row.binary, row.address)).warnings, [], 'again, with nothing left');
        await handlers.removeBundle(task);
        await handlers.removeSnapshot({ dir: task.snapshot });
      }
      shims.forget(pod.id);
      assert.deepEqual(shims.counts, { alive: 0, lost: 0, unknown: 0 });
    });

    test('a shim without a row in the store is found by its bundle', async () => {
      const pod = lab.pod();
      const row = await lab.start(pod, binary);
      const { killed } = await lab.cleanup(pod, binary);
      assert.equal(killed.length, 1);
      await until('the shim is gone', async () => (await lab.processes(pod)).length === 0);
      assert.ok(!existsSync(row.address));
      await lab.remove(pod);
    });

    test('a clean-up does not touch the shim of another bundle', async () => {
      const pod = lab.pod();
      const row = await lab.start(pod, binary);
      const elsewhere = { ...pod, bundle: join(lab.dir, 'elsewhere', pod.id) };
      assert.deepEqual((await lab.cleanup(elsewhere, binary)).killed, []);
      await shims.shutdown(await shims.connect(pod.id, row));
      await lab.remove(pod);
    });

    test('a dead shim whose program is missing is cleaned up through the runtime', async () => {
      const pod = lab.pod();
      const row = await lab.start(pod, binary);
      const shim = await shims.connect(pod.id, row);
      await shim.task.create(lab.create(pod));
      const pid = await shim.task.start(pod.id);
      process.kill((await shim.task.connect(pod.id)).shimPid, 'SIGKILL');
      await shim.connection.closed;
      const cleaned = await lab.cleanup(pod, '/gone/containerd-shim-runc-v2', row.address);
      assert.match(cleaned.warnings.join(), /gone\/containerd-shim-runc-v2: there is no such program/);
      await until('the container is gone', () => !existsSync(`/proc/${pid}`));
      await lab.remove(pod);
    });

    test('twenty pods at once', async (t: TestContext) => {
      const pods = Array.from({ length: 20 }, () => lab.pod());
      const began = performance.now();
      const times = { shim: 0, create: 0, start: 0 };
      const timed = async <T>(what: keyof typeof times, work: () => Promise<T>): Promise<T> => {
        const from = performance.now();
        const result = await work();
        times[what] += performance.now() - from;
        return result;
      };
      await Promise.all(
        pods.map(async (pod) => {
          const row = await timed('shim', () => lab.start(pod, binary));
          const shim = await shims.connect(pod.id, row);
          await timed('create', () => shim.task.create(lab.create(pod)));
          await timed('start', () => shim.task.start(pod.id));
        }),
      );
      const mean = (sum: number) => `${(sum / pods.length).toFixed(0)} ms`;
      t.diagnostic(
        `20 pods in ${(performance.now() - began).toFixed(0)} ms; on average startShim ${mean(times.shim)}, ` +
          `create ${mean(times.create)}, start ${mean(times.start)}`,
      );
      assert.deepEqual(shims.counts, { alive: 20, lost: 0, unknown: 0 });
      const sockets = new Set(pods.map((pod) => shims.get(pod.id)?.row.address));
      assert.equal(sockets.size, 20);
      await Promise.all(pods.map(end));
      assert.deepEqual(lost, []);
    });

    test('two daemons do not share a shim’s socket, even for one id', async () => {
      const pod = lab.pod();
      const other = { ...lab.pod(), id: pod.id, bundle: join(lab.dir, 'other', pod.id) };
      const row = await lab.start(pod, binary);
      const addresses = { ...lab.addresses, grpc: join(lab.dir, 'other.sock') };
      const row2 = await lab.start(other, binary, ['true'], { addresses });
      assert.notEqual(row.address, row2.address);
      for (const [shimRow, bundle] of [
        [row, pod],
        [row2, other],
      ] as const) {
        const one = new Shims({ onLost: () => {} });
        await one.shutdown(await one.connect(pod.id, shimRow));
        await handlers.removeBundle(bundle);
      }
    });

    test('with a socket folder that is too long the shim uses its default', async () => {
      const pod = lab.pod();
      const socketDir = join(lab.dir, 'x'.repeat(50));
      const row = await lab.start(pod, binary, ['true'], { socketDir });
      assert.equal(dirname(row.address), '/run/containerd/s');
      await shims.shutdown(await shims.connect(pod.id, row));
      assert.ok(!existsSync(row.address), basename(row.address));
      await lab.remove(pod);
    });
  });
}

async function waitingFor(closed: Promise<Error>): Promise<string> {
  return (await closed).name;
}
