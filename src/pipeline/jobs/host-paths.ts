import type { ContainerConfig, LinuxContainerSecurityContext } from '../../../proto/gen/cri.ts';
import { codeOf, SluiceError } from '../../errors.ts';
import { type CdiEdits, cdiDeviceNames, cdiEdits } from '../../node/oci/cdi.ts';
import type { GrantedDevice } from '../../node/oci/devices.ts';
import { readCdiRegistry, resolveCdiEdits } from '../../node/oci/read-cdi.ts';
import { readSeccomp } from '../../node/oci/read-seccomp.ts';
import { seccompFile } from '../../node/oci/seccomp.ts';
import type { Seccomp } from '../../node/oci/types.ts';
import type { ResolvedHostPaths } from '../../workers/host-paths.ts';
import type { JobContext } from './context.ts';

/** What was found on the host at the paths that a container's request names. */
export interface HostLookups {
  paths: ResolvedHostPaths;
  devices: GrantedDevice[];
  cdi: CdiEdits | undefined;
  seccomp: Seccomp | undefined;
}

/** What looking at host paths uses of the node. */
type LookupContext = Pick<JobContext, 'pools' | 'config'>;

const hostPathsOf = ({ mounts }: ContainerConfig): string[] =>
  mounts.filter(({ image }) => !image).map(({ hostPath }) => hostPath);

/** Whether the request names any path of the host. */
export function namesHostPaths(config: ContainerConfig): boolean {
  const { seccomp, seccompProfilePath = '', privileged = false } = config.linux?.securityContext ?? {};
  return (
    hostPathsOf(config).length + config.devices.length + cdiDeviceNames(config).length > 0 ||
    seccompFile(seccomp, seccompProfilePath, privileged) !== undefined
  );
}

/**
 * Looks at all of them, in a worker. Throws INVALID_REQUEST, DISK_FULL, and TIMED_OUT for a path on a mount that hangs.
 */
export async function lookUpHostPaths(config: ContainerConfig, ctx: LookupContext): Promise<HostLookups> {
  const { shim } = ctx.pools;
  const paths = hostPathsOf(config);
  const cdi = cdiDeviceNames(config);
  return {
    paths:
      paths.length === 0
        ? { real: {}, mounts: [] }
        : await shim.call('resolveHostPaths', { paths, refuse: ctx.config.refuse_missing_host_paths }),
    devices: await grantedDevices(config, ctx),
    cdi: cdi.length === 0 ? undefined : await resolveCdi(cdi, ctx),
    seccomp: await localhostSeccomp(config.linux?.securityContext, ctx),
  };
}

/**
 * The parsed Localhost profile of a request; undefined when it has none. Throws INVALID_REQUEST, and TIMED_OUT for a
 * mount that hangs.
 */
export function localhostSeccomp(
  context: Pick<LinuxContainerSecurityContext, 'seccomp' | 'seccompProfilePath' | 'privileged'> | undefined,
  { pools }: Pick<JobContext, 'pools'>,
): Promise<Seccomp | undefined> {
  const { seccomp, seccompProfilePath = '', privileged = false } = context ?? {};
  return readSeccomp(seccomp, seccompProfilePath, privileged, (path, maxBytes) =>
    pools.shim.call('hostFile', { path, maxBytes }),
  );
}

async function resolveCdi(names: readonly string[], { pools }: LookupContext): Promise<CdiEdits> {
  const registry = await readCdiRegistry((path, names, maxBytes) =>
    pools.shim.call('hostFolder', { path, names: names.source, maxBytes }),
  );
  return resolveCdiEdits(cdiEdits(registry, names), (hostPath, containerPath) =>
    pools.shim.call('hostDevices', { hostPath, containerPath }),
  );
}

async function grantedDevices({ devices }: ContainerConfig, { pools }: LookupContext): Promise<GrantedDevice[]> {
  const granted: GrantedDevice[] = [];
  for (const { hostPath, containerPath, permissions } of devices) {
    let found: Omit<GrantedDevice, 'permissions'>[];
    try {
      found = await pools.shim.call('hostDevices', { hostPath, containerPath });
    } catch (cause) {
      const code = codeOf(cause) === 'TIMED_OUT' ? 'TIMED_OUT' : 'INVALID_REQUEST';
      throw new SluiceError(code, `devices: "${hostPath}" cannot be used`, { cause });
    }
    if (found.length === 0) throw new SluiceError('INVALID_REQUEST', `devices: "${hostPath}" is not a device`);
    granted.push(...found.map((device) => ({ ...device, permissions })));
  }
  return granted;
}
