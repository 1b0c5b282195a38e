/** The verbs of containers. */
import { type Container, type ContainerFilter, ListContainersResponse } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import { batches, noInfo, type RuntimeVerbs } from './call.ts';
import { RUNTIME_TYPE, runtimeOptions } from './containerd-keys.ts';
import { EncodedItems, itemOf } from './encoded-items.ts';
import { matchesContainer } from './filters.ts';
import { goJson } from './go-json.ts';
import type { CriServices } from './services.ts';
import { CONTAINER_FIELDS, containerState, toContainerStatus, visibleContainer } from './views.ts';

const encodedContainers = new EncodedItems<ContainerRow, Container, ListContainersResponse>(
  CONTAINER_FIELDS,
  (container) => ListContainersResponse.encode({ containers: [container] }).finish(),
);

export const containerVerbs = (services: CriServices) =>
  ({
    async createContainer(request, call) {
      return { containerId: await services.containers.create(request, call) };
    },

    async startContainer({ containerId }, call) {
      await services.containers.start(containerId, call);
      return {};
    },

    /** Idempotent: an unknown id is a container that is removed already. `timeout` is in seconds. */
    async stopContainer({ containerId, timeout }, call) {
      const row = services.store.containers.find(containerId);
      if (row) await services.containers.stop(row.id, Math.max(0, Number(timeout)), call);
      return {};
    },

    /** Idempotent: an unknown id is a container that is removed already. */
    async removeContainer({ containerId }, call) {
      const row = services.store.containers.find(containerId);
      if (row) await services.containers.remove(row.id, call);
      return {};
    },

    async containerStatus({ containerId, verbose }) {
      const row = services.containers.get(containerId);
      if (!visibleContainer(row)) throw SluiceError.of('CONTAINER_NOT_FOUND', containerId);
      return {
        status: toContainerStatus(services.images, row),
        info: verbose ? { info: JSON.stringify(await inspect(services, row)) } : noInfo(),
      };
    },

    listContainers({ filter }) {
      return encodedContainers.response(matching(services, filter));
    },

    /** The same in batches (KEP-5825). */
    *streamContainers({ filter }) {
      for (const batch of batches(matching(services, filter)))
        yield { containers: batch.map((row) => itemOf(CONTAINER_FIELDS, row)) };
    },

    /** In-place resize. A container that has not started yet gets the limits when it starts. */
    async updateContainerResources({ containerId, linux, annotations }) {
      await services.containers.update(containerId, linux, annotations);
      return {};
    },

    /** After kubelet has renamed the file. Throws NOT_READY for a container that does not run: its log is closed. */
    async reopenContainerLog({ containerId }) {
      const { row } = await services.containers.running(containerId);
      await services.stdio.reopenLog(row.id);
      return {};
    },
  }) satisfies Partial<RuntimeVerbs>;

function matching({ store }: CriServices, filter: ContainerFilter | undefined): ContainerRow[] {
  const rows: ContainerRow[] = [];
  for (const row of store.containers.values()) {
    if (!visibleContainer(row)) continue;
    const { id, sandbox, config } = row;
    if (filter && !matchesContainer(filter, { id, sandbox, labels: config.labels, state: containerState(row) }))
      continue;
    rows.push(row);
  }
  return rows;
}

/** The keys that users of `crictl inspect` read with containerd. */
async function inspect({ config, host, images, specs, store }: CriServices, row: ContainerRow): Promise<object> {
  const systemd = host.cgroupDriver === 'systemd';
  return {
    sandboxID: row.sandbox,
    pid: row.pid,
    removing: row.state === 'removing',
    snapshotKey: row.id,
    snapshotter: images.snapshotterName,
    runtimeType: RUNTIME_TYPE,
    runtimeOptions: runtimeOptions(config.runtimes[store.sandboxes.get(row.sandbox)?.runtime ?? ''], systemd),
    config: goJson(row.config),
    runtimeSpec: await specs.of(row),
  };
}
