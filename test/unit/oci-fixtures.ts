/** Requests for one made-up pod and container, what a test says on top, and a made-up host. */
import {
  type ContainerConfig,
  type LinuxContainerSecurityContext,
  type LinuxPodSandboxConfig,
  type LinuxSandboxSecurityContext,
  NamespaceMode,
  type NamespaceOption,
  type PodSandboxConfig,
} from '../../proto/gen/cri.ts';
import { CAPABILITIES } from '../../src/node/oci/capabilities.ts';
import type { ContainerSpecInput } from '../../src/node/oci/container.ts';
import type { HostFacts } from '../../src/node/oci/host.ts';
import type { SandboxSpecInput } from '../../src/node/oci/sandbox.ts';
import type { Device } from '../../src/node/oci/types.ts';
import * as cri from '../rig/messages.ts';

export const HOST: HostFacts = {
  arch: 'x64',
  kernel: '6.1.0-13-amd64',
  hostname: 'node-1',
  bootId: '00000000-0000-4000-8000-000000000000',
  cgroupVersion: 2,
  cgroupDriver: 'systemd',
  cgroupMountOptions: ['nsdelegate'],
  swapController: true,
  hugetlbController: true,
  capabilities: [...CAPABILITIES],
  lowestOomScoreAdj: -1000,
  seccomp: true,
  apparmor: true,
  selinux: false,
};

export const HOST_DEVICES: Device[] = [
  { path: '/dev/null', type: 'c', major: 1, minor: 3, fileMode: 0o666, uid: 0, gid: 0 },
  { path: '/dev/fuse', type: 'c', major: 10, minor: 229, fileMode: 0o666, uid: 0, gid: 0 },
];

export const FEATURES = { recursiveReadOnly: true, idmap: true };

export function podLinux(over: Partial<LinuxPodSandboxConfig> = {}): LinuxPodSandboxConfig {
  return cri.podLinux({ cgroupParent: '/kubepods.slice/kubepods-pod1.slice', ...over });
}

export function pod(over: Partial<PodSandboxConfig> = {}): PodSandboxConfig {
  return cri.emptyPod({
    metadata: { name: 'web', namespace: 'shop', uid: 'u-1', attempt: 2 },
    hostname: 'web-0',
    logDirectory: '/var/log/pods/web',
    linux: podLinux(),
    ...over,
  });
}

/** A pod with this security context. */
export function podWith(context: Partial<LinuxSandboxSecurityContext>, linux: Partial<LinuxPodSandboxConfig> = {}) {
  return pod({ linux: podLinux({ securityContext: cri.podSecurity(context), ...linux }) });
}

/** A user namespace as kubelet asks for it. */
export function userns(hostId = 100000, length = 65536): Partial<NamespaceOption> {
  const mapping = { hostId, containerId: 0, length };
  return { usernsOptions: { mode: NamespaceMode.POD, uids: [mapping], gids: [mapping] } };
}

export function container(over: Partial<ContainerConfig> = {}): ContainerConfig {
  return cri.emptyContainer({
    metadata: { name: 'app', attempt: 1 },
    image: { ...cri.imageSpec('sha256:abc'), userSpecifiedImage: 'nginx:1' },
    command: ['/bin/app'],
    logPath: 'app/0.log',
    ...over,
  });
}

/** A container with this security context. */
export function containerWith(over: Partial<LinuxContainerSecurityContext>, rest: Partial<ContainerConfig> = {}) {
  return container({
    linux: cri.containerLinux({ securityContext: cri.containerSecurity(over) }),
    ...rest,
  });
}

export function sandboxInput(over: Partial<SandboxSpecInput> = {}): SandboxSpecInput {
  return {
    id: 'sb1',
    config: pod(),
    image: { reference: 'registry.k8s.io/pause:3.10', config: { Entrypoint: ['/pause'], Env: ['A=b'] } },
    user: { uid: 65535, gid: 65535, additionalGids: [65535] },
    netns: '/run/netns/cni-1',
    shm: '/run/sluice/sandboxes/sb1/shm',
    resolvConf: '/var/lib/sluice/sandboxes/sb1/resolv.conf',
    podAnnotations: [],
    features: FEATURES,
    host: HOST,
    ...over,
  };
}

export function containerInput(over: Partial<ContainerSpecInput> = {}): ContainerSpecInput {
  return {
    id: 'c1',
    config: container(),
    image: { reference: 'docker.io/library/nginx@sha256:abc', config: {} },
    user: { uid: 0, gid: 0, additionalGids: [0] },
    sandbox: {
      id: 'sb1',
      config: pod(),
      pid: 4711,
      netns: '/run/netns/cni-1',
      files: {
        hostname: '/sb/hostname',
        hosts: '/sb/hosts',
        resolvConf: '/sb/resolv.conf',
        shm: '/sb/shm',
      },
    },
    runtime: {
      podAnnotations: [],
      containerAnnotations: [],
      privilegedWithoutHostDevices: false,
      features: FEATURES,
    },
    hostDevices: HOST_DEVICES,
    host: HOST,
    ...over,
  };
}
