import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { BootstrapParams, BootstrapResult } from '../../proto/gen/bootstrap.ts';
import { TaskExit, TaskOOM } from '../../proto/gen/events.ts';
import { ForwardRequest } from '../../proto/gen/events_ttrpc.ts';
import { Any } from '../../proto/gen/google/protobuf/any.ts';
import { Options } from '../../proto/gen/runc_options.ts';
import { CreateTaskRequest, CreateTaskResponse, KillRequest, StateResponse } from '../../proto/gen/task.ts';
import { Status } from '../../proto/gen/task_types.ts';
import { SluiceError } from '../../src/errors.ts';
import { decodeEvent, type ShimEvent, serveEvents } from '../../src/node/shims/events.ts';
import { nanoseconds, Task } from '../../src/node/shims/task.ts';
import { TtrpcClient } from '../../src/node/shims/ttrpc-client.ts';
import { TtrpcServer } from '../../src/node/shims/ttrpc-server.ts';
import { mountsBelow } from '../../src/sys/mountinfo.ts';
import { encodeParams, parseBootstrap } from '../../src/workers/shim/bootstrap.ts';
import { findProgram } from '../../src/workers/shim/program.ts';
import { resolvConf } from '../../src/workers/shim/sandbox-files.ts';

const ADDRESSES = { grpc: '/run/sluice/sluice.sock', ttrpc: '/run/sluice/events.sock', publishBinary: '/bin/sluice' };

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'sluice-shim-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

test('the bootstrap answer of each shim generation is parsed', () => {
  const address = '/run/containerd/s/220f2b158921c530e2e343e40a4fc28258034626461781088b4ba894ad9e390b';
  assert.deepEqual(parseBootstrap(Buffer.from(`unix://${address}`)), { address, version: 2, modern: false });
  assert.deepEqual(parseBootstrap(Buffer.from(`${address}\n`)), { address, version: 2, modern: false });
  const json = (value: object) => Buffer.from(JSON.stringify(value));
  assert.deepEqual(parseBootstrap(json({ version: 2, address: `unix://${address}`, protocol: 'ttrpc' })), {
    address,
    version: 2,
    modern: false,
  });
  assert.deepEqual(parseBootstrap(json({ version: 3, address: `unix://${address}`, protocol: 'ttrpc' })), {
    address,
    version: 3,
    modern: false,
  });
  // Output of containerd-shim-runc-v2 2.3.4.
  const printed = Buffer.from(`\x08\x03\x12\x59unix://${address}\x1a\x05ttrpc`, 'latin1');
  assert.deepEqual(parseBootstrap(printed), { address, version: 3, modern: true });
});

test('an invalid bootstrap answer is refused, and the message quotes it', () => {
  const refused = (answer: Buffer | string, message: RegExp) =>
    assert.throws(() => parseBootstrap(Buffer.from(answer)), message);
  refused('', /no address/);
  refused('panic: no such thing', /other than an? (unix )?address.*panic: no such thing/);
  refused('{"version":2,', /broken JSON.*version/);
  refused('{}', /other than a unix address/);
  refused('{"version":4,"address":"unix:///a","protocol":"ttrpc"}', /version 4/);
  refused('{"version":3,"address":"unix:///a","protocol":"grpc"}', /speaks grpc/);
  refused('{"version":3,"address":"vsock://3:1024","protocol":"ttrpc"}', /other than a unix address/);
  refused('unix:///run/a b', /other than a unix address/);
  refused(Buffer.from([0x08, 0x03, 0x12, 0xff, 0x01]), /other than an? (unix )?address/);
  refused(Buffer.from([0, 0, 0, 0]), /other than a unix address/);
  refused(
    Buffer.from(
      BootstrapResult.encode({
        version: 9,
        address: 'unix:///x',
        protocol: 'ttrpc',
        capabilities: [],
        metadata: {},
      }).finish(),
    ),
    /version 9/,
  );
});

test('BootstrapParams for a 2.3 shim carry the pod, the daemon and the socket folder', () => {
  const input = { id: 'pod', namespace: 'k8s.io', addresses: ADDRESSES };
  const params = BootstrapParams.decode(encodeParams({ ...input, socketDir: '/run/sluice/s', debug: true }));
  assert.equal(params.instanceId, 'pod');
  assert.equal(params.namespace, 'k8s.io');
  assert.equal(params.logLevel, -4);
  assert.equal(params.containerdGrpcAddress, ADDRESSES.grpc);
  assert.equal(params.socketDir, '/run/sluice/s');
  // The shim refuses a folder of more than 42 bytes; then it gets none and uses its default.
  const decoded = (socketDir: string) => BootstrapParams.decode(encodeParams({ ...input, socketDir })).socketDir;
  assert.equal(decoded(`/${'x'.repeat(41)}`), `/${'x'.repeat(41)}`);
  assert.equal(decoded(`/${'x'.repeat(42)}`), undefined);
  assert.equal(decoded(''), undefined);
});

