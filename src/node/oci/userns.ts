import { type IDMapping, NamespaceMode, type NamespaceOption, type UserNamespace } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { IdMapping } from './types.ts';

/** Mappings of a pod's own user namespace. */
export interface UserNamespaceMappings {
  uids: IdMapping[];
  gids: IdMapping[];
}

const IDS = 2 ** 32;

/**
 * The mappings that the options ask for; undefined is the host's user namespace. Throws INVALID_REQUEST for modes other than POD and
 * NODE, and for mappings that could not start a container: exactly one for uids and one for gids, each with id 0 inside.
 */
export function userNamespace(options: NamespaceOption | undefined): UserNamespaceMappings | undefined {
  const userns = options?.usernsOptions;
  if (userns === undefined) return undefined; // a kubelet that knows no user namespaces
  switch (userns.mode) {
    case NamespaceMode.NODE:
      if (userns.uids.length + userns.gids.length > 0) {
        throw refused('mode NODE takes no mappings');
      }
      return undefined;
    case NamespaceMode.POD:
      return { uids: [theMapping(userns.uids, 'uids')], gids: [theMapping(userns.gids, 'gids')] };
    default:
      throw refused(`mode ${modeName(userns.mode)} is not supported, only POD and NODE`);
  }
}

/** Throws INVALID_REQUEST unless a container asks for the user namespace that its pod has. */
export function sameUserNamespace(pod: NamespaceOption | undefined, container: NamespaceOption | undefined): void {
  const a = JSON.stringify(userNamespace(pod));
  const b = JSON.stringify(userNamespace(container));
  if (a !== b) {
    throw refused(`the container's (${b ?? 'the host'}) differs from the pod's (${a ?? 'the host'})`);
  }
}

/** Does the group exist in the pod's user namespace (the host's when there is none)? */
export function gidMapped(userns: UserNamespaceMappings | undefined, gid: number): boolean {
  return userns?.gids.some(({ containerID, size }) => gid >= containerID && gid < containerID + size) ?? true;
}

export function idMappings(mappings: readonly IDMapping[]): IdMapping[] {
  return mappings.map(({ containerId, hostId, length }) => ({
    containerID: containerId,
    hostID: hostId,
    size: length,
  }));
}

function theMapping(mappings: UserNamespace['uids'], field: string): IdMapping {
  const [mapping, ...more] = idMappings(mappings);
  if (mapping === undefined || more.length > 0) {
    throw refused(`${field}: exactly one mapping is supported, got ${mappings.length}`);
  }
  if (mapping.containerID !== 0) throw refused(`${field}: id 0 of the container is not mapped`);
  if (mapping.size === 0 || mapping.hostID + mapping.size > IDS) throw refused(`${field}: no valid range of ids`);
  return mapping;
}

function refused(what: string): SluiceError {
  return new SluiceError('INVALID_REQUEST', `linux.security_context.namespace_options.userns_options: ${what}`);
}

/** The proto's name of a namespace mode, for messages. */
export function modeName(mode: number): string {
  return Object.entries(NamespaceMode).find(([, value]) => value === mode)?.[0] ?? String(mode);
}
