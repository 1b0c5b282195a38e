import type { ContainerMetadata, PodSandboxMetadata } from '../../../proto/gen/cri.ts';

/** The unique name of a sandbox. "_" separates the parts: no part of a Kubernetes name may contain it. */
export function sandboxName({ name, namespace, uid, attempt }: PodSandboxMetadata): string {
  return [name, namespace, uid, attempt].join('_');
}

/** The unique name of a container: its own name and attempt are unique only together with those of its sandbox. */
export function containerName(container: ContainerMetadata, sandbox: PodSandboxMetadata): string {
  return [container.name, sandbox.name, sandbox.namespace, sandbox.uid, container.attempt].join('_');
}
