/** Containers from creation to removal through the real shim and runc: states, exits, logs, stops, execs, events. */
import assert from 'node:assert/strict';
import { readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type ContainerEventResponse,
  ContainerEventType,
  ContainerState,
  NamespaceMode,
  NamespaceOption,
  Signal,
} from '../../proto/gen/cri.ts';
import { GRPC } from '../../src/errors.ts';
import { connectCri } from '../rig/cri.ts';
import { linux } from '../rig/messages.ts';
import { run, waitFor } from '../rig/proc.ts';
import {
  type ContainerLab,
  execSync,
  exited,
  isAlive,
  openContainerLab,
  pidOf,
  SKIP,
  SLEEP,
  sh,
  statusOf,
  type TestPod,
} from './container-lab.ts';

const MIB = 1 << 20;

describe('containers', { skip: SKIP }, () => {
  let lab: ContainerLab;
  let pod: TestPod;
  before(async () => {
    lab = await openContainerLab({ index: 43, config: { pipeline: { max_teardowns: 4 } } });
    pod = await lab.pod('life');
  });
  after(() => lab?.[Symbol.asyncDispose]());

  test('created, running, exited, removed: state, times and attributes at each step', async () => {
    const { cri } = lab;
    const change = { labels: { a: 'b' }, annotations: { c: 'd' } };
    const containerId = await pod.create('steps', ['sh', '-c', 'read x; echo bye'], { ...change, stdin: true });
    const created = await statusOf(cri, containerId);
    assert.equal(created.state, ContainerState.CONTAINER_CREATED);
    assert.deepEqual([created.startedAt, created.finishedAt, created.reason], [0n, 0n, '']);
    assert.deepEqual([created.labels, created.annotations], [change.labels, change.annotations]);
    assert.equal(created.logPath, join(pod.logs, 'steps.log'));
    await cri.startContainer({ containerId });
    const running = await statusOf(cri, containerId);
    assert.equal(running.state, ContainerState.CONTAINER_RUNNING);
    assert.ok(running.startedAt >= running.createdAt && running.createdAt === created.createdAt);
    assert.equal(running.finishedAt, 0n);
    await assert.rejects(cri.startContainer({ containerId }), { code: GRPC.FAILED_PRECONDITION });
    await cri.stopContainer({ containerId, timeout: 0n });
    const ended = await statusOf(cri, containerId);
    assert.deepEqual([ended.state, ended.exitCode, ended.reason], [ContainerState.CONTAINER_EXITED, 137, 'Error']);
    assert.ok(ended.finishedAt >= ended.startedAt);
    await cri.stopContainer({ containerId, timeout: 0n });
    await cri.removeContainer({ containerId });
    await cri.removeContainer({ containerId });
    await assert.rejects(statusOf(cri, containerId), { code: GRPC.NOT_FOUND });
    const again = await pod.create('steps', SLEEP);
    await assert.rejects(pod.create('steps', SLEEP), { code: GRPC.ALREADY_EXISTS });
    await cri.removeContainer({ containerId: again });
  });

  test('how they end: exit codes, signals, out of memory, a program that is not there', async () => {
    const { cri } = lab;
    const end = async (name: string, line: string, limit = 0n) => {
      const config = limit === 0n ? {} : { linux: linux({ resources: { memoryLimitInBytes: limit } }) };
      const { exitCode, reason } = await exited(cri, await pod.run(name, ['sh', '-c', line], config));
      return [exitCode, reason];
    };
    const ends = await Promise.all([
      end('zero', 'true'),
      end('seven', 'exit 7'),
      end('segv', `sh -c 'kill -11 $$'; exit $?`),
      end('term', 'trap "exit 0" TERM; kill -TERM $$'),
      end('oom', 'x=a; while true; do x=$x$x$x$x; done', BigInt(20 * MIB)),
    ]);
    assert.deepEqual(ends, [
      [0, 'Completed'],
      [7, 'Error'],
      [139, 'Error'],
      [0, 'Completed'],
      [137, 'OOMKilled'],
    ]);
    const containerId = await pod.create('absent', ['/no/such/program']);
    await assert.rejects(cri.startContainer({ containerId }), /no\/such\/program/);
    const failed = await statusOf(cri, containerId);
    assert.deepEqual(
      [failed.state, failed.exitCode, failed.reason],
      [ContainerState.CONTAINER_EXITED, 128, 'StartError'],
    );
    assert.match(failed.message, /no such file/);
    assert.ok(failed.finishedAt > 0n);
    await cri.removeContainer({ containerId });
  });

  test('all that was written is in the log when the exit is told', async () => {
    const { cri } = lab;
    const line = `i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo "$i ${'x'.repeat(80)}"; done; printf end`;
    const ids = await Promise.all([1, 2, 3].map((n) => pod.run(`full-${n}`, ['sh', '-c', line])));
    await Promise.all(
      ids.map(async (id, at) => {
        await exited(cri, id);
        const lines = pod.log(`full-${at + 1}`).split('\n');
        assert.equal(lines.length, 5002);
        assert.match(lines[4999] ?? '', /^\S+ stdout F 5000 x+$/);
        assert.match(lines[5000] ?? '', /^\S+ stdout P end$/);
      }),
    );
  });

  test('rotation: the renamed file keeps what it has, nothing is lost or twice', async () => {
    const { cri } = lab;
    const line = 'i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; [ $((i%100)) = 0 ] && sleep 0.02; done';
    const containerId = await pod.run('rotate', ['sh', '-c', line]);
    const path = join(pod.logs, 'rotate.log');
    const parts: string[] = [];
    for (let n = 0; n < 3; n++) {
      await waitFor('the log to grow', 5000, () => readFileSync(path).length > 0 || undefined);
      renameSync(path, `${path}.${n}`);
      await cri.reopenContainerLog({ containerId });
      parts.push(`${path}.${n}`);
    }
    await exited(cri, containerId);
    const text = [...parts, path].map((file) => readFileSync(file, 'utf8')).join('');
    const numbers = text
      .trimEnd()
      .split('\n')
      .map((entry) => Number(entry.split(' ')[3]));
    assert.deepEqual(
      numbers,
      Array.from({ length: 3000 }, (_, i) => i + 1),
    );
    await assert.rejects(cri.reopenContainerLog({ containerId }), { code: GRPC.FAILED_PRECONDITION });
  });

  const STUBBORN = [
    'sh',
    '-c',
    'trap "echo got it" TERM; trap "exit 21" USR1; echo ready; while true; do sleep 0.1; done',
  ];
  const ready = (name: string) => waitFor('the trap', 5000, () => pod.log(name).includes('ready') || undefined);

  test('a stop with a shorter grace does not wait for an earlier one, and ends both; nor does the pod’s', async () => {
    const { cri } = lab;
    const containerId = await pod.run('patient', STUBBORN);
    await ready('patient');
    const began = performance.now();
    const patient = [30n, 60n, 90n].map((timeout) => cri.stopContainer({ containerId, timeout }));
    await waitFor('the signal', 5000, () => pod.log('patient').includes('got it') || undefined);
    await cri.stopContainer({ containerId, timeout: 1n });
    await Promise.all(patient);
    assert.ok(performance.now() - began < 10_000);
    const { exitCode } = await statusOf(cri, containerId);
    assert.equal(exitCode, 137);
    assert.equal(pod.log('patient').match(/got it/g)?.length, 1, 'the signal is sent once');

    await using other = await lab.pod('patient-pod');
    const second = await other.run('c', STUBBORN);
    await waitFor('the trap', 5000, () => other.log('c').includes('ready') || undefined);
    const waits = cri.stopContainer({ containerId: second, timeout: 60n });
    await waitFor('the signal', 5000, () => other.log('c').includes('got it') || undefined);
    const from = performance.now();
    await cri.stopPodSandbox({ podSandboxId: other.id });
    await waits;
    assert.ok(performance.now() - from < 10_000);
  });

  test('the stop signal is the request’s; SIGKILL follows the grace', async () => {
    const { cri } = lab;
    const named = await pod.run('usr1', STUBBORN, { stopSignal: Signal.SIGNAL_SIGUSR1 });
    await ready('usr1');
    assert.equal((await statusOf(cri, named)).stopSignal, Signal.SIGNAL_SIGUSR1);
    await cri.stopContainer({ containerId: named, timeout: 20n });
    assert.equal((await statusOf(cri, named)).exitCode, 21);
    const killed = await pod.run('killed', STUBBORN);
    await ready('killed');
    const began = performance.now();
    await cri.stopContainer({ containerId: killed, timeout: 1n });
    assert.ok(performance.now() - began >= 1000);
    assert.equal((await statusOf(cri, killed)).exitCode, 137);
    await assert.rejects(pod.create('bad', SLEEP, { stopSignal: 999 as Signal }), { code: GRPC.INVALID_ARGUMENT });
  });

  test('more pods are stopped and removed at once than there are places, with containers that run', async () => {
    const { cri } = lab;
    const pods = await Promise.all([1, 2, 3, 4, 5, 6].map((n) => lab.pod(`crowd-${n}`)));
    const pids = await Promise.all(pods.map(async (each) => pidOf(cri, await each.run('c', SLEEP))));
    await Promise.all(
      pods.map((each, at) =>
        at % 2 ? cri.removePodSandbox({ podSandboxId: each.id }) : cri.stopPodSandbox({ podSandboxId: each.id }),
      ),
    );
    assert.deepEqual(pids.filter(isAlive), []);
    for (const each of pods) await each[Symbol.asyncDispose]();
  });

  test('a running container is removed by force, and its name is free at once', async () => {
    const { cri } = lab;
    const containerId = await pod.run('forced', SLEEP);
    const pid = await pidOf(cri, containerId);
    await Promise.all([cri.removeContainer({ containerId }), cri.removeContainer({ containerId })]);
    assert.equal(isAlive(pid), false);
    await cri.removeContainer({ containerId: await pod.run('forced', SLEEP) });
  });

  test('the same CreateContainer at the same time is one container', async () => {
    const { cri } = lab;
    const ids = await Promise.all([1, 2, 3].map(() => pod.create('twins', SLEEP)));
    assert.equal(new Set(ids).size, 1);
    await cri.removeContainer({ containerId: ids[0] ?? '' });
    await using next = await lab.pod('life', { attempt: 1 });
    const first = pod.create('twins', SLEEP);
    const second = next.create('twins', SLEEP);
    const outcomes = await Promise.allSettled([first, second]);
    const made = outcomes.filter((outcome) => outcome.status === 'fulfilled');
    assert.equal(made.length, 1, 'one name, so one of the two sandboxes of the pod has the container');
    for (const { value } of made) await cri.removeContainer({ containerId: value });
  });

  test('ExecSync: output, exit code, caps, many at once', async () => {
    const { cri } = lab;
    const containerId = await pod.run('execs', SLEEP);
    const plain = await execSync(cri, containerId, ['sh', '-c', 'echo out; echo err >&2; exit 3']);
    assert.deepEqual(
      [`${Buffer.from(plain.stdout)}`, `${Buffer.from(plain.stderr)}`, plain.exitCode],
      ['out\n', 'err\n', 3],
    );
    const huge = await execSync(cri, containerId, [
      'sh',
      '-c',
      'head -c 15000000 /dev/zero; head -c 1000 /dev/zero >&2',
    ]);
    assert.deepEqual([huge.stdout.length, huge.stderr.length], [15_000_000, 1000]);
    await assert.rejects(execSync(cri, containerId, []), { code: GRPC.INVALID_ARGUMENT });
    await assert.rejects(execSync(cri, containerId, ['/no/such/thing']), /no\/such\/thing/);
    const many = await Promise.all(Array.from({ length: 20 }, (_, n) => sh(cri, containerId, `echo ${n}`)));
    assert.deepEqual(
      many,
      Array.from({ length: 20 }, (_, n) => `${n}`),
    );
  });

  test('ExecSync: more than 16 MiB are cut off, and the answer still comes', async () => {
    const { cri } = lab;
    const containerId = await pod.run('flood', SLEEP);
    const { stdout, exitCode } = await execSync(cri, containerId, ['head', '-c', '20000000', '/dev/zero']);
    assert.equal(exitCode, 0);
    assert.ok(stdout.length > 15 * MIB && stdout.length <= 16 * MIB, `${stdout.length} bytes`);
  });

  test('ExecSync: the timeout kills the whole process group', async () => {
    const { cri } = lab;
    const containerId = await pod.run('timeout', SLEEP);
    const cmd = ['sh', '-c', 'sleep 7654 & (sleep 7655 & sleep 7656); true'];
    const began = performance.now();
    await assert.rejects(execSync(cri, containerId, cmd, 1n), { code: GRPC.DEADLINE_EXCEEDED });
    assert.ok(performance.now() - began < 5000);
    assert.doesNotMatch(await sh(cri, containerId, 'ps'), /765[456]/);
  });

  test('events: all of them, in order, to each subscriber', async () => {
    const { cri, daemon } = lab;
    const listen = (signal: AbortSignal) => {
      const seen: ContainerEventResponse[] = [];
      const done = (async () => {
        for await (const event of cri.getContainerEvents({}, { signal, timeoutMs: 300_000 })) seen.push(event);
      })().catch(() => {});
      return { seen, done };
    };
    const end = new AbortController();
    const listeners = [1, 2, 3].map(() => listen(end.signal));
    await sleep(200);
    const containerId = await pod.run('told', ['sh', '-c', 'sleep 0.2; exit 4']);
    await exited(cri, containerId);
    await cri.removeContainer({ containerId });
    const { CONTAINER_CREATED_EVENT: c, CONTAINER_STARTED_EVENT: s, CONTAINER_STOPPED_EVENT: t } = ContainerEventType;
    const expected = [c, s, t, ContainerEventType.CONTAINER_DELETED_EVENT];
    for (const { seen } of listeners) {
      await waitFor('four events', 5000, () => seen.length >= 4 || undefined);
      assert.deepEqual(
        seen.map((event) => event.containerEventType),
        expected,
      );
      assert.ok(seen.every((event) => event.containerId === containerId && event.podSandboxStatus?.id === pod.id));
      assert.deepEqual(
        seen.map(({ createdAt }) => createdAt),
        seen.map(({ createdAt }) => createdAt).sort(),
      );
      const ofIt = seen[2]?.containersStatuses.find(({ id }) => id === containerId);
      assert.equal(ofIt?.exitCode, 4);
    }
    end.abort();
    await Promise.all(listeners.map(({ done }) => done));
    await waitFor('no subscriber', 5000, async () => {
      const metrics = await daemon.scrape();
      return /^sluice_event_subscribers(\{\})? 0$/m.test(metrics) || undefined;
    });
  });

  test('bad input is refused with words, and nothing is left of it', async () => {
    const { cri, daemon } = lab;
    const before = (await cri.listContainers({})).containers.length;
    const refused = async (change: Parameters<TestPod['create']>[2], words: RegExp, code = GRPC.INVALID_ARGUMENT) => {
      await assert.rejects(
        pod.create('refused', SLEEP, change),
        (error: Error & { code?: number; details?: string }) => {
          assert.match(error.details ?? '', words);
          assert.equal(error.code, code as number, error.details);
          return true;
        },
      );
    };
    await refused({ logPath: '../out.log' }, /log_path/);
    await refused({ linux: linux({ security: { runAsGroup: { value: 5n } } }) }, /group/);
    await refused({ linux: linux({ security: { privileged: true } }) }, /privileged/);
    await refused({ devices: [{ hostPath: '/dev/nonesuch', containerPath: '/dev/x', permissions: 'rw' }] }, /nonesuch/);
    await refused({ devices: [{ hostPath: '/dev/null', containerPath: '/dev/x', permissions: 'q' }] }, /permissions/);
    const target = { ...NamespaceOption.decode(new Uint8Array()), pid: NamespaceMode.TARGET, targetId: 'f'.repeat(64) };
    await refused({ linux: linux({ security: { namespaceOptions: target } }) }, /target/);
    await refused({ linux: linux({ resources: { unified: { 'memory.high': '1' } } }) }, /unified/);
    // What only the runtime can know: the container is made, and its start says why not.
    const bad = await pod.create('runc-says-no', SLEEP, { linux: linux({ resources: { cpusetCpus: '4096' } }) });
    await assert.rejects(cri.startContainer({ containerId: bad }), /cpuset/);
    assert.equal((await statusOf(cri, bad)).reason, 'StartError');
    await cri.removeContainer({ containerId: bad });
    const cwd = await pod.create('no-cwd', SLEEP, { workingDir: '/etc/passwd/x' });
    await assert.rejects(cri.startContainer({ containerId: cwd }), /passwd/);
    await cri.removeContainer({ containerId: cwd });
    await cri.removeContainer({ containerId: await pod.run('refused', SLEEP) });
    assert.equal((await cri.listContainers({})).containers.length, before);
    const { stdout } = await run('ls', [join(daemon.state, 'containers')]);
    const known = new Set((await cri.listContainers({})).containers.map(({ id }) => id));
    assert.deepEqual(
      stdout
        .trim()
        .split('\n')
        .filter((id) => !known.has(id)),
      [],
    );
  });

  test('a client that is gone ends its ExecSync', async () => {
    const containerId = await pod.run('gone', SLEEP);
    using other = connectCri(lab.daemon.socket);
    const call = new AbortController();
    const running = other.execSync({ containerId, cmd: ['sleep', '7657'], timeout: 0n }, { signal: call.signal });
    await waitFor('the exec', 5000, async () => /7657/.test(await sh(lab.cri, containerId, 'ps')) || undefined);
    call.abort();
    await assert.rejects(running);
    await waitFor('its end', 5000, async () => !/7657/.test(await sh(lab.cri, containerId, 'ps')) || undefined);
  });

  test('nothing is left', async () => {
    await pod[Symbol.asyncDispose]();
    await lab.daemon.assertNothingLeft();
  });
});