function forward(typeUrl: string, value: Uint8Array): Uint8Array {
  return ForwardRequest.encode({
    envelope: {
      timestamp: { seconds: 5n, nanos: 6 },
      namespace: 'k8s.io',
      topic: '/tasks/oom',
      event: { typeUrl, value: Buffer.from(value) },
    },
  }).finish();
}

test('events are decoded by their type URL, unknown types are ignored', () => {
  const oom = TaskOOM.encode({ containerId: 'c1' }).finish();
  const expected = { kind: 'TaskOOM', namespace: 'k8s.io', at: 5_000_000_006n, event: { containerId: 'c1' } };
  assert.deepEqual(decodeEvent(forward('containerd.events.TaskOOM', oom)), expected);
  assert.deepEqual(decodeEvent(forward('type.googleapis.com/containerd.events.TaskOOM', oom)), expected);
  assert.equal(decodeEvent(forward('containerd.events.Novelty', oom)), undefined);
  assert.equal(decodeEvent(forward('containerd.events.toString', oom)), undefined);
  assert.equal(decodeEvent(ForwardRequest.encode({ envelope: undefined }).finish()), undefined);
});

test('events reach the listener over the socket, and a malformed one does not stop later ones', async () => {
  const events: ShimEvent[] = [];
  const errors: Error[] = [];
  await using server = await serveEvents({
    path: join(dir, 'e'),
    onEvent: (event) => events.push(event),
    onError: (error) => errors.push(error),
  });
  const client = await TtrpcClient.connect(server.path, 1000);
  const raw = {
    name: 'Forward',
    request: ForwardRequest,
    response: { decode: () => ({}) },
  };
  const service = 'containerd.services.events.ttrpc.v1.Events';
  const send = (typeUrl: string, value: Uint8Array) =>
    client.call(service, raw, ForwardRequest.decode(forward(typeUrl, value)), 1000);
  await assert.rejects(send('containerd.events.TaskOOM', Buffer.from([0x0a, 0x7f])));
  const exit = { containerId: 'c', id: 'c', pid: 7, exitStatus: 137, exitedAt: { seconds: 1n, nanos: 2 } };
  await send('containerd.events.TaskExit', TaskExit.encode(exit).finish());
  assert.equal(errors.length, 1);
  assert.deepEqual(events, [{ kind: 'TaskExit', namespace: 'k8s.io', at: 5_000_000_006n, event: exit }]);
  client.close();
});

/** Serves the task service of one version with these handlers. */
async function fakeShim(version: 2 | 3, methods: Record<string, (payload: Uint8Array) => Uint8Array>) {
  const named = Object.entries(methods).map(([name, fn]) => [`containerd.task.v${version}.Task/${name}`, fn] as const);
  const server = await TtrpcServer.listen({
    path: join(dir, 's'),
    methods: Object.fromEntries(named),
    onError: () => {},
  });
  const connection = await TtrpcClient.connect(server.path, 1000);
  return { server, connection };
}

test('a shim without task service version 3 gets the call again, and all later calls, in version 2', async () => {
  let calls = 0;
  const { server, connection } = await fakeShim(2, {
    Create: (payload) => {
      calls++;
      const request = CreateTaskRequest.decode(payload);
      assert.equal(request.options?.typeUrl, 'containerd.runc.v1.Options');
      const options = Options.decode(request.options?.value ?? Buffer.alloc(0));
      assert.deepEqual(
        [options.binaryName, options.root, options.systemdCgroup, options.ioUid],
        ['crun', '/r', true, 9],
      );
      return CreateTaskResponse.encode({ pid: 77 }).finish();
    },
    Kill: (payload) => {
      assert.deepEqual(KillRequest.decode(payload), { id: 'c', execId: '', signal: 15, all: true });
      return Buffer.alloc(0);
    },
  });
  const task = new Task(connection, 3, 'pod');
  const create = {
    id: 'c',
    bundle: '/b',
    rootfs: [],
    runtime: { binary: 'crun', root: '/r', systemdCgroup: true, ioUid: 9 },
  };
  assert.equal(await task.create(create), 77);
  assert.equal(task.version, 2);
  assert.equal(await task.kill('c', 15, { all: true }), true);
  assert.equal(calls, 1);
  connection.close();
  await server[Symbol.asyncDispose]();
});

