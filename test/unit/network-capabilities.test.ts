import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type PodSandboxConfig, Protocol } from '../../proto/gen/cri.ts';
import { capabilityArgs as argsOf } from '../../src/node/network/capabilities.ts';
import { parseQuantity } from '../../src/node/network/quantity.ts';
import type { NetworkConf } from '../../src/workers/net/types.ts';
import { emptyPod } from '../rig/messages.ts';

const network = (...capabilities: Record<string, boolean>[]): NetworkConf => ({
  name: 'net',
  cniVersion: '1.0.0',
  source: 'test',
  plugins: capabilities.map((each, index) => ({ type: `p${index}`, capabilities: each })),
});
const ALL = network({
  portMappings: true,
  bandwidth: true,
  dns: true,
  ipRanges: true,
  cgroupPath: true,
  'io.kubernetes.cri.pod-annotations': true,
});

const capabilityArgs = (config: PodSandboxConfig, of: NetworkConf) => argsOf(config, of, { ipRangesAllowed: true });

test('host ports: only those that are set, protocols in lower case', () => {
  const portMappings = [
    { protocol: Protocol.TCP, containerPort: 80, hostPort: 8080, hostIp: '' },
    { protocol: Protocol.UDP, containerPort: 53, hostPort: 53, hostIp: '127.0.0.1' },
    { protocol: Protocol.SCTP, containerPort: 9, hostPort: 9, hostIp: '' },
    { protocol: Protocol.TCP, containerPort: 443, hostPort: 0, hostIp: '' },
  ];
  assert.deepEqual(capabilityArgs(emptyPod({ portMappings }), network({ portMappings: true })), {
    portMappings: [
      { hostPort: 8080, containerPort: 80, protocol: 'tcp', hostIP: '' },
      { hostPort: 53, containerPort: 53, protocol: 'udp', hostIP: '127.0.0.1' },
      { hostPort: 9, containerPort: 9, protocol: 'sctp', hostIP: '' },
    ],
  });
});

test('an argument is present only when a plugin declares the capability and the pod has it', () => {
  const config = emptyPod({
    portMappings: [{ protocol: Protocol.TCP, containerPort: 80, hostPort: 8080, hostIp: '' }],
    annotations: { 'kubernetes.io/ingress-bandwidth': '1M' },
  });
  assert.deepEqual(Object.keys(capabilityArgs(config, network({}, { bandwidth: true }))), ['bandwidth']);
  assert.deepEqual(capabilityArgs(config, network({ bandwidth: false })), {});
  assert.deepEqual(Object.keys(capabilityArgs(emptyPod({}), ALL)), ['io.kubernetes.cri.pod-annotations']);
});

test('bandwidth: Kubernetes quantities, each direction separately', () => {
  const of = (annotations: Record<string, string>) => capabilityArgs(emptyPod({ annotations }), ALL).bandwidth;
  assert.deepEqual(of({ 'kubernetes.io/ingress-bandwidth': '10M' }), { ingressRate: 1e7, ingressBurst: 4294967295 });
  assert.deepEqual(of({ 'kubernetes.io/egress-bandwidth': '1Mi', 'kubernetes.io/ingress-bandwidth': '2e6' }), {
    ingressRate: 2e6,
    ingressBurst: 4294967295,
    egressRate: 1048576,
    egressBurst: 4294967295,
  });
  assert.throws(() => of({ 'kubernetes.io/egress-bandwidth': 'fast' }), /egress-bandwidth: "fast" is not a quantity/);
  assert.throws(() => of({ 'kubernetes.io/egress-bandwidth': '10' }), /not between/);
  assert.throws(() => of({ 'kubernetes.io/egress-bandwidth': '2P' }), /not between/);
});

test('DNS, cgroup, annotations and ranges have the names of the CNI conventions', () => {
  const annotations = { 'sluice/ip-ranges': '[[{"subnet":"10.5.0.0/24"}]]' };
  const config = emptyPod({
    annotations,
    dnsConfig: { servers: ['10.0.0.10'], searches: ['svc.local'], options: ['ndots:5'] },
    linux: {
      cgroupParent: '/kubepods/pod1',
      securityContext: undefined,
      sysctls: {},
      overhead: undefined,
      resources: undefined,
    },
  });
  assert.deepEqual(capabilityArgs(config, ALL), {
    dns: { servers: ['10.0.0.10'], searches: ['svc.local'], options: ['ndots:5'] },
    ipRanges: [[{ subnet: '10.5.0.0/24' }]],
    cgroupPath: '/kubepods/pod1',
    'io.kubernetes.cri.pod-annotations': annotations,
  });
  const bad = (value: string) => capabilityArgs(emptyPod({ annotations: { 'sluice/ip-ranges': value } }), ALL);
  assert.throws(() => bad('nonsense'), /is not JSON/);
  assert.throws(() => bad('[{}]'), /not a list of lists/);
});

test('quantities', () => {
  const cases: [string, number | undefined][] = [
    ['1', 1],
    ['1500m', 2],
    ['0.5', 1],
    ['.5k', 500],
    ['1k', 1000],
    ['1.5Gi', 1610612736],
    ['1e3', 1000],
    ['1E3', 1000],
    ['2E', 2e18],
    ['', undefined],
    ['k', undefined],
    ['1K', undefined],
    ['1 M', undefined],
    ['1MiB', undefined],
  ];
  for (const [text, value] of cases) assert.equal(parseQuantity(text), value, text);
});

test('the annotation of IP ranges is ignored unless the configuration allows it', () => {
  const config = emptyPod({ annotations: { 'sluice/ip-ranges': '[[{"subnet":"10.5.0.0/24"}]]' } });
  assert.equal('ipRanges' in argsOf(config, ALL, { ipRangesAllowed: false }), false);
  const invalid = emptyPod({ annotations: { 'sluice/ip-ranges': 'x' } });
  assert.equal('ipRanges' in argsOf(invalid, ALL, { ipRangesAllowed: false }), false);
});
