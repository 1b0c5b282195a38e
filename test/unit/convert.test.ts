import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import {
  ContainerConfig,
  ContainerFilter,
  ContainerState,
  Device,
  KeyValue,
  PodSandboxConfig,
  PodSandboxFilter,
  PodSandboxState,
} from '../../proto/gen/cri.ts';
import { nowNs } from '../../src/clock.ts';
import {
  matchesContainer,
  matchesContainerStats,
  matchesSandbox,
  matchesSandboxStats,
} from '../../src/main/cri/filters.ts';
import { goJson, MAP_FIELDS, snakeCase } from '../../src/main/cri/go-json.ts';

const proto = readFileSync(new URL('../../proto/cri.proto', import.meta.url), 'utf8');
const camelCase = (name: string) => name.replaceAll(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

/** A message with all its fields; parts of it may lack fields of their own, which goJson does not mind. */
function message<T extends object>(type: { decode(bytes: Uint8Array): T }, partial: object): T {
  return { ...type.decode(new Uint8Array()), ...partial };
}

test('every field name of the proto survives the way to camelCase and back', () => {
  const names = [...proto.matchAll(/^\s+(?:repeated |optional )?[\w.]+ (\w+) = \d+;/gm)].map((match) => match[1] ?? '');
  assert.ok(names.length > 300, `${names.length} fields found`);
  for (const name of names) assert.equal(snakeCase(camelCase(name)), name, name);
});

test('every map of the proto is known as one, and no other field has such a name', () => {
  const maps = new Set([...proto.matchAll(/map<[^>]+> (\w+) =/g)].map((match) => camelCase(match[1] ?? '')));
  assert.deepEqual([...maps].sort(), [...MAP_FIELDS, 'options'].sort());
  for (const [, type, name] of proto.matchAll(/^\s+(?:repeated )?([\w.]+) (\w+) = \d+;/gm)) {
    assert.ok(!MAP_FIELDS.has(camelCase(name ?? '')), `${type} ${name}`);
  }
});

test('a pod config looks as Go writes it', () => {
  const config = message(PodSandboxConfig, {
    metadata: { name: 'p', uid: 'u', namespace: 'n', attempt: 0 },
    logDirectory: '/logs',
    dnsConfig: { servers: ['10.0.0.1'], searches: [], options: ['ndots:5'] },
    portMappings: [{ protocol: 1, containerPort: 53 }, {}],
    labels: { zLabel: 'Z', 'app.kubernetes.io/name': '' },
    linux: {
      cgroupParent: '/kubepods',
      securityContext: { namespaceOptions: { pid: 1 }, seccomp: {} },
      sysctls: { 'net.core.somaxconn': '1' },
      resources: { memoryLimitInBytes: 9_007_199_254_740_991n, cpuShares: 0n },
    },
  });
  assert.equal(
    JSON.stringify(goJson(config)),
    '{"metadata":{"name":"p","uid":"u","namespace":"n"},"log_directory":"/logs",' +
      '"dns_config":{"servers":["10.0.0.1"],"options":["ndots:5"]},' +
      '"port_mappings":[{"protocol":1,"container_port":53},{}],"labels":{"app.kubernetes.io/name":"","zLabel":"Z"},' +
      '"linux":{"cgroup_parent":"/kubepods","security_context":{"namespace_options":{"pid":1},"seccomp":{}},' +
      '"sysctls":{"net.core.somaxconn":"1"},"resources":{"memory_limit_in_bytes":9007199254740991}}}',
  );
});

test('a container config, its devices and its bytes', () => {
  const config = message(ContainerConfig, {
    metadata: { name: 'c', attempt: 2 },
    image: { image: 'busybox', userSpecifiedImage: 'busybox:1' },
    command: ['sh', ''],
    devices: [message(Device, { containerPath: '/dev/x', hostPath: '/dev/x', permissions: 'rwm' })],
    tty: true,
    annotations: { 'io.kubernetes.container.hash': '1' },
  });
  assert.deepEqual(goJson(config), {
    metadata: { name: 'c', attempt: 2 },
    image: { image: 'busybox', user_specified_image: 'busybox:1' },
    command: ['sh', ''],
    annotations: { 'io.kubernetes.container.hash': '1' },
    devices: [{ container_path: '/dev/x', host_path: '/dev/x', permissions: 'rwm' }],
    tty: true,
  });
  assert.deepEqual(goJson(message(KeyValue, { key: 'A', value: Buffer.from('b') })), { key: 'A', value: 'Yg==' });
});

const sandbox = { id: 'abcdef', labels: { app: 'web', tier: '' }, state: PodSandboxState.SANDBOX_NOTREADY };
const container = { id: '123456', sandbox: 'abcdef', labels: { app: 'web' }, state: ContainerState.CONTAINER_RUNNING };

test('pod filters', () => {
  const matches = (filter: Partial<PodSandboxFilter>) => matchesSandbox(message(PodSandboxFilter, filter), sandbox);
  assert.ok(matchesSandbox(undefined, sandbox));
  assert.ok(matches({}));
  assert.ok(matches({ id: 'abc' }));
  assert.ok(!matches({ id: 'bc' }));
  assert.ok(!matches({ id: 'abcdef0' }));
  assert.ok(matches({ state: { state: PodSandboxState.SANDBOX_NOTREADY } }));
  assert.ok(!matches({ state: { state: PodSandboxState.SANDBOX_READY } }), 'READY is 0, and a filter all the same');
  assert.ok(matches({ labelSelector: { app: 'web', tier: '' } }));
  assert.ok(!matches({ labelSelector: { app: 'web', zone: '' } }), 'a missing label is not an empty one');
  assert.ok(!matches({ labelSelector: { toString: '' } }));
  assert.ok(matchesSandboxStats({ id: 'abcd', labelSelector: { app: 'web' } }, sandbox));
  assert.ok(!matchesSandboxStats({ id: '', labelSelector: { app: 'db' } }, sandbox));
});

test('container filters', () => {
  const matches = (filter: Partial<ContainerFilter>) => matchesContainer(message(ContainerFilter, filter), container);
  assert.ok(matchesContainer(undefined, container));
  assert.ok(matches({ id: '123', podSandboxId: 'abc' }));
  assert.ok(!matches({ podSandboxId: '123' }));
  assert.ok(!matches({ state: { state: ContainerState.CONTAINER_CREATED } }));
  assert.ok(!matches({ id: '123', labelSelector: { app: 'db' } }));
  assert.ok(matchesContainerStats({ id: '', podSandboxId: 'abcdef', labelSelector: {} }, container));
});

test('times are nanoseconds of now, and never stand still', () => {
  const before = BigInt(Date.now()) * 1_000_000n;
  const times = Array.from({ length: 50 }, nowNs);
  const after = BigInt(Date.now() + 1) * 1_000_000n;
  for (const [i, time] of times.entries()) {
    assert.ok(time >= before - 5_000_000n && time <= after + 5_000_000n);
    assert.ok(i === 0 || time > (times[i - 1] ?? 0n));
  }
});
