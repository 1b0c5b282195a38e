/** The verbs of pod sandboxes. */
import { ListPodSandboxResponse, type PodSandbox, type PodSandboxFilter } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { buildPinnedSpec } from '../../node/oci/pinned-spec.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import { getSandbox, readySandbox } from '../../pipeline/jobs/lookup.ts';
import { isNsfs } from '../../sys/mount.ts';
import { batches, noInfo, type RuntimeVerbs } from './call.ts';
import { cniResultInfo } from './cni-info.ts';
import { RUNTIME_TYPE, runtimeOptions } from './containerd-keys.ts';
import { EncodedItems, itemOf } from './encoded-items.ts';
import { matchesSandbox } from './filters.ts';
import { goJson } from './go-json.ts';
import type { CriServices } from './services.ts';
import { POD_FIELDS, sandboxState, toPodSandboxStatus, visibleSandbox } from './views.ts';

const encodedPods = new EncodedItems<SandboxRow, PodSandbox, ListPodSandboxResponse>(POD_FIELDS, (pod) =>
  ListPodSandboxResponse.encode({ items: [pod] }).finish(),
);

export const podVerbs = (services: CriServices) =>
  ({
    async runPodSandbox(request, call) {
      return { podSandboxId: await services.pods.run(request, call) };
    },

    /** Idempotent: an unknown id is a pod that is stopped already. */
    async stopPodSandbox({ podSandboxId }, call) {
      const row = services.store.sandboxes.find(podSandboxId);
      if (row) await services.pods.stop(row.id, call);
      return {};
    },

    /** Idempotent: an unknown id is a pod that is removed already. */
    async removePodSandbox({ podSandboxId }, call) {
      const row = services.store.sandboxes.find(podSandboxId);
      if (row) await services.pods.remove(row.id, call);
      return {};
    },

    async podSandboxStatus({ podSandboxId, verbose }) {
      const row = getSandbox(podSandboxId, services);
      if (!visibleSandbox(row)) throw SluiceError.of('SANDBOX_NOT_FOUND', podSandboxId);
      return {
        status: toPodSandboxStatus(row),
        info: verbose ? { info: JSON.stringify(await inspect(services, row)) } : noInfo(),
        containersStatuses: [],
        timestamp: 0n,
      };
    },

    listPodSandbox({ filter }) {
      return encodedPods.response(matching(services, filter));
    },

    /** The same in batches, for nodes whose list outgrows one message (KEP-5825). */
    *streamPodSandboxes({ filter }) {
      for (const batch of batches(matching(services, filter)))
        yield { podSandboxes: batch.map((row) => itemOf(POD_FIELDS, row)) };
    },

    /** Kubelet resizes the pod's cgroup itself; the row keeps the new values for the containers made later. */
    updatePodSandboxResources({ podSandboxId, overhead, resources }) {
      const row = readySandbox(podSandboxId, services);
      const linux = row.config.linux ?? {
        cgroupParent: '',
        securityContext: undefined,
        sysctls: {},
        overhead: undefined,
        resources: undefined,
      };
      row.config = {
        ...row.config,
        linux: { ...linux, overhead: overhead ?? linux.overhead, resources: resources ?? linux.resources },
      };
      services.store.sandboxes.update(row);
      return {};
    },
  }) satisfies Partial<RuntimeVerbs>;

function matching({ store }: CriServices, filter: PodSandboxFilter | undefined): SandboxRow[] {
  const rows: SandboxRow[] = [];
  for (const row of store.sandboxes.values()) {
    if (!visibleSandbox(row)) continue;
    if (filter && !matchesSandbox(filter, { id: row.id, labels: row.config.labels, state: sandboxState(row) }))
      continue;
    rows.push(row);
  }
  return rows;
}

/** The keys that users of `crictl inspectp` read with containerd. */
async function inspect({ config, host, images, specs }: CriServices, row: SandboxRow): Promise<object> {
  const runtime = config.runtimes[row.runtime];
  const metadata = {
    ID: row.id,
    Name: row.name,
    Config: goJson(row.config),
    NetNSPath: row.netns,
    IP: row.addresses[0] ?? '',
    AdditionalIPs: row.addresses.slice(1),
    RuntimeHandler: row.runtimeHandler,
    CNIResult: row.result ? cniResultInfo(row.result, row.netns) : null,
    ProcessLabel: '',
  };
  return {
    pid: row.pid,
    processStatus: row.state === 'ready' ? 'running' : 'deleted',
    netNamespaceClosed: row.netns !== '' && !isNsfs(row.netns),
    image: images.find(row.image)?.names[0] ?? row.image,
    snapshotKey: row.id,
    snapshotter: images.snapshotterName,
    runtimeHandler: row.runtimeHandler,
    runtimeType: RUNTIME_TYPE,
    runtimeOptions: runtimeOptions(runtime, host.cgroupDriver === 'systemd'),
    config: metadata.Config,
    runtimeSpec: row.pinned
      ? buildPinnedSpec({ ...row, pinned: row.pinned, podAnnotations: runtime?.pod_annotations ?? [] })
      : await specs.of(row),
    cniResult: metadata.CNIResult,
    // Flat as containerd 1 shows it, and in an envelope as containerd 2 does.
    sandboxMetadata: { ...metadata, Metadata: metadata, Version: 'v1' },
    cleanup: row.cleanup,
  };
}
