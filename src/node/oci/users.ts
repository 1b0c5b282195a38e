import {
  type LinuxContainerSecurityContext,
  type LinuxSandboxSecurityContext,
  SupplementalGroupsPolicy as Policy,
} from '../../../proto/gen/cri.ts';
import { SluiceError } from '../../errors.ts';
import { MAX_ID, numericId, type UserRequest } from '../../workers/image/users.ts';

/**
 * The user of a container: that of the request, else `imageUser` (USER of the image).
 * Throws INVALID_REQUEST for a group without a user (the group would be ignored), for ids out of range and for an
 * unknown policy.
 */
export function containerUser(context: LinuxContainerSecurityContext | undefined, imageUser: string): UserRequest {
  const policy = context?.supplementalGroupsPolicy ?? Policy.Merge;
  if (policy !== Policy.Merge && policy !== Policy.Strict) {
    throw new SluiceError(
      'INVALID_REQUEST',
      `linux.security_context.supplemental_groups_policy: unknown value ${policy}`,
    );
  }
  return {
    user: userString(context?.runAsUsername ?? '', context?.runAsUser?.value, context?.runAsGroup?.value) || imageUser,
    supplementalGroups: groupIds(context?.supplementalGroups ?? []),
    mergeImageGroups: policy === Policy.Merge,
  };
}

/** The user of a pause container, which gets no groups from its image. Throws as {@link containerUser} does. */
export function sandboxUser(context: LinuxSandboxSecurityContext | undefined, imageUser: string): UserRequest {
  return {
    user: userString('', context?.runAsUser?.value, context?.runAsGroup?.value) || imageUser,
    supplementalGroups: groupIds(context?.supplementalGroups ?? []),
    mergeImageGroups: false,
  };
}

function userString(username: string, uid: bigint | undefined, gid: bigint | undefined): string {
  if (uid !== undefined) checkId(uid, 'run_as_user');
  if (gid !== undefined) checkId(gid, 'run_as_group');
  const user = username || (uid === undefined ? '' : String(uid));
  if (gid === undefined) return user;
  // critest requires the error and looks for this text.
  if (user === '') throw new SluiceError('INVALID_REQUEST', `user group "${gid}" is specified without user`);
  return `${user}:${gid}`;
}

function groupIds(ids: readonly bigint[]): number[] {
  return ids.map((id) => checkId(id, 'supplemental_groups'));
}

function checkId(id: bigint, field: string): number {
  if (id < 0n || id > BigInt(MAX_ID)) {
    throw new SluiceError('INVALID_REQUEST', `linux.security_context.${field}: ${id} is not a valid user or group id`);
  }
  return Number(id);
}

/**
 * Whether the image's /etc/passwd and /etc/group have to be read (Images.lookUpUser): not for "uid:gid" without the
 * image's groups.
 */
export function needsUserFiles({ user, mergeImageGroups }: UserRequest): boolean {
  if (mergeImageGroups) return true;
  const [name = '', group] = user.split(':', 2);
  if (name === '' && group === undefined) return false;
  return numericId(name) === undefined || group === undefined || numericId(group) === undefined;
}
