import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Protocol } from '../../proto/gen/cri.ts';
import { GRPC } from '../../src/errors.ts';
import { podConfig } from '../rig/messages.ts';
import { type Lab, openLab, SKIP } from './lab.ts';

let lab: Lab;
const skip = SKIP;
before(async () => {
  if (!skip) lab = await openLab({ index: 12 });
});
after(async () => lab?.[Symbol.asyncDispose]());

test('a request without a config, or a config without metadata', { skip }, async () => {
  const { cri } = lab.daemon;
  await assert.rejects(cri.runPodSandbox({}), { code: GRPC.INVALID_ARGUMENT });
  const config = { ...podConfig('x'), metadata: undefined };
  await assert.rejects(cri.runPodSandbox({ config }), { code: GRPC.INVALID_ARGUMENT });
  await lab.launchFails('', { code: GRPC.INVALID_ARGUMENT, words: /name/ });
  await lab.assertSound();
});

test('a runtime handler that is not configured', { skip }, async () => {
  const words = /no runtime for "nonesuch" is configured/;
  await lab.launchFails('doomed', { code: GRPC.INVALID_ARGUMENT, words }, { handler: 'nonesuch' });
  await lab.assertSound();
});

test('a sysctl that does not exist, and one that may not be set', { skip }, async () => {
  await lab.launchFails('doomed', { words: /net[./]nonesuch/ }, { sysctls: { 'net.nonesuch': '1' } });
  await lab.launchFails('doomed', { words: /kernel[./]panic/ }, { sysctls: { 'kernel.panic': '1' } });
  await lab.assertSound();
});

test('unknown ids: status is NotFound, stop and remove succeed', { skip }, async () => {
  const { cri } = lab.daemon;
  const podSandboxId = 'f'.repeat(64);
  await assert.rejects(cri.podSandboxStatus({ podSandboxId }), { code: GRPC.NOT_FOUND });
  await cri.stopPodSandbox({ podSandboxId });
  await cri.removePodSandbox({ podSandboxId });
});

test('the same pod twice: the second is told of the first, or gets its id', { skip }, async () => {
  const first = await lab.launch('twin');
  await assert.rejects(lab.launch('twin'), { code: GRPC.ALREADY_EXISTS });
  await lab.stopAndRemove(first);
  const [a, b] = await Promise.all([lab.launch('twin'), lab.launch('twin')]);
  assert.equal(a, b, 'two calls for one launch in flight get one pod');
  await lab.stopAndRemove(a);
  await lab.assertSound();
});

test('a hostname and host port that cannot be', { skip }, async () => {
  const portMappings = [{ protocol: Protocol.TCP, containerPort: 80, hostPort: 70_000, hostIp: '' }];
  await lab.launchFails('doomed', { words: /70000|port/ }, { portMappings });
  await lab.launchFails('doomed', { words: /hostname/ }, { hostname: 'x'.repeat(65) });
  await lab.assertSound();
});
