import { join } from 'node:path';
import { NamespaceMode } from '../../../proto/gen/cri.ts';
import type { ImageRow } from '../../node/images/rows.ts';
import { appArmorProfileToFind } from '../../node/oci/apparmor.ts';
import { buildContainerSpec, needsHostDevices } from '../../node/oci/container.ts';
import { encodeSpec } from '../../node/oci/encode.ts';
import { podNamespaceOptions } from '../../node/oci/namespaces.ts';
import { readAppArmorProfiles } from '../../node/oci/read-host.ts';
import type { User } from '../../node/oci/types.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import { featuresOf, type JobContext, runtimeOf } from './context.ts';
import type { HostLookups } from './host-paths.ts';

/** What the stages before it have found out. */
export interface ContainerSpecParts {
  row: ContainerRow;
  sandbox: SandboxRow;
  image: ImageRow;
  user: User;
  imageVolumes: Record<string, string> | undefined;
  /** Undefined when the request names no path of the host. */
  host: HostLookups | undefined;
}

/** Builds the container's spec from what the stages before have found; the rules themselves are in src/node/oci. */
export async function containerSpec(
  { row, sandbox, image, user, imageVolumes, host }: ContainerSpecParts,
  ctx: JobContext,
): Promise<string> {
  const { config } = row;
  const context = config.linux?.securityContext;
  const runtime = runtimeOf(sandbox, ctx);
  const privilegedWithoutHostDevices = runtime.privileged_without_host_devices;
  const profile = appArmorProfileToFind(context?.apparmor, context?.apparmorProfile ?? '');
  return encodeSpec(
    buildContainerSpec({
      id: row.id,
      config,
      image: { reference: config.image?.userSpecifiedImage || config.image?.image || '', config: image.config },
      user,
      sandbox: {
        id: sandbox.id,
        config: sandbox.config,
        pid: sandbox.pid,
        pinned: sandbox.pinned,
        netns: sandbox.netns,
        userns: sandbox.userns,
        files: podFiles(sandbox),
      },
      targetPid: targetPid(row, ctx),
      volumes: row.volumes,
      imageVolumes,
      realPaths: host?.paths.real,
      mountTable: host?.paths.mounts,
      devices: host?.devices,
      // Read anew each time: devices come and go while the daemon runs.
      hostDevices: needsHostDevices(config, { privilegedWithoutHostDevices })
        ? await ctx.pools.shim.call('hostDevices', { hostPath: '/dev', containerPath: '/dev' })
        : undefined,
      cdi: host?.cdi,
      seccomp: host?.seccomp,
      appArmorProfiles: profile === undefined ? undefined : await readAppArmorProfiles(),
      openFiles: ctx.openFiles,
      runtime: {
        podAnnotations: runtime.pod_annotations,
        containerAnnotations: runtime.container_annotations,
        privilegedWithoutHostDevices,
        features: featuresOf(sandbox, ctx),
      },
      host: ctx.host,
    }),
  );
}

function podFiles(sandbox: SandboxRow) {
  const file = (name: string) => join(sandbox.rootDir, name);
  const hostIpc = podNamespaceOptions(sandbox.config)?.ipc === NamespaceMode.NODE;
  return {
    hostname: file('hostname'),
    hosts: file('hosts'),
    resolvConf: file('resolv.conf'),
    shm: hostIpc ? '/dev/shm' : join(sandbox.stateDir, 'shm'),
  };
}

/** The first process of the container whose pid namespace is wanted, when that one runs in the same pod. */
function targetPid(row: ContainerRow, ctx: JobContext): number | undefined {
  const options = row.config.linux?.securityContext?.namespaceOptions;
  if (options?.pid !== NamespaceMode.TARGET) return undefined;
  const target = ctx.store.containers.find(options.targetId);
  return target?.sandbox === row.sandbox && target.state === 'running' ? target.pid : undefined;
}
