import { type IDMapping, NamespaceMode, type NamespaceOption, type UserNamespace } from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import type { IdMapping } from './types.ts';

/** Id mappings of a pod's own user namespace. */
interface UserNamespaceMappings {
  uids: IdMapping[];
  gids: IdMapping[];
}

const IDS = 2 ** 32;

/**
 * The mappings of the options; undefined means the host's user namespace. Throws INVALID_REQUEST for modes other than
 * POD and NODE, for mappings with mode NODE, and, with mode POD, unless there is exactly one mapping of uids and one of
 * gids, each of which maps id 0.
 */
export function userNamespace(options: NamespaceOption | undefined): UserNamespaceMappings | undefined {
  const userns = options?.usernsOptions;
  if (userns === undefined) return undefined; // sent by a kubelet without support for user namespaces
  switch (userns.mode) {
    case NamespaceMode.NODE:
      if (userns.uids.length + userns.gids.length > 0) {
        throw refused('mode NODE takes no mappings');
      }
      return undefined;
    case NamespaceMode.POD:
      return { uids: [onlyMapping(userns.uids, 'uids')], gids: [onlyMapping(userns.gids, 'gids')] };
    default:
      throw refused(`mode ${modeName(userns.mode)} is not supported, only POD and NODE`);
  }
}

/** Throws INVALID_REQUEST when the user namespace options of a container differ from those of its pod. */
export function sameUserNamespace(pod: NamespaceOption | undefined, container: NamespaceOption | undefined): void {
  const a = JSON.stringify(userNamespace(pod));
  const b = JSON.stringify(userNamespace(container));
  if (a !== b) {
    throw refused(`the container's (${b ?? 'the host'}) differs from the pod's (${a ?? 'the host'})`);
  }
}

/** Whether a group id is mapped in the pod's user namespace; always true in the host's. */
export function gidMapped(userns: UserNamespaceMappings | undefined, gid: number): boolean {
  return userns?.gids.some(({ containerID, size }) => gid >= containerID && gid < containerID + size) ?? true;
}

/** CRI's id mappings in the form of the spec. */
export function idMappings(mappings: readonly IDMapping[]): IdMapping[] {
  return mappings.map(({ containerId, hostId, length }) => ({
    containerID: containerId,
    hostID: hostId,
    size: length,
  }));
}

function onlyMapping(mappings: UserNamespace['uids'], field: string): IdMapping {
  const [mapping, ...more] = idMappings(mappings);
  if (mapping === undefined || more.length > 0) {
    throw refused(`${field}: exactly one mapping is supported, got ${mappings.length}`);
  }
  if (mapping.containerID !== 0) throw refused(`${field}: id 0 of the container is not mapped`);
  if (mapping.size === 0 || mapping.hostID + mapping.size > IDS)
    throw refused(`${field}: the range of ids is empty or exceeds 2^32`);
  return mapping;
}

function refused(what: string): SluiceError {
  return new SluiceError('INVALID_REQUEST', `linux.security_context.namespace_options.userns_options: ${what}`);
}

/** Name of a namespace mode in CRI's enum, for error texts. */
export function modeName(mode: number): string {
  return Object.entries(NamespaceMode).find(([, value]) => value === mode)?.[0] ?? String(mode);
}
