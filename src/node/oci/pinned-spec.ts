import type { PodSandboxConfig } from '../../../proto/gen/cri.ts';
import type { PinnedSandbox } from '../store/sandbox.ts';
import { passedAnnotations, sandboxAnnotations } from './annotations.ts';
import { OCI_VERSION } from './base.ts';
import { onHostNetwork } from './namespaces.ts';
import type { Namespace } from './types.ts';

/** What is left of an OCI spec when a sandbox has no process: no root, no mounts, nothing to run. */
export interface PinnedSpec {
  ociVersion: string;
  hostname?: string;
  annotations: Record<string, string>;
  linux: { namespaces: Namespace[] };
}

export interface PinnedSpecInput {
  id: string;
  config: PodSandboxConfig;
  netns: string;
  pinned: PinnedSandbox;
  podAnnotations: readonly string[];
}

/**
 * The spec of a pinned sandbox. A shim's start command reads its annotations, by which it groups containers, and users
 * of `crictl inspectp` its namespaces.
 */
export function buildPinnedSpec({ id, config, netns, pinned, podAnnotations }: PinnedSpecInput): PinnedSpec {
  const namespaces: Namespace[] = [];
  if (pinned.ipc !== undefined) namespaces.push({ type: 'ipc', path: pinned.ipc });
  if (pinned.uts !== undefined) namespaces.push({ type: 'uts', path: pinned.uts });
  if (netns !== '') namespaces.push({ type: 'network', path: netns });
  return {
    ociVersion: OCI_VERSION,
    ...(!onHostNetwork(config) && config.hostname !== '' && { hostname: config.hostname }),
    annotations: {
      ...passedAnnotations(config.annotations, podAnnotations),
      ...sandboxAnnotations(id, config, ''),
    },
    linux: { namespaces },
  };
}
