/** The verbs of usage: stats of containers and pods, and the metrics that kubelet serves at /metrics/cadvisor. */
import { join } from 'node:path';
import { ContainerState, type ContainerStatsFilter, type PodSandboxStatsFilter } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { Encoded } from '../../node/grpc/service.ts';
import { cgroupsPath } from '../../node/oci/cgroups-path.ts';
import { encodeMetrics } from '../../node/stats/encoded.ts';
import { metricDescriptors } from '../../node/stats/metrics.ts';
import type { ContainerSubject, PodSubject } from '../../node/stats/subjects.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import { readySandbox } from '../../pipeline/jobs/lookup.ts';
import { batches, type RuntimeVerbs } from './call.ts';
import { matchesContainerStats, matchesSandboxStats } from './filters.ts';
import type { CriServices } from './services.ts';
import { containerState } from './views.ts';

/** Containers and pods in one worker call of a stream. */
const CONTAINERS_AT_ONCE = 200;
const PODS_AT_ONCE = 100;

export const statsVerbs = (services: CriServices) =>
  ({
    async containerStats({ containerId }) {
      const { row } = await services.containers.running(containerId);
      const [stats] = await services.stats.containers([containerSubject(services, row)]);
      if (!stats) throw new SluiceError('NOT_READY', `container ${row.id} has just ended`);
      return { stats };
    },

    async listContainerStats({ filter }) {
      return { stats: await services.stats.containers(containerSubjects(services, filter)) };
    },

    async *streamContainerStats({ filter }) {
      for (const batch of batches(containerSubjects(services, filter), CONTAINERS_AT_ONCE)) {
        yield { containerStats: await services.stats.containers(batch) };
      }
    },

    async podSandboxStats({ podSandboxId }) {
      const row = readySandbox(podSandboxId, services);
      const [stats] = await services.stats.pods([podSubject(services, row)]);
      if (!stats) throw new SluiceError('NOT_READY', `pod ${row.id} has just ended`);
      return { stats };
    },

    async listPodSandboxStats({ filter }) {
      return { stats: await services.stats.pods(podSubjects(services, filter)) };
    },

    async *streamPodSandboxStats({ filter }) {
      for (const batch of batches(podSubjects(services, filter), PODS_AT_ONCE)) {
        yield { podSandboxStats: await services.stats.pods(batch) };
      }
    },

    listMetricDescriptors() {
      return { descriptors: metricDescriptors() };
    },

    async listPodSandboxMetrics() {
      return new Encoded(await encodeMetrics(services.stats.metrics(podSubjects(services, undefined))));
    },

    async *streamPodSandboxMetrics() {
      for await (const metrics of services.stats.metrics(podSubjects(services, undefined))) {
        yield { podSandboxMetrics: [metrics] };
      }
    },
  }) satisfies Partial<RuntimeVerbs>;

const isRunning = (row: ContainerRow) => containerState(row) === ContainerState.CONTAINER_RUNNING;

/** The running containers that a filter takes. */
function containerSubjects(services: CriServices, filter: ContainerStatsFilter | undefined): ContainerSubject[] {
  return [...services.store.containers.values()]
    .filter(isRunning)
    .filter((row) => matchesContainerStats(filter, { id: row.id, sandbox: row.sandbox, labels: row.config.labels }))
    .map((row) => containerSubject(services, row));
}

/** The ready pods that a filter takes. */
function podSubjects(services: CriServices, filter: PodSandboxStatsFilter | undefined): PodSubject[] {
  return [...services.store.sandboxes.values()]
    .filter((row) => row.state === 'ready' && matchesSandboxStats(filter, { id: row.id, labels: row.config.labels }))
    .map((row) => podSubject(services, row));
}

function containerSubject({ images }: CriServices, row: ContainerRow): ContainerSubject {
  const { metadata, labels, annotations, image, linux } = row.config;
  return {
    id: row.id,
    attributes: { id: row.id, metadata, labels, annotations },
    image: image?.userSpecifiedImage || image?.image || '',
    pid: row.pid,
    cgroupsPath: row.cgroupsPath,
    upperDir: join(row.snapshot, 'fs'),
    fsMountpoint: images.mountpoint,
    startedAt: row.startedAt,
    cpuShares: linux?.resources?.cpuShares,
  };
}

function podSubject(services: CriServices, row: SandboxRow): PodSubject {
  const { metadata, labels, annotations, linux } = row.config;
  const cgroupParent = linux?.cgroupParent ?? '';
  return {
    id: row.id,
    attributes: { id: row.id, metadata, labels, annotations },
    cgroupParent,
    cgroupsPath: cgroupsPath(cgroupParent, row.id, services.host.cgroupDriver),
    pid: row.pid,
    netns: row.netns,
    containers: services.store
      .containersOf(row.id)
      .filter(isRunning)
      .map((container) => containerSubject(services, container)),
  };
}
