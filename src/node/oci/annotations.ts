import type { PodSandboxConfig } from '../../../proto/gen/cri.ts';

/**
 * Prefix of containerd's CRI annotations: shims group containers by sandbox-id; VM runtimes and monitoring agents read
 * the others.
 */
const PREFIX = 'io.kubernetes.cri.';

/** Annotations of a pause container. `image` is the reference of the sandbox image. */
export function sandboxAnnotations(id: string, config: PodSandboxConfig, image: string): Record<string, string> {
  const annotations: Record<string, string> = {
    ...common('sandbox', id, config),
    [`${PREFIX}sandbox-log-directory`]: config.logDirectory,
    [`${PREFIX}podsandbox.image-name`]: image,
  };
  const resources = config.linux?.resources;
  if (resources !== undefined) {
    annotations[`${PREFIX}sandbox-cpu-period`] = String(resources.cpuPeriod);
    annotations[`${PREFIX}sandbox-cpu-quota`] = String(resources.cpuQuota);
    annotations[`${PREFIX}sandbox-cpu-shares`] = String(resources.cpuShares);
    annotations[`${PREFIX}sandbox-memory`] = String(resources.memoryLimitInBytes);
  }
  return annotations;
}

/** Annotations of a container of a pod. `image` is the image as the user wrote it, or else its reference. */
export function containerAnnotations(
  sandboxId: string,
  config: PodSandboxConfig,
  name: string,
  image: string,
): Record<string, string> {
  return {
    ...common('container', sandboxId, config),
    [`${PREFIX}container-name`]: name,
    [`${PREFIX}image-name`]: image,
  };
}

function common(
  type: 'sandbox' | 'container',
  sandboxId: string,
  { metadata }: PodSandboxConfig,
): Record<string, string> {
  return {
    [`${PREFIX}container-type`]: type,
    [`${PREFIX}sandbox-id`]: sandboxId,
    [`${PREFIX}sandbox-name`]: metadata?.name ?? '',
    [`${PREFIX}sandbox-namespace`]: metadata?.namespace ?? '',
    [`${PREFIX}sandbox-uid`]: metadata?.uid ?? '',
  };
}

/**
 * The annotations whose keys match one of the patterns. As in containerd's configuration, `*` and `?` do not match "/".
 */
export function passedAnnotations(
  annotations: Readonly<Record<string, string>>,
  patterns: readonly string[],
): Record<string, string> {
  const tests = patterns.map(patternTest);
  return Object.fromEntries(Object.entries(annotations).filter(([key]) => tests.some((test) => test.test(key))));
}

function patternTest(pattern: string): RegExp {
  const source = pattern.replace(/[\\^$.*+?()[\]{}|/]/g, (char) =>
    char === '*' ? '[^/]*' : char === '?' ? '[^/]' : `\\${char}`,
  );
  return new RegExp(`^${source}$`, 'u');
}
