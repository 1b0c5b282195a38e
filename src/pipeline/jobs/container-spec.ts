import { readFile, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { type ContainerConfig, NamespaceMode } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { ImageRow } from '../../node/images/rows.ts';
import { appArmorProfileToFind } from '../../node/oci/apparmor.ts';
import { cdiDeviceNames, cdiEdits } from '../../node/oci/cdi.ts';
import { buildContainerSpec } from '../../node/oci/container.ts';
import type { GrantedDevice } from '../../node/oci/devices.ts';
import { encodeSpec } from '../../node/oci/encode.ts';
import { needsMountTable } from '../../node/oci/mounts.ts';
import { podNamespaceOptions } from '../../node/oci/namespaces.ts';
import { readCdiRegistry, resolveCdiEdits } from '../../node/oci/read-cdi.ts';
import { readDevices } from '../../node/oci/read-devices.ts';
import { readAppArmorProfiles } from '../../node/oci/read-host.ts';
import { readSeccomp } from '../../node/oci/read-seccomp.ts';
import type { User } from '../../node/oci/types.ts';
import type { ContainerRow } from '../../node/store/container.ts';
import type { SandboxRow } from '../../node/store/sandbox.ts';
import { parseMountinfo } from '../../sys/mountinfo.ts';
import { featuresOf, type JobContext, runtimeOf } from './context.ts';

/** What the stages before it have found out. */
export interface ContainerSpecParts {
  row: ContainerRow;
  sandbox: SandboxRow;
  image: ImageRow;
  user: User;
  imageVolumes: Record<string, string> | undefined;
}

/** Reads from the host what the container's spec depends on, and builds it; the rules themselves are in src/node/oci. */
export async function containerSpec(
  { row, sandbox, image, user, imageVolumes }: ContainerSpecParts,
  ctx: JobContext,
): Promise<string> {
  const { config } = row;
  const context = config.linux?.securityContext;
  const runtime = runtimeOf(sandbox, ctx);
  const cdi = cdiDeviceNames(config);
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
        netns: sandbox.netns,
        userns: sandbox.userns,
        files: podFiles(sandbox),
      },
      targetPid: targetPid(row, ctx),
      volumes: row.volumes,
      imageVolumes,
      realPaths: await realPaths(config),
      mountTable: needsMountTable(config) ? parseMountinfo(await readFile('/proc/self/mountinfo', 'utf8')) : undefined,
      devices: await devicesOf(config),
      cdi: cdi.length > 0 ? await resolveCdiEdits(cdiEdits(await readCdiRegistry(), cdi)) : undefined,
      seccomp: await readSeccomp(context?.seccomp, context?.seccompProfilePath ?? '', context?.privileged ?? false),
      appArmorProfiles: profile === undefined ? undefined : await readAppArmorProfiles(),
      openFiles: ctx.openFiles,
      runtime: {
        podAnnotations: runtime.pod_annotations,
        containerAnnotations: runtime.container_annotations,
        privilegedWithoutHostDevices: runtime.privileged_without_host_devices,
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

/**
 * Where host paths really lead. CRI (Mount.host_path): a path that does not exist is an error, and the real destination of a
 * symbolic link is what is mounted.
 */
async function realPaths(config: ContainerConfig): Promise<Record<string, string>> {
  const real: Record<string, string> = {};
  for (const { hostPath, image } of config.mounts) {
    if (image) continue;
    try {
      real[hostPath] = await realpath(hostPath);
    } catch (cause) {
      throw new SluiceError('INVALID_REQUEST', `mounts: the host path "${hostPath}" cannot be mounted`, { cause });
    }
  }
  return real;
}

async function devicesOf(config: ContainerConfig): Promise<GrantedDevice[]> {
  const granted: GrantedDevice[] = [];
  for (const { hostPath, containerPath, permissions } of config.devices) {
    let found: Awaited<ReturnType<typeof readDevices>>;
    try {
      found = await readDevices(hostPath, containerPath);
    } catch (cause) {
      throw new SluiceError('INVALID_REQUEST', `devices: "${hostPath}" cannot be used`, { cause });
    }
    if (found.length === 0) throw new SluiceError('INVALID_REQUEST', `devices: "${hostPath}" is no device`);
    granted.push(...found.map((device) => ({ ...device, permissions })));
  }
  return granted;
}