test('a method that a version 2 shim lacks is UNIMPLEMENTED and is not called twice', async () => {
  const { server, connection } = await fakeShim(2, {});
  const task = new Task(connection, 2, 'pod');
  await assert.rejects(task.state('c'), (error) => error instanceof SluiceError && error.code === 'UNIMPLEMENTED');
  assert.equal(task.version, 2);
  connection.close();
  await server[Symbol.asyncDispose]();
});

test('a state that cannot be decoded, and the end of the shim, are SHIM_FAILED', async () => {
  const { server, connection } = await fakeShim(3, { State: () => Buffer.from([0x0a, 0x7f]) });
  const task = new Task(connection, 3, 'pod-1');
  const failed = (error: unknown) =>
    error instanceof SluiceError && error.code === 'SHIM_FAILED' && error.message.includes('pod-1');
  await assert.rejects(task.state('c'), failed);
  await server[Symbol.asyncDispose]();
  await assert.rejects(task.wait('c'), failed);
});

test('a state is converted; a status number that is not in the protocol becomes unknown', async () => {
  const state = { id: 'c', bundle: '/b', pid: 5, stdin: '', stdout: '', stderr: '', terminal: false, execId: '' };
  let status: Status = Status.RUNNING;
  const { server, connection } = await fakeShim(3, {
    State: () =>
      StateResponse.encode({
        ...state,
        status,
        exitStatus: 0,
        exitedAt: { seconds: -62135596800n, nanos: 0 },
      }).finish(),
  });
  const task = new Task(connection, 3, 'pod');
  assert.deepEqual(await task.state('c'), { status: 'running', pid: 5, bundle: '/b', exitStatus: 0, at: 0n });
  status = 99 as Status;
  assert.equal((await task.state('c'))?.status, 'unknown');
  connection.close();
  await server[Symbol.asyncDispose]();
});

test('times are nanoseconds since the epoch', () => {
  assert.equal(nanoseconds({ seconds: 1_700_000_000n, nanos: 123_456_789 }), 1_700_000_000_123_456_789n);
  assert.equal(nanoseconds(undefined), 0n);
  assert.equal(nanoseconds({ seconds: -62135596800n, nanos: 0 }), 0n);
});

test('resolv.conf has search, nameserver and options in that order, and no empty lines', () => {
  const dns = { servers: ['10.96.0.10', '1.1.1.1'], searches: ['a.svc', 'b'], options: ['ndots:5', 'edns0'] };
  assert.equal(resolvConf(dns), 'search a.svc b\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:5 edns0\n');
  assert.equal(resolvConf({ servers: ['9.9.9.9'], searches: [], options: [] }), 'nameserver 9.9.9.9\n');
  assert.equal(resolvConf({ servers: [], searches: [], options: [] }), '');
});

test('a program name is looked up in PATH, and the first executable file is taken', async () => {
  for (const name of ['a', 'b', 'c']) mkdirSync(join(dir, name));
  writeFileSync(join(dir, 'a', 'shim'), '');
  mkdirSync(join(dir, 'b', 'shim'));
  writeFileSync(join(dir, 'c', 'shim'), '');
  chmodSync(join(dir, 'c', 'shim'), 0o755);
  const path = ['relative', '', 'a', 'b', 'c'].map((name) => (name === 'relative' ? name : join(dir, name))).join(':');
  assert.equal((await findProgram('shim', 'the shim', path)).path, join(dir, 'c', 'shim'));
  await assert.rejects(findProgram('nothing', 'the shim', path), /the shim nothing: there is no such program in PATH/);
  await assert.rejects(findProgram('/no/shim', 'the shim', path), /the shim \/no\/shim: there is no such program$/);
  const before = (await findProgram('shim', 'the shim', path)).key;
  rmSync(join(dir, 'c', 'shim'));
  writeFileSync(join(dir, 'c', 'shim'), 'new', { mode: 0o755 });
  assert.notEqual((await findProgram('shim', 'the shim', path)).key, before);
});

test('the mounts below a folder are listed, last mounted first', () => {
  const line = (mountPoint: string) => `36 35 98:0 / ${mountPoint} rw,noatime master:1 - ext3 /dev/root rw\n`;
  const table = ['/a/b', '/a/b/c', '/a/bb', '/a/b\\040c', '/a/b/with\\040space', '/'].map(line).join('');
  assert.deepEqual(mountsBelow('/a/b', table), ['/a/b/with space', '/a/b/c', '/a/b']);
  assert.deepEqual(mountsBelow('/a/b c', table), ['/a/b c']);
  assert.deepEqual(mountsBelow('/nothing', table), []);
});

test('the start command of a shim never gets an Any of runc options', () => {
  // A 2.3 shim would read it as BootstrapParams, and the type URL as the pod's id.
  const sent = Any.decode(encodeParams({ id: 'pod', namespace: 'ns', addresses: ADDRESSES }));
  assert.equal(sent.typeUrl, 'pod');
});
