import { join } from 'node:path';
import { ContainerState } from '../../../proto/gen/cri.ts';
import { cgroupsPath } from '../../node/oci/cgroups-path.ts';
import type { ContainerSubject, PodSubject } from '../../node/stats/subjects.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import { containerState } from './container-view.ts';
import type { CriServices as Node } from './services.ts';

export const isRunning = (row: ContainerRow) => containerState(row) === ContainerState.CONTAINER_RUNNING;

/** What the stats modules want to know of a container, from its row. */
export function containerSubject(node: Node, row: ContainerRow): ContainerSubject {
  const { metadata, labels, annotations, image, linux } = row.config;
  return {
    id: row.id,
    attributes: { id: row.id, metadata, labels, annotations },
    image: image?.userSpecifiedImage || image?.image || '',
    pid: row.pid,
    cgroupsPath: row.cgroupsPath,
    upperDir: join(row.snapshot, 'fs'),
    fsMountpoint: node.images.mountpoint,
    startedAt: row.startedAt,
    cpuShares: linux?.resources?.cpuShares,
  };
}

export function podSubject(node: Node, row: SandboxRow): PodSubject {
  const { metadata, labels, annotations, linux } = row.config;
  const cgroupParent = linux?.cgroupParent ?? '';
  return {
    id: row.id,
    attributes: { id: row.id, metadata, labels, annotations },
    cgroupParent,
    cgroupsPath: cgroupsPath(cgroupParent, row.id, node.host.cgroupDriver),
    pid: row.pid,
    netns: row.netns,
    containers: node.store
      .containersOf(row.id)
      .filter(isRunning)
      .map((container) => containerSubject(node, container)),
  };
}
